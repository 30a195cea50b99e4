"""Edits that a reader does not see, and where they are put."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from attacks.base import Recipe
from attacks.imperceptible import KINDS, Edit, apply_edits
from attacks.lookalikes import LOOKALIKES

Build = Callable[..., Recipe]
ORIGINAL_OF = {double: letter for letter, double in LOOKALIKES.items()}
TEXT = "a charming , and often moving film"


def shown(text: str) -> str:
    """What a reader sees of a text that has no edits but the paper's."""
    seen: list[str] = []
    for letter in text:
        if letter == "\b":
            seen.pop()
        elif unicodedata.category(letter) != "Cf" or letter in "\u2066\u2069\u202e":
            seen.append(ORIGINAL_OF.get(letter, letter))
    text = "".join(seen)
    # Right to left: the isolate of the second letter comes after that of the first.
    while "\u202e" in text:
        before, _, rest = text.partition("\u202e")
        swap, rest = rest[:6], rest[6:]
        assert (swap[0], swap[2], swap[3], swap[5]) == ("\u2066", "\u2069", "\u2066", "\u2069")
        text = before.removesuffix("\u2066") + swap[4] + swap[1] + rest.removeprefix("\u2069")
    return text


@pytest.mark.parametrize("kind", KINDS)
def test_every_single_edit_is_seen_as_nothing(kind: str) -> None:
    made = KINDS[kind]
    texts = set()
    for place in made.places(TEXT):
        for option in range(made.options):
            end, new = made.make(TEXT, place, option)
            [text] = apply_edits((TEXT,), [Edit(0, place, end, new)])
            assert shown(text) == TEXT
            texts.add(text)
    assert TEXT not in texts
    expected = {
        "invisible": 3 * len(TEXT),
        "homoglyphs": sum(letter in LOOKALIKES for letter in TEXT),
        "reorderings": len(TEXT) - 1,
        "deletions": 94 * len(TEXT),
    }
    assert len(texts) == expected[kind]


def test_edits_keep_their_places_whatever_their_order() -> None:
    edits = [Edit(0, 1, 1, "+"), Edit(1, 0, 1, "X"), Edit(0, 3, 4, "D"), Edit(0, 0, 1, "A")]
    assert apply_edits(("abcd", "x y"), edits) == ("A+bcD", "X y")
    assert apply_edits(("abcd", "x y"), edits[::-1]) == ("A+bcD", "X y")


def test_of_two_that_overlap_one_is_made() -> None:
    assert apply_edits(("abc",), [Edit(0, 0, 2, "BA"), Edit(0, 1, 3, "CB")]) == ("aCB",)
    assert apply_edits(("abc",), [Edit(0, 1, 1, "+"), Edit(0, 1, 1, "-")]) in (
        ("a+-bc",),
        ("a-+bc",),
    )


class CountsOdd:
    """Positive while few characters are others than the original's."""

    labels = ("negative", "positive")

    def __init__(self, original: str, needed: int, columns: tuple[str, ...] = ("text",)) -> None:
        self.columns, self.original, self.needed = columns, original, needed
        self.asked: list[tuple[str, ...]] = []

    def logits(self, texts: Any) -> np.ndarray:
        self.asked.extend(texts)
        odd = [sum(not c.isascii() or c == "\b" for c in "".join(fields)) for fields in texts]
        return np.array([[0, self.needed - 0.5 - n] for n in odd], dtype=np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adversary_looks_like_the_original(kind: str, build: Build) -> None:
    victim = CountsOdd(TEXT, 3)
    attempt = build(f"bad-characters(kind={kind})").perturb(victim, (TEXT,), 1, seed=0)
    assert attempt.adversarial is not None
    assert shown(attempt.adversarial[0]) == TEXT
    assert attempt.adversarial != (TEXT,)
    assert attempt.queries == len(victim.asked)


@pytest.mark.parametrize(("kind", "edits"), [("homoglyphs", 2), ("invisible", 3)])
def test_no_text_has_more_edits_than_allowed(kind: str, edits: int, build: Build) -> None:
    victim = CountsOdd(TEXT, edits + 1)
    spec = f"bad-characters(kind={kind}, max_edits={edits}, population=8)"
    attempt = build(spec).perturb(victim, (TEXT,), 1, seed=0)
    assert attempt.adversarial is None
    assert max(sum(not c.isascii() for c in text) for (text,) in victim.asked) == edits
    assert len(set(victim.asked)) == len(victim.asked)


def test_generations_get_better(build: Build) -> None:
    class Near(CountsOdd):
        """The less positive the nearer a double is to the middle, but always positive."""

        def distances(self, texts: Any) -> list[int]:
            places = [[i for i, c in enumerate(text) if not c.isascii()] for (text,) in texts]
            return [min((abs(i - 150) for i in found), default=300) for found in places]

        def logits(self, texts: Any) -> np.ndarray:
            self.asked.extend(texts)
            return np.array([[0, n + 0.5] for n in self.distances(texts)], dtype=np.float32)

    best = {}
    for iterations in (1, 8):
        victim = Near("a" * 300, 0)
        spec = f"bad-characters(max_edits=1, population=10, iterations={iterations})"
        build(spec).perturb(victim, (victim.original,), 1, seed=1)
        assert len(victim.asked) <= 1 + 10 * (iterations + 1)
        best[iterations] = min(victim.distances(victim.asked))
    assert best[8] < best[1] / 4


def test_the_search_ends_with_the_first_wrong_class(build: Build, brittle: Any) -> None:
    victim = brittle((TEXT,))
    attempt = build("bad-characters").perturb(victim, (TEXT,), 1, seed=0)
    assert attempt.adversarial is not None
    assert attempt.queries == len(victim.asked) <= 1 + 16


def test_it_runs_without_textattack_and_needs_nothing(build: Build) -> None:
    attack = build("bad-characters")
    assert attack.packages == ()
    assert attack.resources == {}
