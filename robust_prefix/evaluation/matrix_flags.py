"""What one attack beside another says: who sees less and finds more was not misled.

An attack that reads more of a system should do no worse than one that reads less. Where it does,
and does not on the undefended model, the defence has bent what the attack follows rather than
taken anything from it (Athalye et al. 2018, https://arxiv.org/abs/1802.00420; Carlini et al. 2019,
https://arxiv.org/abs/1902.06705).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from robust_prefix.evaluation.cells import Cells, Protocols, group, held_on_shared
from robust_prefix.evaluation.flags import SIGNIFICANCE
from robust_prefix.evaluation.names import short_name
from robust_prefix.evaluation.records import UNDEFENDED, Role
from robust_prefix.evaluation.statistics import mcnemar

if TYPE_CHECKING:
    from robust_prefix.evaluation.results import Results

FLOOR = "random-substitution"
"""The attack that is guided by nothing: it reads an answer only to know when to stop."""

KNOWLEDGE = ("none", "label", "score", "gradient")
"""From an attack that sees least to one that sees most."""

MASKED_GAP = 0.10
"""By so much more than on the undefended model the attack that sees less has to lead. Attacks
differ by some points in the words they know, whoever is attacked."""


@dataclass(frozen=True)
class MatrixFlag:
    """A doubt about one cell that another cell raises."""

    cell: str  # name of the manifest whose attack was misled
    defense: str
    protocol: str  # under which it was
    flag: str


@dataclass(frozen=True)
class _Column:
    """One cell of a matrix, as seen from here."""

    results: Results
    systems: dict[tuple[Role, str], Protocols]

    @classmethod
    def of(cls, results: Results) -> _Column:
        return cls(results, group(results.records))

    def at(self, system: tuple[Role, str], protocol: str) -> Cells | None:
        """Those of a system that was attacked itself; the direct ones where there are no others,
        for the undefended one is attacked directly alone, and so is what hides nothing from an
        attack."""
        found = self.systems.get(system, {})
        return found.get(protocol, found.get("direct"))

    @property
    def sees(self) -> int:
        """How much the attack sees: the floor least."""
        knowledge = str(self.results.manifest.settings.get("threat.knowledge", ""))
        if short_name(self.results.manifest.attack) == FLOOR:
            return -1
        return KNOWLEDGE.index(knowledge) if knowledge in KNOWLEDGE else 0

    @property
    def comparable(self) -> tuple[object, ...]:
        """What two cells must share for their attacks to be compared."""
        m = self.results.manifest
        return (m.task, m.model, m.prefix, m.seed, m.settings.get("goal"))


def matrix_flags(results: Sequence[Results]) -> list[MatrixFlag]:
    """Attacks outdone by one that sees less, each with the one that leads by most.

    Only attacks with one goal on the same examples are compared, each protocol by itself but for
    the replay, and only where the lead is hardly chance (McNemar) and larger than on the undefended
    model by `MASKED_GAP`.

    Args:
        results: the cells of a matrix; those of different tasks, runs or seeds stay apart.
    """
    columns = [_Column.of(each) for each in results]
    found: dict[tuple[str, str, str], tuple[float, MatrixFlag]] = {}
    for misled, leader in itertools.permutations(columns, 2):
        if misled.comparable != leader.comparable or misled.sees <= leader.sees:
            continue
        what = "gradients" if misled.sees == len(KNOWLEDGE) - 1 else "scores"
        other = short_name(leader.results.manifest.attack)
        usual = max(_lead(*_both(misled, leader, ("undefended", UNDEFENDED), "direct")), 0.0)
        for name in sorted(misled.systems):
            for protocol in (each for each in misled.systems[name] if each != "replay"):
                held = _both(misled, leader, name, protocol)
                lead = _lead(*held)
                if name[0] == "undefended" or lead - usual < MASKED_GAP:
                    continue
                if mcnemar(*held) > SIGNIFICANCE:
                    continue
                flag = f"masked {what}: {other} finds {100 * lead:.1f} points more"
                key = (misled.results.manifest.name, name[1], protocol)
                if key not in found or lead > found[key][0]:
                    found[key] = (lead, MatrixFlag(*key, flag))
    return [flag for _, flag in found.values()]


def _both(
    misled: _Column, leader: _Column, system: tuple[Role, str], protocol: str
) -> tuple[list[bool], list[bool]]:
    """What a system held of the examples that both attacked."""
    cells, others = misled.at(system, protocol), leader.at(system, protocol)
    return held_on_shared(cells or {}, others or {})


def _lead(held: Sequence[bool], other_held: Sequence[bool]) -> float:
    """By what share of the examples the second breaks more."""
    return (sum(held) - sum(other_held)) / len(held) if held else 0.0
