"""Showing texts: what was changed, and what hides."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robust_prefix.evaluation.diff import Segment, word_diff
from robust_prefix.evaluation.visible import Chunk, chunks, escape_hidden, scripts

ANY_TEXT = st.text(st.characters(exclude_categories=()))


def changed(segments: list[Segment]) -> list[str]:
    return [segment.text for segment in segments if segment.changed]


@pytest.mark.parametrize(
    ("original", "adversarial", "before", "after"),
    [
        pytest.param("a fine film", "a fine film", [], [], id="same"),
        pytest.param("a fine film", "a okay film", ["fine"], ["okay"], id="one"),
        pytest.param("a b c", "a x y c", ["b"], ["x", "y"], id="inserted"),
        pytest.param("so very dull", "so dull", ["very"], [], id="removed"),
        pytest.param("is funny .", "is f unny .", ["funny"], ["f", "unny"], id="split"),
        pytest.param("a b", "a  b", [], ["  "], id="spaces"),
        pytest.param("", "new", [], ["new"], id="from-nothing"),
        pytest.param("Fine", "fine", ["Fine"], ["fine"], id="case"),
        pytest.param("warm", "w\u0430rm", ["warm"], ["w\u0430rm"], id="homoglyph"),
    ],
)
def test_word_diff(original: str, adversarial: str, before: list[str], after: list[str]) -> None:
    left, right = word_diff(original, adversarial)
    assert (changed(left), changed(right)) == (before, after)


@settings(deadline=None)
@given(ANY_TEXT, ANY_TEXT)
def test_word_diff_loses_no_character(original: str, adversarial: str) -> None:
    left, right = word_diff(original, adversarial)
    assert "".join(segment.text for segment in left) == original
    assert "".join(segment.text for segment in right) == adversarial


@pytest.mark.parametrize(
    ("char", "code"),
    [
        ("\0", "U+0000"),
        ("\x1b", "U+001B"),
        ("\n", "U+000A"),
        ("\u00a0", "U+00A0"),
        ("\u00ad", "U+00AD"),
        ("\u200b", "U+200B"),
        ("\u202e", "U+202E"),
        ("\u2066", "U+2066"),
        ("\u2028", "U+2028"),
        ("\u2800", "U+2800"),
        ("\u3164", "U+3164"),
        ("\ufe0f", "U+FE0F"),
        ("\ufeff", "U+FEFF"),
        ("\ud800", "U+D800"),
        ("\ue000", "U+E000"),
        ("\U000e0041", "U+E0041"),
    ],
)
def test_hidden_characters_show_their_code(char: str, code: str) -> None:
    left, hidden, right = chunks(f"a{char}b")
    assert (left, right) == (Chunk("plain", "a"), Chunk("plain", "b"))
    assert (hidden.kind, hidden.text) == ("hidden", code)
    assert hidden.title.startswith(code)
    assert escape_hidden(f"a{char}b") == f"a<{code}>b"


@pytest.mark.parametrize(
    "text", ["a fine film", "caf\u00e9", "\u0444\u0438\u043b\u044c\u043c", "\u5f71\u7247", "<b>&"]
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert chunks(text, scripts(text)) == [Chunk("plain", text)]


def test_a_look_alike_is_singled_out() -> None:
    found = chunks("w\u0430rm", scripts("warm"))
    assert [chunk.kind for chunk in found] == ["plain", "foreign", "plain"]
    assert found[1] == Chunk("foreign", "\u0430", "U+0430 CYRILLIC SMALL LETTER A")


@settings(deadline=None)
@given(ANY_TEXT)
def test_nothing_hidden_is_left(text: str) -> None:
    shown = escape_hidden(text)
    assert escape_hidden(shown) == shown
    assert shown.isprintable()
    shown.encode("utf-8")
