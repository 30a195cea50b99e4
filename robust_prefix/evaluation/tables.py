"""Results in the terminal: tables, flags in words, adversaries with their changed words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from robust_prefix.evaluation.compare import ComparedRow, Comparison
from robust_prefix.evaluation.diff import Segment, word_diff
from robust_prefix.evaluation.flags import SIGNIFICANCE
from robust_prefix.evaluation.formats import (
    interval,
    passes,
    percent,
    points,
    queries,
)
from robust_prefix.evaluation.matrix import Entry, build_matrix
from robust_prefix.evaluation.names import distinct_names, short_name
from robust_prefix.evaluation.reading import (
    FlagNote,
    flag_notes,
    read,
    shared_notes,
    standing,
    verdict,
)
from robust_prefix.evaluation.records import Record
from robust_prefix.evaluation.summary import Summary, SummaryRow
from robust_prefix.evaluation.visible import escape_hidden

if TYPE_CHECKING:
    from robust_prefix.evaluation.results import Results

_OUTCOME_STYLES = {"succeeded": "red", "failed": "green", "skipped": "dim", "error": "magenta"}


def summary_table(summary: Summary) -> RenderableType:
    """The summary for ``rich``: a table, the result in words, and what to beware of.

    In colour where the console has it: green where a defence beats its control by more than
    chance, red where the control beats it, yellow where they cannot be told apart.
    """
    manifest = summary.manifest
    title = Text.assemble(
        (short_name(manifest.attack), "bold"),
        f" on {manifest.task}, {manifest.model}, {manifest.n} texts, seed {manifest.seed}",
    )
    # Narrow enough for the longest system's name on a terminal of 80 columns.
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=0)
    table.add_column("system", overflow="fold")
    for name in ("clean", "robust", "95%\ninterval", "attack\nsuccess", "queries", "passes"):
        table.add_column(name, justify="right", no_wrap=True, vertical="bottom")
    for protocol in summary.protocols:
        table.add_row(Text(protocol, style="bold"))
        for row in summary.at(protocol):
            table.add_row(*_cells(row, _style(summary, row)))
        table.add_row()
    parts: list[RenderableType] = [title, Text(), table]
    if verdict(summary):
        parts += [Text(verdict(summary), style="bold"), Text()]
    parts += [_item(Text(sentence)) for sentence in read(summary)]
    notes = flag_notes(summary)
    if notes:
        parts += [Text(), Text("Beware", style="bold yellow")]
    parts += map(_note, notes)
    return Group(*parts)


def print_summary(summary: Summary, console: Console | None = None) -> None:
    """Print ``summary_table``, to stderr unless a console is given."""
    (console or Console(stderr=True)).print(summary_table(summary))


def changed_text(original: str, adversarial: str) -> tuple[Text, Text]:
    """Both texts with the words that differ coloured and invisible characters spelt out."""
    before, after = word_diff(original, adversarial)
    return _marked(before, "red"), _marked(after, "bold green")


def record_panel(record: Record, labels: tuple[str, ...]) -> RenderableType:
    """One record: outcome, both texts and what the system said of each."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, min_width=max(map(len, _OUTCOME_STYLES)))
    table.add_column(overflow="fold")
    name = short_name(record.defense)
    table.add_row(
        Text(record.outcome, style=_OUTCOME_STYLES[record.outcome]),
        Text(f"{name}, {record.protocol}, example {record.example}", style="dim"),
    )
    changed = record.adversarial or record.original
    for before, after in zip(record.original, changed, strict=True):
        left, right = changed_text(before, after)
        table.add_row(_said(labels, record.prediction_original, record.abstained_original), left)
        if record.adversarial is not None:
            refused = record.abstained_adversarial
            table.add_row(_said(labels, record.prediction_adversarial, refused), right)
    return table


def examples_shown(run: Results, count: int) -> RenderableType:
    """At most ``count`` adversaries of a cell: what fooled the defence under test comes first."""

    def order(record: Record) -> tuple[bool, ...]:
        fooled = record.outcome == "succeeded"
        tested = record.defense == run.manifest.tested
        return (not fooled, not tested, record.protocol != "direct", record.role == "control")

    # sorted() is stable: the order of examples stays
    found = sorted((r for r in run.records if r.adversarial is not None), key=order)[:count]
    if not found:
        return Text("No adversary was found.", style="dim")
    return Group(*(Padding(record_panel(r, run.manifest.labels), (0, 0, 1, 0)) for r in found))


def matrix_table(runs: Sequence[Results], missing: Mapping[str, str]) -> RenderableType:
    """Several cells for ``rich``: robust accuracy by attack and defence, the control's beside it.

    Args:
        missing: by the name of a cell, why it has no records, or not all.
    """
    matrix = build_matrix(runs)
    parts: list[RenderableType] = []
    for group in matrix.groups:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
        table.add_column("attack", overflow="fold", vertical="middle")
        for name in ("undefended", *matrix.defenses):
            table.add_column(name, justify="right", overflow="fold", vertical="bottom")
        for row in group.rows:
            summary = runs[row.number - 1].summary
            undefended = row.undefended.robust_accuracy.value if row.undefended else None
            entries = [_entry(summary, entry) for entry in row.entries]
            table.add_row(Text(row.label), Text(percent(undefended)), *entries)
        parts += [Text(group.label, style="bold"), table, Text()]
    parts.append(
        Text(
            "Robust accuracy at the strictest protocol; in parentheses the control's.", style="dim"
        )
    )
    notes = shared_notes(runs)
    if notes:
        parts += [Text(), Text("Beware", style="bold yellow"), *map(_note, notes)]
    if missing:
        parts += [Text(), Text("Not run", style="bold yellow")]
        parts += [
            _item(Text.assemble((escape_hidden(cell), "yellow"), f"\n{escape_hidden(why)}"))
            for cell, why in missing.items()
        ]
    return Group(*parts)


def comparison_table(comparison: Comparison) -> RenderableType:
    """Two evaluations for ``rich``: green where the second holds more often by more than chance."""
    names = distinct_names(row.defense for row in comparison.rows)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    table.add_column("system", overflow="fold")
    for name in ("first", "second", "points", "p", "won", "lost", "of"):
        table.add_column(name, justify="right", no_wrap=True)
    cell = ""
    for row in comparison.rows:
        if cell != f"{comparison.cell_name(row)} on {row.task}":
            cell = f"{comparison.cell_name(row)} on {row.task}"
            table.add_row(Text(cell, style="bold"))
        shown = row.role == "undefended"
        system = "undefended" if shown else f"{names[row.defense]}, {row.protocol}"
        won, lost = map(str, row.won_and_lost or "--")
        table.add_row(
            Text(f"  {system}", style="dim" if row.role == "control" else ""),
            percent(row.first.value),
            percent(row.second.value),
            Text(points(row.difference), style=_change_style(row)),
            "-" if row.p_value is None else f"{row.p_value:.2g}",
            won,
            lost,
            str(row.shared),
        )
    legend = "points, won (held in the second alone), lost (in the first alone): of texts of both"
    parts: list[RenderableType] = [table, Text(), Text(legend, style="dim")]
    for side, left in (("first", comparison.only_first), ("second", comparison.only_second)):
        if left:
            parts += [Text(), Text(f"Only in the {side}", style="bold")]
            parts += [_item(Text(escape_hidden(name))) for name in left]
    return Group(*parts)


def _change_style(row: ComparedRow) -> str:
    if row.p_value is None or row.difference is None or row.p_value > SIGNIFICANCE:
        return ""
    return "bold green" if row.difference > 0 else "bold red"


def _entry(summary: Summary, entry: Entry | None) -> Text:
    if entry is None:
        return Text("-", style="dim")
    held = percent(entry.row.robust_accuracy.value)
    control = f" ({percent(entry.control.robust_accuracy.value)})" if entry.control else ""
    return Text.assemble((held, _style(summary, entry.row)), (control, "dim"))


def _cells(row: SummaryRow, style: str) -> list[Text]:
    name = Text("  ")
    name.append("control: " if row.role == "control" else "", style="dim")
    name.append(_stacked(row.name), style="bold" if row.role == "defense" else "")
    robust = row.robust_accuracy
    return [
        name,
        Text(percent(row.clean_accuracy.value)),
        Text(percent(robust.value), style=style),
        Text(interval(robust), style="dim"),
        Text(percent(row.attack_success_rate.value)),
        Text(queries(row)),
        Text(passes(row)),
    ]


_LONG = 24  # characters that fit beside the numbers on a terminal of 80 columns


def _stacked(name: str) -> str:
    """A composition that is too long for its column, a part in each line."""
    return name if len(name) <= _LONG else name.replace("+", "\n  +")


def _note(note: FlagNote) -> RenderableType:
    about = f" [{'; '.join(note.about)}]" if note.about else ""
    meaning = f"\n{note.meaning}" if note.meaning else ""
    return _item(Text.assemble((note.flag, "yellow"), about, (meaning, "dim")))


def _item(words: Text) -> RenderableType:
    item = Table.grid(padding=(0, 1))
    item.add_row(Text("-"), words)
    return Padding(item, (0, 0, 0, 1))


def _style(summary: Summary, row: SummaryRow) -> str:
    found = standing(summary, row)
    if found is None or (found.rival.role != "control" and found.result != "no evidence"):
        return "bold" if row.role == "defense" else ""
    # no evidence gets no colour that praises or blames
    colours = {"better": "bold green", "same": "bold yellow", "worse": "bold red"}
    return colours.get(found.result, "dim")


def _said(labels: tuple[str, ...], prediction: int | None, abstained: bool) -> Text:
    if prediction is None:
        return Text("refused" if abstained else "-", style="dim")
    return Text(labels[prediction], style="dim")


def _marked(segments: list[Segment], style: str) -> Text:
    text = Text()
    for segment in segments:
        text.append(escape_hidden(segment.text), style=style if segment.changed else "")
    return text
