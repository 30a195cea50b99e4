"""A run in the terminal: its table, its flags in words, an adversary with its changed words."""

from __future__ import annotations

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from robust_prefix.evaluation.diff import Segment, word_diff
from robust_prefix.evaluation.flags import SIGNIFICANCE
from robust_prefix.evaluation.reading import (
    flag_notes,
    interval,
    passes,
    percent,
    queries,
    read,
    verdict,
)
from robust_prefix.evaluation.records import Record
from robust_prefix.evaluation.statistics import Estimate
from robust_prefix.evaluation.summary import Summary, SummaryRow, short_name
from robust_prefix.evaluation.visible import escape_hidden

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
            table.add_row(*_cells(row, summary.role("control", protocol)))
        table.add_row()
    parts: list[RenderableType] = [title, Text(), table]
    if verdict(summary):
        parts += [Text(verdict(summary), style="bold"), Text()]
    parts += [_item(Text(sentence)) for sentence in read(summary)]
    notes = flag_notes(summary)
    if notes:
        parts += [Text(), Text("Beware", style="bold yellow")]
    for note in notes:
        about = f" [{'; '.join(note.about)}]" if note.about else ""
        meaning = f"\n{note.meaning}" if note.meaning else ""
        parts.append(_item(Text.assemble((note.flag, "yellow"), about, (meaning, "dim"))))
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
        table.add_row(_said(labels, record.prediction_original), left)
        if record.adversarial is not None:
            table.add_row(_said(labels, record.prediction_adversarial), right)
    return table


def _cells(row: SummaryRow, control: SummaryRow | None) -> list[Text]:
    name = Text("  ")
    name.append("control: " if row.role == "control" else "", style="dim")
    name.append(row.name, style="bold" if row.role == "defense" else "")
    robust = row.robust_accuracy
    return [
        name,
        Text(percent(row.clean_accuracy.value)),
        Text(percent(robust.value), style=_style(row, control)),
        Text(interval(robust), style="dim"),
        Text(percent(row.attack_success_rate.value)),
        Text(queries(row)),
        Text(passes(row)),
    ]


def _item(words: Text) -> RenderableType:
    item = Table.grid(padding=(0, 1))
    item.add_row(Text("-"), words)
    return Padding(item, (0, 0, 0, 1))


def _style(row: SummaryRow, control: SummaryRow | None) -> str:
    if row.dynamic and row.protocol == "replay":
        return "dim"  # no evidence, so no colour that praises or blames
    if row.role != "defense" or control is None or row.p_value_control is None:
        return "bold" if row.role == "defense" else ""
    if row.p_value_control > SIGNIFICANCE:
        return "bold yellow"
    return (
        "bold green"
        if _value(row.robust_accuracy) > _value(control.robust_accuracy)
        else "bold red"
    )


def _value(estimate: Estimate) -> float:
    return estimate.value or 0.0


def _said(labels: tuple[str, ...], prediction: int | None) -> Text:
    return Text("-" if prediction is None else labels[prediction], style="dim")


def _marked(segments: list[Segment], style: str) -> Text:
    text = Text()
    for segment in segments:
        text.append(escape_hidden(segment.text), style=style if segment.changed else "")
    return text
