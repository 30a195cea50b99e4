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

from robust_prefix.evaluation.cells import Cells, group, held_on_shared
from robust_prefix.evaluation.flags import SIGNIFICANCE
from robust_prefix.evaluation.names import short_name
from robust_prefix.evaluation.records import Role
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
    flag: str


@dataclass(frozen=True)
class _Column:
    """One cell of a matrix, as seen from here."""

    results: Results
    direct: dict[tuple[Role, str], Cells]

    @classmethod
    def of(cls, results: Results) -> _Column:
        systems = group(results.records).items()
        return cls(
            results,
            {name: protocols["direct"] for name, protocols in systems if "direct" in protocols},
        )

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

    Only direct attacks with one goal on the same examples are compared, and only where the lead
    is hardly chance (McNemar) and larger than on the undefended model by `MASKED_GAP`.

    Args:
        results: the cells of a matrix; those of different tasks, runs or seeds stay apart.
    """
    columns = [_Column.of(each) for each in results]
    found: dict[tuple[str, str], tuple[float, MatrixFlag]] = {}
    for misled, leader in itertools.permutations(columns, 2):
        if misled.comparable != leader.comparable or misled.sees <= leader.sees:
            continue
        shared = misled.direct.keys() & leader.direct.keys()
        usual = max(
            (_lead(misled, leader, name) for name in shared if name[0] == "undefended"), default=0.0
        )
        for name in sorted(shared):
            lead = _lead(misled, leader, name)
            if name[0] == "undefended" or lead - max(usual, 0.0) < MASKED_GAP:
                continue
            held = held_on_shared(misled.direct[name], leader.direct[name])
            if mcnemar(*held) > SIGNIFICANCE:
                continue
            what = "gradients" if misled.sees == len(KNOWLEDGE) - 1 else "scores"
            other = short_name(leader.results.manifest.attack)
            flag = f"masked {what}: {other} finds {100 * lead:.1f} points more"
            cell = misled.results.manifest.name
            key = (cell, name[1])
            if key not in found or lead > found[key][0]:
                found[key] = (lead, MatrixFlag(cell, name[1], flag))
    return [flag for _, flag in found.values()]


def _lead(misled: _Column, leader: _Column, system: tuple[Role, str]) -> float:
    """By what share of the examples that both attacked ``leader`` breaks more."""
    held, other_held = held_on_shared(misled.direct[system], leader.direct[system])
    return (sum(held) - sum(other_held)) / len(held) if held else 0.0
