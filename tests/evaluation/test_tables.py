"""The terminal: the same numbers, in colour where there is colour, hostile text defused."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path

import pytest
from evaluation_fakes import (
    DEFENSE,
    EXAMPLES,
    SwapAttack,
    manifest,
    open_store,
    record,
    systems,
)
from rich.console import Console, RenderableType

from robust_prefix.evaluation import (
    RecordStore,
    Results,
    Summary,
    changed_text,
    evaluate,
    print_summary,
    summarize,
    tables,
)
from robust_prefix.evaluation.compare import ComparedRow, Comparison, Flip
from robust_prefix.evaluation.statistics import Estimate
from robust_prefix.evaluation.tables import (
    comparison_table,
    examples_shown,
    matrix_table,
    record_panel,
)


@pytest.fixture
def summary(tmp_path: Path) -> Summary:
    with open_store(tmp_path) as store:
        evaluate(systems(), SwapAttack(), EXAMPLES, store, store.manifests[0])
        return summarize(store.records(), store.manifests[0])


def printed(summary: Summary, width: int = 100, **options: object) -> str:
    file = io.StringIO()
    print_summary(summary, Console(file=file, width=width, **options))  # type: ignore[arg-type]
    return file.getvalue()


def test_the_table_has_every_number(summary: Summary) -> None:
    lines = printed(summary).splitlines()
    thesaurus = [line.split() for line in lines if line.startswith("  thesaurus")]
    assert thesaurus == [
        ["thesaurus", "83.3%", "83.3%", "43.6", "to", "97.0", "0.0%", queries, "2.5", "+", "1.5"]
        for queries in ("-", "2", "2")
    ]
    control = [line for line in lines if line.startswith("  control: random-prefix")]
    assert len(control) == 3
    assert all("50.0%" in line for line in control)
    assert "thesaurus cannot be told apart from random noise of the same norm." in lines


@pytest.mark.parametrize(
    ("control", "what"),
    [
        ("normalize+word-scores(shuffled=1, ", "word scores"),
        ("synonyms(shuffled=1, ", "readings of words"),
        ("word-scores(shuffled=1)+synonyms(shuffled=1, ", "word scores and readings of words"),
    ],
)
def test_a_control_that_is_dealt_out_is_no_noise(summary: Summary, control: str, what: str) -> None:
    rows = tuple(
        dataclasses.replace(row, defense=row.defense.replace("random-prefix(", control))
        for row in summary.rows
    )
    told = " ".join(printed(dataclasses.replace(summary, rows=rows)).split())
    assert f"cannot be told apart from the same {what} dealt out at random." in told
    assert f"for the same {what} dealt out at random it is 50.0%, a difference" in told


def test_flags_are_said_in_words(summary: Summary) -> None:
    words = " ".join(printed(summary).split())
    assert "no better than its random control [thesaurus]" in words
    assert "something random of the same size gains too" in words
    assert "replay alone is no evidence [thesaurus: replay]" in words


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_no_line_is_wider_than_the_console(summary: Summary, width: int) -> None:
    assert max(map(len, printed(summary, width).splitlines())) <= width


def test_colour_only_where_there_is_colour(summary: Summary) -> None:
    assert "\x1b[" not in printed(summary)
    coloured = printed(summary, force_terminal=True, color_system="standard")
    # yellow at direct and worst: it cannot be told apart from the control; replay is no evidence
    assert len(re.findall(r"\x1b\[1;33m *83\.3%", coloured)) == 2


def test_a_terminal_without_unicode(summary: Summary) -> None:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii") as file:
        print_summary(summary, Console(file=file, width=100))
        file.flush()
        assert b"43.6 to 97.0" in raw.getvalue()


def test_changed_words_are_styled() -> None:
    before, after = changed_text("a fine film", "a okay film")
    assert (before.plain, after.plain) == ("a fine film", "a okay film")
    assert [(span.start, span.end) for span in before.spans] == [(2, 6)]
    assert [(span.start, span.end) for span in after.spans] == [(2, 6)]


def test_hostile_text_drives_no_terminal() -> None:
    one = record(original=("a [red]\x1b[31m film",), adversarial=("a \u202e[/red] \0film",))
    file = io.StringIO()
    Console(file=file, width=100).print(record_panel(one, ("negative", "positive")))
    shown = file.getvalue()
    assert "a [red]<U+001B>[31m film" in shown
    assert "a <U+202E>[/red] <U+0000>film" in shown
    assert "\x1b" not in shown


def shown(renderable: RenderableType, width: int = 80) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(renderable)
    return file.getvalue()


@pytest.fixture
def runs(tmp_path: Path) -> list[Results]:
    """One cell under two attacks' names."""
    cells = [manifest(), manifest(attack="pwws")]
    with RecordStore(tmp_path / "run.sqlite", cells) as store:
        for cell in cells:
            evaluate(systems(), SwapAttack(cell.attack), EXAMPLES, store, cell)
        return Results.read(store)


def test_a_matrix_has_a_row_an_attack(runs: list[Results]) -> None:
    text = shown(matrix_table(runs, {"reviews bae": "got none; \x1b[31m install it"}))
    rows = [line.split() for line in text.splitlines() if line.startswith(("swap", "pwws"))]
    assert rows == [[name, "33.3%", "83.3%", "(50.0%)"] for name in ("swap", "pwws")]
    assert text.count("small n: 6 examples") == 1  # told once for both
    assert "got none; <U+001B>[31m install it" in text
    assert max(map(len, text.splitlines())) <= 80


def test_examples_begin_with_what_fooled_the_defence() -> None:
    records = [
        record(example=1),
        record(example=2, outcome="failed"),
        record(example=3, defense=DEFENSE, role="defense", protocol="replay"),
        record(example=4, defense=DEFENSE, role="defense"),
        record(example=5, adversarial=None, outcome="failed"),
    ]
    found = manifest(n=5)
    run = Results(found, tuple(records), summarize(records, found))
    text = shown(examples_shown(run, 3))
    assert re.findall(r"example (\d)", text) == ["4", "3", "1"]
    assert re.findall(r"example (\d)", shown(examples_shown(run, 99))) == ["4", "3", "1", "2"]
    nothing = Results(found, (records[4],), run.summary)
    assert shown(examples_shown(nothing, 3)).strip() == "No adversary was found."


def test_a_comparison_colours_what_is_hardly_chance() -> None:
    def row(difference: float, p_value: float | None) -> ComparedRow:
        first, second = Estimate(0.5, 0.4, 0.6), Estimate(0.5 + difference, 0.0, 1.0)
        return ComparedRow(
            "reviews", "swap(words=all)", "defense", DEFENSE, "direct", (7, 7), ("lm", "lm"),
            ("p", "q"), first, second, 9, difference, p_value, (Flip(1, False, ("a",), ("b",)),),
        )  # fmt: skip

    rows = (row(0.2, 0.01), row(-0.2, 0.01), row(0.2, 0.2), row(0.2, None))
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, color_system="standard")
    console.print(comparison_table(Comparison(rows, ("pwws on <b>\x1b[1m",), ())))
    text = file.getvalue()
    assert re.findall(r"\x1b\[1;(3\d)m *([+-]\d+\.\d)", text) == [("32", "+20.0"), ("31", "-20.0")]
    assert "Only in the first" in text
    assert "pwws on <b><U+001B>[1m" in text


def test_a_long_composition_stands_in_lines_of_whole_parts() -> None:
    assert tables._stacked("normalize+synonyms") == "normalize+synonyms"
    stacked = tables._stacked("normalize+word-scores+synonyms")
    assert [line.strip() for line in stacked.splitlines()] == [
        "normalize",
        "+word-scores",
        "+synonyms",
    ]
