"""The terminal: the same numbers, in colour where there is colour, hostile text defused."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from evaluation_fakes import EXAMPLES, SwapAttack, open_store, record, systems
from rich.console import Console

from robust_prefix.evaluation import Summary, changed_text, evaluate, print_summary, summarize
from robust_prefix.evaluation.tables import record_panel


@pytest.fixture
def summary(tmp_path: Path) -> Summary:
    with open_store(tmp_path) as store:
        evaluate(systems(), SwapAttack(), EXAMPLES, store, "worst", 7)
        return summarize(store.records(), store.manifest)


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


def test_flags_are_said_in_words(summary: Summary) -> None:
    words = " ".join(printed(summary).split())
    assert "no better than the equal-norm control [thesaurus]" in words
    assert "random noise of the same size gains too" in words
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
