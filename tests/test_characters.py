"""Characters in disguise are read as the letters that they stand for."""

from __future__ import annotations

import string
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacks.lookalikes import LOOKALIKES
from attacks.visual_neighbors import described_alike, marked
from robust_prefix.characters import as_compatible, as_latin


@pytest.mark.parametrize(
    ("characters", "expected"),
    [
        pytest.param("⒮⒜", "sa", id="parenthesised"),
        pytest.param("ⓐⓈ🄰🅰", "aSAA", id="circled and squared"),
        pytest.param("ᴋᴍʀɴ", "kmrn", id="small capitals"),
        pytest.param("ᴝᴎᴐɐɥʁ", "unoahr", id="turned, sideways, reversed"),
        pytest.param("ᵻŀᴃỽĿ", "ilbvL", id="with strokes and dots"),
        pytest.param("ẛẜẝſß", "sssss", id="long and sharp s"),
        pytest.param("ʰⁿₐᶦᴬᵊ", "hnaiAe", id="superscripts and subscripts"),
        pytest.param("æŒﬁǆ", "aeOEfidz", id="ligatures"),
        pytest.param("\uff41\uff35", "aU", id="full width"),
        pytest.param("\u0456\u0430\u03bf\u03c5\u2c9f", "iaouo", id="other scripts"),
        pytest.param("\u04b3\u0425\u04fd", "xXx", id="other scripts with hooks"),
        pytest.param("\u0406\u0399\u2160\u04c0\u04cf", "IIIIl", id="capital I, small l"),
        pytest.param("①𝟏⅛½", "111⁄81⁄2", id="digits stay digits"),  # noqa: RUF001
        pytest.param("©€–’日\u044f", "©€–’日\u044f", id="no letters in disguise"),  # noqa: RUF001
        pytest.param("e\u0301\u200b\u202e", "e", id="not seen"),
        pytest.param("\u00a8\u00b4\u00b8", "\u00a8\u00b4\u00b8", id="marks by themselves"),
        pytest.param("\u00a0\u2003", "  ", id="spaces"),
    ],
)
def test_what_a_reader_takes_it_for(characters: str, expected: str) -> None:
    assert "".join(as_latin(one) for one in characters) == expected


@pytest.mark.parametrize("space", [described_alike, marked])
@pytest.mark.parametrize("letter", string.ascii_letters)
def test_neighbours_of_a_letter_read_back(space, letter: str) -> None:
    for near in space(letter).characters:
        if " WITH SMALL LETTER " in unicodedata.name(near):
            assert letter in as_latin(near).upper()  # the digraph: one of its two letters
        else:
            assert as_latin(near) == letter, unicodedata.name(near)


def test_doubles_of_other_scripts_read_back() -> None:
    assert {letter: as_latin(double) for letter, double in LOOKALIKES.items()} == {
        letter: letter for letter in LOOKALIKES
    }


@given(st.characters())
def test_reading_twice_is_reading_once(character: str) -> None:
    for read in (as_latin, as_compatible):
        once = read(character)
        assert "".join(read(one) for one in once) == once


@given(st.characters(codec="ascii"))
def test_plain_characters_stay(character: str) -> None:
    assert as_latin(character) == as_compatible(character) == character
