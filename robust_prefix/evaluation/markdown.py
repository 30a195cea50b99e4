"""The summary as Markdown, to be pasted into an issue or a paper's appendix."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from robust_prefix.evaluation.compare import ComparedRow, Comparison
from robust_prefix.evaluation.formats import (
    factor,
    interval,
    mean,
    passes,
    percent,
    points,
    queries,
    value,
)
from robust_prefix.evaluation.matrix import Entry, Matrix, build_matrix
from robust_prefix.evaluation.names import distinct_names, short_name
from robust_prefix.evaluation.reading import (
    FlagNote,
    flag_notes,
    read,
    shared_notes,
    verdict,
)
from robust_prefix.evaluation.summary import Summary, SummaryRow
from robust_prefix.evaluation.threat import threat_lines
from robust_prefix.evaluation.visible import escape_hidden

if TYPE_CHECKING:
    from robust_prefix.evaluation.results import Results

_SYSTEM = ("system", "clean", "robust", "95% interval", "attack success", "queries", "passes")
_MOST_FLIPS = 20
_COST = (
    "system",
    "model queries",
    "passes an attack",
    "words changed",
    "similarity",
    "perplexity a word",
    "a prediction",
)
# Whatever Markdown or HTML could take for its own. Underscores within words are left alone.
_SPECIAL = re.compile(r"[\\`*\[\]<>|&#~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def render_markdown(runs: Sequence[Results], missing: Mapping[str, str]) -> str:
    """The summary of ``runs``.

    Args:
        missing: by the name of a cell, why it has no records, or not all.
    """
    parts = ["# Attack report"]
    if len(runs) > 1:
        parts += _matrix(build_matrix(runs))
        notes = shared_notes(runs)
        parts += ["## Beware", "\n".join(map(_note, notes))] if notes else []
    if missing:
        parts.append("## Not run")
        parts.append("\n".join(f"- {escape(name)}: {escape(why)}" for name, why in missing.items()))
    for run in runs:
        parts += _cell(run.summary)
    return "\n\n".join(parts) + "\n"


def comparison_markdown(comparison: Comparison) -> str:
    """Two evaluations side by side."""
    names = distinct_names(row.defense for row in comparison.rows)
    rows = [
        (
            f"{row.task}, {comparison.cell_name(row)}",
            "undefended" if row.role == "undefended" else names[row.defense],
            row.protocol,
            f"{percent(row.first.value)} ({interval(row.first)})",
            f"{percent(row.second.value)} ({interval(row.second)})",
            points(row.difference),
            "-" if row.p_value is None else f"{row.p_value:.2g}",
            " / ".join(map(str, row.won_and_lost)) if row.won_and_lost else "-",
            str(row.shared),
        )
        for row in comparison.rows
    ]
    header = (
        "cell",
        "system",
        "protocol",
        "first",
        "second",
        "points",
        "p",
        "won / lost",
        "shared",
    )
    parts = ["# Two evaluations", _table(header, rows)]
    for row in comparison.rows:
        if row.flips:
            parts += _flips(row, names, comparison.cell_name(row))
    for side, left in (("first", comparison.only_first), ("second", comparison.only_second)):
        if left:
            parts.append(f"Only in the {side}:")
            parts.append("\n".join(f"- {escape(name)}" for name in left))
    return "\n\n".join(parts) + "\n"


def _flips(row: ComparedRow, names: Mapping[str, str], cell: str) -> Iterator[str]:
    system = "undefended" if row.role == "undefended" else names[row.defense]
    yield f"## {escape(cell)}, {escape(system)}, {row.protocol}"
    rows = [
        (
            str(flip.example),
            "first" if flip.held_first else "second",
            " / ".join(flip.original),
            " / ".join(flip.adversarial or ("-",)),
        )
        for flip in row.flips[:_MOST_FLIPS]
    ]
    yield _table(("example", "held in", "original", "what fooled the other"), rows)
    if len(row.flips) > _MOST_FLIPS:
        yield f"{len(row.flips) - _MOST_FLIPS} more are in comparison.json."


def escape(text: str) -> str:
    """``text`` so that it stands for itself, whatever characters it has."""
    return _SPECIAL.sub(lambda found: f"\\{found[0]}", escape_hidden(text))


def _matrix(matrix: Matrix) -> Iterator[str]:
    yield "Robust accuracy at the strictest protocol of each cell; in parentheses the control's."
    for group in matrix.groups:
        yield f"## {escape(group.label)}"
        rows = [
            (row.label, _robust(row.undefended), *map(_entry, row.entries)) for row in group.rows
        ]
        yield _table(("attack", "undefended", *matrix.defenses), rows)


def _entry(entry: Entry | None) -> str:
    if entry is None:
        return "-"
    control = f" ({_robust(entry.control)})" if entry.control else ""
    return f"{_robust(entry.row)}{control}"


def _robust(row: SummaryRow | None) -> str:
    return "-" if row is None else percent(row.robust_accuracy.value)


def _cell(summary: Summary) -> Iterator[str]:
    manifest = summary.manifest
    yield f"## {escape(short_name(manifest.attack))} on {escape(manifest.task)}"
    yield f"{escape(manifest.model)}, {manifest.n} texts, seed {manifest.seed}"
    if verdict(summary):
        yield f"**{escape(verdict(summary))}**"
    yield "\n".join(f"- {escape(sentence)}" for sentence in read(summary))
    for protocol in summary.protocols:
        yield f"### {protocol}"
        yield _table(_SYSTEM, [_system_cells(row) for row in summary.at(protocol)])
    yield "### Costs"
    rows = summary.at(summary.protocols[-1])
    yield _table(_COST, [_cost_cells(row) for row in rows])
    lines = [f"- {label}: {escape(words)}" for label, words in threat_lines(manifest)]
    yield "### Threat model"
    yield "\n".join(lines)
    notes = flag_notes(summary)
    if notes:
        yield "### Beware"
        yield "\n".join(map(_note, notes))


def _note(note: FlagNote) -> str:
    about = f" ({escape('; '.join(note.about))})" if note.about else ""
    meaning = f": {escape(note.meaning)}" if note.meaning else ""
    return f"- **{escape(note.flag)}**{about}{meaning}"


def _system_cells(row: SummaryRow) -> tuple[str, ...]:
    return (
        _name(row),
        percent(row.clean_accuracy.value),
        percent(row.robust_accuracy.value),
        interval(row.robust_accuracy),
        percent(row.attack_success_rate.value),
        queries(row),
        passes(row),
    )


def _cost_cells(row: SummaryRow) -> tuple[str, ...]:
    costs = row.costs
    return (
        _name(row),
        mean(costs.model_queries),
        mean(costs.attack_passes),
        percent(value(costs.quality.words_changed)),
        mean(costs.quality.similarity, 2),
        factor(value(costs.quality.perplexity_ratio)),
        factor(costs.prediction),
    )


def _name(row: SummaryRow) -> str:
    return f"control: {row.name}" if row.role == "control" else row.name


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *([escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
