"""Input reduction: the answer stays, the words go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from attacks.base import Recipe

Build = Callable[..., Recipe]
PAIR = ("premise", "hypothesis")


class NeedsWords:
    """Positive while all of the given words are there, surer with fewer others."""

    labels = ("negative", "positive")

    def __init__(self, *words: str, columns: tuple[str, ...] = ("text",)) -> None:
        self.columns, self.words = columns, words
        self.asked: list[tuple[str, ...]] = []

    def logits(self, texts: Any) -> np.ndarray:
        self.asked.extend(texts)
        rows = []
        for fields in texts:
            words = " ".join(fields).split()
            kept = all(word in words for word in self.words)
            rows.append([0.0, 1 / (1 + len(words)) if kept else -1.0])
        return np.array(rows, dtype=np.float32)


@pytest.mark.parametrize(
    ("text", "reduced"),
    [
        ("a b c d e f good", "good"),
        ("good a b c d e f", "good"),
        ("a b , c good . d", ", good ."),
        ("the good is the best", "good"),
    ],
    ids=["last", "first", "punctuation", "stopwords"],
)
def test_only_the_word_that_matters_is_left(text: str, reduced: str, build: Build) -> None:
    attempt = build("input-reduction").perturb(NeedsWords("good"), (text,), 1, seed=0)
    assert attempt.adversarial is not None
    # TextAttack leaves the space before a last word.
    assert attempt.adversarial[0].rstrip() == reduced
    # A round is a query a word to rank, one a word to remove.
    words = len([w for w in text.split() if w.isalpha()])
    assert attempt.queries <= 1 + 2 * words


def test_words_that_are_needed_stay_and_the_attack_says_it_failed(build: Build) -> None:
    victim = NeedsWords("good", "film")
    attempt = build("input-reduction").perturb(victim, ("a good b film c",), 1, seed=0)
    assert attempt.adversarial is None
    assert min(len(text.split()) for (text,) in victim.asked) == 1
    two = build("input-reduction(target_words=2)")
    found = two.perturb(NeedsWords("good", "film"), ("a good b film c",), 1, seed=0).adversarial
    assert found is not None
    assert found[0].split() == ["good", "film"]


def test_the_least_important_word_goes_first(build: Build) -> None:
    class Weighted(NeedsWords):
        def logits(self, texts: Any) -> np.ndarray:
            self.asked.extend(texts)
            weights = {"good": 3.0, "fine": 2.0, "so": 0.5, "bad": -1.0}
            scores = [sum(weights.get(w, 0) for w in text.split()) for (text,) in texts]
            return np.array([[0.0, s] for s in scores], dtype=np.float32)

    victim = Weighted()
    attempt = build("input-reduction").perturb(victim, ("so bad a fine good",), 1, seed=0)
    assert attempt.adversarial == ("good",)
    # Ranked: 1 + 5 queries; then "bad" is gone already, and "a", "so", "fine" follow.
    assert victim.asked[6:] == [("so fine good",), ("fine good",), ("good",)]


def test_a_removal_never_changes_the_answer_on_the_way(build: Build) -> None:
    class Parity(NeedsWords):
        """Positive for an odd number of words: to remove one word changes the answer."""

        def logits(self, texts: Any) -> np.ndarray:
            self.asked.extend(texts)
            return np.array([[0, len(t[0].split()) % 2 - 0.5] for t in texts], dtype=np.float32)

    attempt = build("input-reduction").perturb(Parity(), ("a b c d e",), 1, seed=0)
    assert (attempt.adversarial, attempt.queries) == (None, 6)


def test_of_a_pair_the_named_columns_words_count(build: Build) -> None:
    fields = ("good words that stay here", "a good b c")
    victim = NeedsWords("good", columns=PAIR)
    attempt = build("input-reduction", PAIR).perturb(victim, fields, 1, seed=0)
    assert attempt.adversarial is not None
    assert attempt.adversarial[0] == fields[0]
    assert len(attempt.adversarial[1].split()) == 1
    both = build("input-reduction(modify=all)", PAIR).perturb(victim, fields, 1, seed=0)
    assert both.adversarial is not None
    # a column without words is one that no classifier takes: a sign stands there
    assert sorted(text.strip() for text in both.adversarial) == ["_", "good"]


@pytest.mark.parametrize("fields", [("words that stay", "good"), ("words that stay", "")])
def test_a_text_that_short_from_the_start_is_no_success(
    fields: tuple[str, str], build: Build
) -> None:
    victim = NeedsWords(columns=PAIR)
    attempt = build("input-reduction", PAIR).perturb(victim, fields, 1, seed=0)
    assert (attempt.adversarial, attempt.queries) == (None, 1)


@pytest.mark.parametrize("limit", range(1, 12))
def test_whatever_the_budget_it_is_kept(limit: int, build: Build) -> None:
    victim = NeedsWords("good")
    attack = build(f"input-reduction(max_queries={limit})")
    attempt = attack.perturb(victim, ("a b c d e good",), 1, seed=0)
    assert len(victim.asked) == attempt.queries <= limit
    assert (attempt.adversarial is not None) == (limit >= 11)
