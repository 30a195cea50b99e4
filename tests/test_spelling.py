"""What a misspelt word was meant to be, and what is no misspelling."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robust_prefix.defenses import Normalize
from robust_prefix.spelling import english

SPELLER = english(1)
COMMON = sorted(SPELLER._checker.words, key=SPELLER._checker.words.__getitem__)[-3000:]
WORDS = [word for word in COMMON if word.isalpha() and len(word) > 5]


def read(text: str) -> str:
    return Normalize().rewrite(text).text


@pytest.mark.parametrize(
    ("attacked", "expected"),
    [
        pytest.param(
            "an often deadly borng film", "an often deadly boring film", id="a lost letter"
        ),
        pytest.param("his alMleged fire", "his alleged fire", id="a capital put in"),
        pytest.param("she is unconRected", "she is unconnected", id="a capital in place"),
        pytest.param(
            "very hOard to like", "very hard to like", id="though the small letters are a word"
        ),
        pytest.param("is less Jubservient to", "is less subservient to", id="a first capital"),
        pytest.param("to have fun , Gwasabi is", "to have fun , wasabi is", id="one put in front"),
        pytest.param("cute and Iauseatingly so", "cute and nauseatingly so", id="a long word's"),
        pytest.param("it does R't , ca nt , wo n'", "it does n't , ca n't , wo n't", id="n't"),
        pytest.param("Did 'nt", "Did n't", id="two of its characters swapped"),
    ],
)
def test_what_was_meant(attacked: str, expected: str) -> None:
    assert read(attacked) == expected


@pytest.mark.parametrize(
    "text",
    [
        "from the theater , in color , with humor , a marvelous traveler",
        "goyer 's screenplay , by shyamalan",
        "a lrb very rrb good film",
        "x is a letter , u s , l a",
        "it does not , do it , is n't, is n't. (is n't) , was net , do nothing , the rock n' roll",
        "as clever as a lever",  # a word, though another was meant
        "the TVs , a DVD , McDonald and MacArthur",
    ],
)
def test_what_stays(text: str) -> None:
    assert read(text) == text


@pytest.mark.parametrize(
    ("attacked", "expected"),
    [
        ("A Gorgeuos FLIM", "A Gorgeous FILM"),
        ("The iFlm is good", "The Film is good"),
        ("The aFilm is good", "The Film is good"),
        ("The fiLlm is good", "The film is good"),
        ("The Fiilm is good", "The Film is good"),
    ],
)
def test_capitals_of_a_text_that_has_them(attacked: str, expected: str) -> None:
    assert read(attacked) == expected


def test_a_capital_alone_is_no_lesser_edit() -> None:
    assert read("extremely bEring") != "extremely bering"  # the sea


def test_two_edits() -> None:
    assert Normalize(max_edits=2).rewrite("a gorgVuos film").text == "a gorgeous film"


@given(st.lists(st.sampled_from(COMMON).filter(str.isalpha), max_size=12))
def test_words_of_the_list_stay(words: list[str]) -> None:
    text = " ".join(word for word in words if SPELLER.knows(word))
    assert read(text) == text


@given(st.sampled_from(WORDS), st.data())
def test_a_capital_put_in_is_taken_out(word: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(1, len(word)))
    letter = data.draw(st.sampled_from(string.ascii_uppercase))
    typed = word[:place] + letter + word[place:]
    found = SPELLER.correction(typed, "", "", True)
    assert found == word or SPELLER._log_share(found) >= SPELLER._log_share(word) - 5


@given(st.text(alphabet=string.ascii_letters + " ,.'", max_size=40))
def test_every_character_has_an_origin(text: str) -> None:
    rewritten = Normalize().rewrite(text)
    assert len(rewritten.origin) == len(rewritten.text)
    assert all(0 <= start < end <= len(text) for start, end in rewritten.origin)
    kept = [
        new
        for new, (start, end) in zip(rewritten.text, rewritten.origin, strict=True)
        if end - start == 1 and text[start] == new
    ]
    assert len(kept) >= sum(not one.isalpha() for one in rewritten.text)
