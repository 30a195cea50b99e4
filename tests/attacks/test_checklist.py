"""Contractions, names, numbers and places."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from attacks.base import Recipe

Build = Callable[..., Recipe]
PAIR = ("premise", "hypothesis")


@pytest.fixture
def swaps(build: Build) -> Any:
    """The module, once TextAttack is there to be imported."""
    build("checklist")
    from attacks.parts import checklist_swaps

    return checklist_swaps


def texts_of(swap: Any, text: str) -> set[str]:
    from textattack.shared import AttackedText

    random.seed(0)
    return {str(made.text) for made in swap(AttackedText(text))}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("it is good", {"it's good"}),
        ("it's good", {"it is good"}),
        ("Do not go , they've left", {"Don't go , they've left", "Do not go , they have left"}),
        ("that was it . is there more", set()),
        ("an isolated island", set()),
    ],
    ids=["made", "written-out", "both-and-case", "not-across-a-stop", "none"],
)
def test_contractions(text: str, expected: set[str], swaps: Any) -> None:
    assert texts_of(swaps.ContractionSwap(), text) == expected


@pytest.mark.parametrize(
    ("word", "numbers"),
    [("3", range(1, 7)), ("1999", range(1, 3999)), ("two", ()), ("0", ()), ("none", ())],
)
def test_numbers_are_of_the_same_size(word: str, numbers: Any, swaps: Any) -> None:
    found = texts_of(swaps.NumberSwap(30), f"all {word} films")
    assert len(found) >= min(5, len(numbers))
    assert {int(text.split()[1]) for text in found} <= set(numbers)


@pytest.mark.parametrize("word", ["three", "Three", "twenty-one"])
def test_numbers_in_words_stay_words(word: str, swaps: Any) -> None:
    found = texts_of(swaps.NumberSwap(20), f"all {word} films")
    assert found
    for text in found:
        middle = text.removeprefix("all ").removesuffix(" films")
        assert middle.replace("-", "").replace(" ", "").isalpha()
        assert middle[0].isupper() == word[0].isupper()


@pytest.mark.parametrize(
    ("text", "changing"),
    [
        ("we saw Michael there", {"Michael"}),
        ("we saw Michael Gutierrez there", {"Michael", "Gutierrez"}),
        ("Michael Gutierrez acts", {"Michael", "Gutierrez"}),
        ("Grace matters . Hope dies", set()),
        ("the young gutierrez boy", set()),
        ("a Gutierrez film", set()),
    ],
    ids=["first", "full", "at-the-start", "words-at-the-start", "lower-case", "last-alone"],
)
def test_names(text: str, changing: set[str], swaps: Any) -> None:
    found = texts_of(swaps.NameSwap(5), text)
    old = text.split()
    changed = {a for made in found for a, b in zip(old, made.split(), strict=True) if a != b}
    assert changed == changing


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("We saw France today", ("We saw ", " today")),
        ("We saw New Zealand today", ("We saw ", " today")),
        ("a French film", ("a ", " film")),
        ("a french film", ("a ", " film")),
        ("it came from south africa .", ("it came from ", " .")),
        ("polish this turkey", None),
        ("a nice film", None),
        ("Reading is fun in London", ("", " is fun in London")),
    ],
)
def test_places(text: str, pieces: tuple[str, str] | None, swaps: Any) -> None:
    found = texts_of(swaps.LocationSwap(4), text)
    assert bool(found) == (pieces is not None)
    if pieces is None:
        return
    here = {made for made in found if made.startswith(pieces[0]) and made.endswith(pieces[1])}
    assert len(here) >= 3
    if text == text.lower():
        assert all(made == made.lower() for made in found)
        assert here == found
    assert "  " not in "".join(found)


def test_places_are_of_one_kind(swaps: Any) -> None:
    from textattack.shared.data import NAMED_ENTITIES

    for text, kind in (("in France now", "country"), ("Look , French films", "nationality")):
        old = text.split()
        found = texts_of(swaps.LocationSwap(50), text)
        names = {made.removeprefix(old[0]).removesuffix(old[-1]).strip(" ,") for made in found}
        assert names <= set(NAMED_ENTITIES[kind])
        assert len(names) > 30


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        (("it is good", "it is 9"), ("it is good", "it's 9")),
        (("we left", "they are good"), ("we left", "they're good")),
    ],
)
def test_contractions_are_found_in_the_second_column(
    fields: tuple[str, str], asked: tuple[str, str], build: Build, bag_of_words: Any
) -> None:
    victim = bag_of_words(PAIR)
    fields = (fields[0] + " good", fields[1])
    build("checklist", PAIR).perturb(victim, fields, 1, seed=0)
    assert (asked[0] + " good", asked[1]) in victim.asked


def test_swaps_add_up_and_none_is_undone(build: Build, bag_of_words: Any) -> None:
    class Longest(bag_of_words):  # type: ignore[misc]
        """Positive, the less so the more characters there are."""

        def logits(self, texts: Any) -> Any:
            import numpy as np

            self.asked.extend(texts)
            return np.array([[0.0, 500.0 - len(text)] for (text,) in texts], dtype=np.float32)

    victim = Longest()
    text = "it's in France and they've seen 12 films with Tom"
    attempt = build("checklist").perturb(victim, (text,), 1, seed=0)
    assert attempt.adversarial is None
    last = victim.asked[-1][0]
    assert last.startswith("it is in ")
    assert "they have seen" in last
    assert "France" not in last
    assert not last.endswith("Tom")
