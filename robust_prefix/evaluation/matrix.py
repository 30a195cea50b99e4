"""Cells side by side: attacks by defences, each at the strictest protocol it was run under."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from robust_prefix.evaluation.names import distinct_names
from robust_prefix.evaluation.summary import SummaryRow

if TYPE_CHECKING:
    from robust_prefix.evaluation.results import Results


@dataclass(frozen=True)
class Entry:
    """A defence under an attack, and the control beside it."""

    row: SummaryRow
    control: SummaryRow | None


@dataclass(frozen=True)
class MatrixRow:
    """One cell.

    Attributes:
        number: its place among the results, from 1.
        label: its attack, with the seed where there are several.
        entries: one for each defence of the matrix; None where it was not run.
    """

    number: int
    label: str
    undefended: SummaryRow | None
    entries: tuple[Entry | None, ...]


@dataclass(frozen=True)
class MatrixGroup:
    """The cells of one task and one prefix."""

    label: str
    rows: tuple[MatrixRow, ...]


@dataclass(frozen=True)
class Matrix:
    """Every cell, and the defences that are its columns.

    Attributes:
        cells: a name for each of the results, in their order, no two alike.
        defenses: short names.
    """

    cells: tuple[str, ...]
    defenses: tuple[str, ...]
    groups: tuple[MatrixGroup, ...]


def build_matrix(runs: Sequence[Results]) -> Matrix:
    """The matrix of ``runs``, in their order."""
    manifests = [run.manifest for run in runs]
    specs = list(dict.fromkeys(spec for m in manifests for spec in m.defenses))
    attacks = distinct_names(m.attack for m in manifests)
    several_seeds = len({m.seed for m in manifests}) > 1
    prefixes = collections.Counter(
        (m.task, m.model) for m in {m.prefix: m for m in manifests}.values()
    )
    groups: dict[str, list[MatrixRow]] = {}
    for number, run in enumerate(runs, start=1):
        manifest, summary = run.manifest, run.summary
        found = {r.defense: r for r in summary.at(manifest.protocol) if r.role == "defense"}
        label = f"{manifest.task}, {manifest.model}"
        if prefixes[manifest.task, manifest.model] > 1:
            label += f", prefix {manifest.prefix}"
        seed = f", seed {manifest.seed}" if several_seeds else ""
        groups.setdefault(label, []).append(
            MatrixRow(
                number,
                attacks[manifest.attack] + seed,
                summary.role("undefended", manifest.protocol),
                tuple(
                    Entry(found[spec], summary.control(found[spec])) if spec in found else None
                    for spec in specs
                ),
            )
        )
    cells = {
        row.number: f"{row.label}, {label}" if len(groups) > 1 else row.label
        for label, rows in groups.items()
        for row in rows
    }
    return Matrix(
        tuple(cells[number] for number in sorted(cells)),
        tuple(distinct_names(specs).values()),
        tuple(MatrixGroup(label, tuple(rows)) for label, rows in groups.items()),
    )
