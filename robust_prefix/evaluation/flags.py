"""What a reader has to know before believing a row; ``meanings`` explains each in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from robust_prefix.evaluation.cells import Cells, Protocols, held_on_shared
from robust_prefix.evaluation.probe_flags import SAME_ANSWER, probe_flags
from robust_prefix.evaluation.records import UNDEFENDED
from robust_prefix.evaluation.statistics import mcnemar

if TYPE_CHECKING:
    from robust_prefix.evaluation.records import Manifest
    from robust_prefix.evaluation.summary import SummaryRow

SMALL_N = 100
"""Below this an interval spans up to 20 points and is called small."""

REPLAY_GAP = 0.10
"""Replay better than direct by this much says that the defence only breaks the replay."""

SIGNIFICANCE = 0.05
"""A p-value above this is taken for chance."""

CLEAN_P_VALUE = 0.01
"""A defence on clean text better than the undefended model by more than this chance is looked at:
eight texts more and none less are enough."""

ERROR_SHARE = 0.05
"""With more crashes than this among the records the rest is no fair sample of the examples."""

IDLE_SHARE = 0.10
"""So many attacked texts about which nothing was asked lift the robust accuracy by as much."""

SPENT_SHARE = 0.10
"""So many held texts at which the attack was stopped may be a matter of the budget."""


def trust_flags(
    row: SummaryRow,
    members: Sequence[Protocols],
    manifest: Manifest,
    probes: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """Doubts about how a row came about.

    Args:
        row: the row, still without flags.
        members: all cells of its system; of a control, of each of its seeds.
        manifest: what the run is to be.
        probes: by defence, what the checks found, see ``checks.probe``.
    """
    flags = []
    done = row.succeeded + row.failed + row.skipped + row.errors
    wanted = manifest.n * max(1, len(manifest.controls.get(row.control_of or "", ())))
    if done < wanted:
        flags.append(f"incomplete: {done} of {wanted} examples")
    if row.n < SMALL_N:
        flags.append(f"small n: {_count(row.n, 'example', 'examples')}")
    if not row.is_evidence:
        flags.append("dynamic: optimises at inference; replay alone is no evidence")
    gap = _gap(members, "replay", "direct")
    if gap >= REPLAY_GAP:
        flags.append(f"replay better than direct by {100 * gap:.1f} points")
    hidden = _gap(members, "direct", "adaptive")
    if hidden >= REPLAY_GAP:
        flags.append(f"hides its scores: direct better than adaptive by {100 * hidden:.1f} points")
    asked = row.protocol in ("direct", "worst") and manifest.hides(row.defense, row.control_of)
    if asked and not all("adaptive" in each for each in members):
        flags.append("hides its scores, and was not attacked knowing them")
    if -gap >= REPLAY_GAP:
        flags.append(f"direct weaker than replay by {-100 * gap:.1f} points")
    if row.unverified:
        claims = _count(row.unverified, "adversary", "adversaries")
        flags.append(f"verification failed for {claims}")
    if row.errors:
        flags.append(_count(row.errors, "error", "errors"))
    if row.errors > ERROR_SHARE * done:
        flags.append(f"many crashed: {100 * row.errors / done:.1f}% of the records")
    flags.extend(_effort(row, members, manifest.settings.get("threat.max_queries")))
    if any(map(_answers_vary, members)):
        flags.append("randomized: one text got different answers")
    if row.role != "control":  # noise of our own, seeded by the text
        flags.extend(probe_flags(probes.get(row.defense), probes.get(UNDEFENDED)))
    substitutes = [
        name.removeprefix("resource.")
        for name, value in sorted(manifest.settings.items())
        if name.startswith("resource.") and str(value).startswith("substitute")
    ]
    if substitutes:
        flags.append(f"substitute for the attack's own {', '.join(substitutes)}")
    return flags


def control_flags(row: SummaryRow, gain: int) -> list[str]:
    """What the random control at the same protocol says about a defence.

    Args:
        row: the row, still without flags.
        gain: how many examples more than the control it holds, in units of its seeds.
    """
    if row.p_value_control is None:
        return ["no random control beside it"] if row.role == "defense" and row.dynamic else []
    if row.p_value_control > SIGNIFICANCE:
        return ["no better than its random control"]
    return ["worse than its random control"] if gain < 0 else []


def clean_flags(cells: Cells, undefended: Cells) -> list[str]:
    """Whether a defence is right on clean text where the model behind it is wrong.

    Reading a text in another way seldom does that; knowing its label does.

    Args:
        cells: of the defence, by example.
        undefended: of the undefended system.
    """
    shared = [example for example in cells if example in undefended]
    clean = [cells[example].clean for example in shared]
    others = [undefended[example].clean for example in shared]
    if sum(clean) > sum(others) and mcnemar(clean, others) < CLEAN_P_VALUE:
        return [f"better than undefended on clean text by {sum(clean) - sum(others)} examples"]
    return []


def _effort(row: SummaryRow, members: Sequence[Protocols], budget: object) -> list[str]:
    """Whether texts were held for want of trying.

    Args:
        row: which protocol is asked about.
        members: all cells of its system; of a control, of each of its seeds.
        budget: queries an example may cost, if that is limited.
    """
    attacked = [
        record
        for member in members
        for cell in member.get(row.protocol, {}).values()
        for record in cell.records
        if record.protocol != "replay" and record.attacked
    ]
    held = [record for record in attacked if record.held]
    flags = []
    # One query is that of the text as it is; an attack that never asks more, one trigger for all
    # texts say, has tried with it.
    idle = [record for record in held if record.queries <= 1]
    if len(idle) > IDLE_SHARE * len(attacked) and any(r.queries > 1 for r in attacked):
        flags.append(f"never tried on {len(idle)} of {len(attacked)} texts")
    spent = [record for record in held if isinstance(budget, int) and record.queries >= budget]
    if len(spent) > SPENT_SHARE * len(held):
        flags.append(f"query budget spent on {len(spent)} of {len(held)} held texts")
    return flags


def _gap(members: Sequence[Protocols], one: str, other: str) -> float:
    """Robust accuracy at a protocol minus that at another, on the examples that have both; the
    mean over members."""
    gaps = []
    for protocols in members:
        held, others = held_on_shared(protocols.get(one, {}), protocols.get(other, {}))
        gaps.append((sum(held) - sum(others)) / len(held) if held else 0.0)
    return sum(gaps) / len(gaps)


def _answers_vary(protocols: Protocols) -> bool:
    """Whether the same original got two different margins in its two rows."""
    for cell in protocols.get("worst", {}).values():
        margins = [r.margin_original for r in cell.records if r.margin_original is not None]
        if margins and max(margins) - min(margins) > SAME_ANSWER:
            return True
    return False


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
