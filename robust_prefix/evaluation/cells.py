"""One example under one system and protocol: what its one record, or its several, come to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from robust_prefix.evaluation.records import ROLES, Outcome, Record, Role


@dataclass(frozen=True)
class Cell:
    """One example under one system: one record, or for ``worst`` that of each protocol."""

    records: tuple[Record, ...]

    @property
    def outcome(self) -> Outcome:
        """Fooled once is fooled; an error is no success of the defence; held is never fooled."""
        found = {record.outcome for record in self.records}
        order: tuple[Outcome, ...] = ("succeeded", "error", "skipped", "failed")
        return next(outcome for outcome in order if outcome in found)

    @property
    def held(self) -> bool:
        """Right before the attack and still right after it, whenever it was asked."""
        return all(record.held for record in self.records)

    @property
    def clean(self) -> bool:
        """Whether the original is classified right."""
        return all(record.prediction_original == record.label for record in self.records)

    @property
    def abstained(self) -> bool:
        """Whether the system refused to answer the original."""
        return any(record.abstained_original for record in self.records)

    @property
    def queries(self) -> int:
        """The attack's own count."""
        return sum(record.queries for record in self.records)


Cells = Mapping[int, Cell]
"""By example."""

Protocols = Mapping[str, Cells]
"""The cells of one system by protocol, ``worst`` included where there are several."""


def group(records: Iterable[Record]) -> dict[tuple[Role, str], Protocols]:
    """The cells of each system, given as role and spec: undefended, defences, controls."""
    found: dict[tuple[Role, str], dict[str, dict[int, Cell]]] = {}
    for record in records:
        protocols = found.setdefault((record.role, record.defense), {})
        protocols.setdefault(record.protocol, {})[record.example] = Cell((record,))
    for protocols in found.values():
        if len(protocols) > 1:
            first, *others = rows = list(protocols.values())
            protocols["worst"] = {
                example: Cell(tuple(record for row in rows for record in row[example].records))
                for example in first
                if all(example in row for row in others)
            }
    ordered = sorted(found, key=lambda system: (ROLES.index(system[0]), system[1]))
    return {system: found[system] for system in ordered}


def held_on_shared(cells: Cells, others: Cells) -> tuple[list[bool], list[bool]]:
    """Which examples each held, of those that both have, in one order."""
    shared = [example for example in cells if example in others]
    return [cells[e].held for e in shared], [others[e].held for e in shared]


def held_against(cells: Cells, rivals: Sequence[Cells]) -> list[int]:
    """How much oftener an example was held than by the mean of ``rivals``, times their number.

    Whole numbers, for the examples that all have, in one order.
    """
    shared = [example for example in cells if all(example in rival for rival in rivals)]
    return [
        len(rivals) * cells[example].held - sum(rival[example].held for rival in rivals)
        for example in shared
    ]
