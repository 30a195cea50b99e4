"""Edits that say nothing change a text and no word of it; gutting changes its content alone."""

from __future__ import annotations

import random

import pytest

from robust_prefix.evaluation.edits import HARMLESS, gut

TEXT = 'the film\'s plot is dull , and "flat" .'


@pytest.mark.parametrize(
    ("name", "text", "edited"),
    [
        ("a trailing space", TEXT, f"{TEXT} "),
        (
            "spaces, case and punctuation",
            TEXT,
            "The  film\u2019s plot is dull , and \u201dflat\u201d",
        ),
        ("spaces, case and punctuation", "Fine film", "fine  film ."),
        ("spaces, case and punctuation", ".", "."),
        ("spaces, case and punctuation", "7", "7  ."),
        ("one word", TEXT, f"well , {TEXT}"),
        ("a phrase", "ok", "here is what i think of it : ok , and that is all i can say"),
    ],
)
def test_harmless_edits(name: str, text: str, edited: str) -> None:
    assert HARMLESS[name](text) == edited


@pytest.mark.parametrize("name", HARMLESS)
@pytest.mark.parametrize("text", ["a", "A fine film .", "\u00e9t\u00e9", "?!", " x "])
def test_a_harmless_edit_leaves_words(name: str, text: str) -> None:
    edited = HARMLESS[name](text)
    assert edited.strip()
    assert edited != text


def test_gutting_takes_content_and_leaves_the_rest() -> None:
    fields = ("this is a gorgeous , witty film and it is not dull",)
    donor = ("what a clumsy tired piece",)
    (gutted,) = gut(fields, donor, 1.0, random.Random(0))
    before, after = fields[0].split(), gutted.split()
    changed = {place for place, (a, b) in enumerate(zip(before, after, strict=True)) if a != b}
    assert [before[place] for place in sorted(changed)] == ["gorgeous", "witty", "film", "dull"]
    assert {after[place] for place in changed} == {"clumsy", "tired", "piece"}


@pytest.mark.parametrize(("share", "changed"), [(0.0, 1), (0.25, 1), (0.5, 2), (1.0, 4)])
def test_the_share_is_of_the_content_words(share: float, changed: int) -> None:
    fields = ("the gorgeous and the witty and the warm and the fine",)
    (gutted,) = gut(fields, ("dull clumsy tired flat",), share, random.Random(0))
    pairs = zip(fields[0].split(), gutted.split(), strict=True)
    assert sum(before != after for before, after in pairs) == changed


def test_each_column_takes_from_its_own() -> None:
    gutted = gut(("a dog runs", "a cat"), ("some horse", "no bird"), 1.0, random.Random(0))
    assert gutted == ("a horse horse", "a bird")


@pytest.mark.parametrize(
    ("text", "donor"), [("it is not", "a film"), ("a film", "it is not"), ("...", "a film")]
)
def test_where_there_is_no_content_nothing_changes(text: str, donor: str) -> None:
    assert gut((text,), (donor,), 1.0, random.Random(0)) == (text,)
