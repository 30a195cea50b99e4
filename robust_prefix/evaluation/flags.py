"""What a reader has to know before believing a row; ``reading`` explains each in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robust_prefix.evaluation.cells import Cells, Protocols, held_on_shared

if TYPE_CHECKING:
    from robust_prefix.evaluation.records import Manifest
    from robust_prefix.evaluation.summary import SummaryRow

SMALL_N = 100
"""Below this an interval spans up to 20 points and is called small."""

REPLAY_GAP = 0.10
"""Replay better than direct by this much says that the defence only breaks the replay."""

SIGNIFICANCE = 0.05
"""A p-value above this is taken for chance."""

_SAME_ANSWER = 1e-3  # in logits; two queries of one text on one machine differ by far less


def trust_flags(row: SummaryRow, protocols: Protocols, manifest: Manifest) -> list[str]:
    """Doubts about how a row came about.

    Args:
        row: the row, still without flags.
        protocols: all cells of its system.
        manifest: what the run is to be.
    """
    flags = []
    if row.n < manifest.n:
        flags.append(f"incomplete: {row.n} of {manifest.n} examples")
    if row.n < SMALL_N:
        flags.append(f"small n: {_count(row.n, 'example', 'examples')}")
    if row.dynamic and row.protocol == "replay":
        flags.append("dynamic: optimises at inference; replay alone is no evidence")
    gap = _replay_gap(protocols)
    if gap >= REPLAY_GAP:
        flags.append(f"replay better than direct by {100 * gap:.1f} points")
    if row.unverified:
        claims = _count(row.unverified, "adversary", "adversaries")
        flags.append(f"verification failed for {claims}")
    if row.errors:
        flags.append(_count(row.errors, "error", "errors"))
    if _answers_vary(protocols):
        flags.append("randomized: one text got different answers")
    substitutes = [
        name.removeprefix("resource.")
        for name, value in sorted(manifest.settings.items())
        if name.startswith("resource.") and str(value).startswith("substitute")
    ]
    if substitutes:
        flags.append(f"substitute for the attack's own {', '.join(substitutes)}")
    return flags


def control_flags(row: SummaryRow, cells: Cells, control: Cells) -> list[str]:
    """What the equal-norm control at the same protocol says about a defence."""
    if row.p_value_control is None:
        return ["no equal-norm control beside it"] if row.role == "defense" and row.dynamic else []
    if row.p_value_control > SIGNIFICANCE:
        return ["no better than the equal-norm control"]
    held, control_held = held_on_shared(cells, control)
    worse = sum(held) < sum(control_held)
    return ["worse than the equal-norm control"] if worse else []


def _replay_gap(protocols: Protocols) -> float:
    """Robust accuracy at replay minus that at direct, on the examples that have both."""
    replay, direct = held_on_shared(protocols.get("replay", {}), protocols.get("direct", {}))
    return (sum(replay) - sum(direct)) / len(replay) if replay else 0.0


def _answers_vary(protocols: Protocols) -> bool:
    """Whether the same original got two different margins in its two rows."""
    for cell in protocols.get("worst", {}).values():
        margins = [r.margin_original for r in cell.records if r.margin_original is not None]
        if margins and max(margins) - min(margins) > _SAME_ANSWER:
            return True
    return False


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
