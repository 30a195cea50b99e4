"""Inflections, and the order in which words get them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attacks.base import Recipe
from attacks.resources import find_resource

Build = Callable[..., Recipe]


@pytest.mark.parametrize(
    ("word", "tag", "expected"),
    [
        ("movie", "NOUN", {"movie", "movies"}),
        ("ran", "VERB", {"run", "runs", "ran", "running"}),
        ("better", "ADJ", {"good", "better", "best"}),
        ("often", "ADV", set()),
        ("the", "DET", set()),
        ("zyxed", "X", set()),
        ("", "NOUN", set()),
    ],
)
def test_inflections_of_a_lemma(word: str, tag: str, expected: set[str], build: Build) -> None:
    build("morpheus")  # imports TextAttack
    from attacks.parts.inflection_swap import inflections

    assert set(inflections(word, tag)) == expected
    assert list(inflections(word, tag)) == sorted(expected)


def test_only_nouns_verbs_and_adjectives_change(build: Build, bag_of_words: Any) -> None:
    victim = bag_of_words()
    text = "good often good trip good the journey good"  # adverbs to the toy tagger: often, the
    build("morpheus").perturb(victim, (text,), 1, seed=0)
    asked = {word for (t,) in victim.asked for word in t.split()}
    assert asked == {*text.split(), "better", "best", "trips", "journeys"}


@pytest.mark.parametrize(
    ("word", "expected"), [("trip", "trips"), ("Trip", "Trips"), ("TRIPS", "TRIP")]
)
def test_inflections_keep_the_case(word: str, expected: str, build: Build, data_dir: Path) -> None:
    build("morpheus")  # imports TextAttack
    from attacks.parts.inflection_swap import InflectionSwap

    swap = InflectionSwap(find_resource("averaged_perceptron_tagger_eng", data_dir))
    assert swap._get_replacement_words(word, "NOUN") == [expected]


class OnlyTheSecond:
    """Wrong where the second word alone is changed; less sure where the first is."""

    labels, columns = ("negative", "positive"), ("text",)

    def __init__(self) -> None:
        self.asked: list[str] = []

    def logits(self, texts: Any) -> np.ndarray:
        self.asked.extend(t for (t,) in texts)
        scores = {"film trip": 3.0, "films trip": 2.0, "films trips": 2.5, "film trips": -1.0}
        return np.array([[0.0, scores[t]] for (t,) in texts], dtype=np.float32)


def test_words_get_their_turn_forwards_then_backwards(build: Build) -> None:
    victim = OnlyTheSecond()
    attempt = build("morpheus").perturb(victim, ("film trip",), 1, seed=0)
    assert victim.asked == ["film trip", "films trip", "films trips", "film trips"]
    assert attempt.adversarial == ("film trips",)
    assert attempt.queries == 4


def test_the_way_back_starts_from_the_original_within_the_budget(build: Build) -> None:
    victim = OnlyTheSecond()
    attempt = build("morpheus(max_queries=3)").perturb(victim, ("film trip",), 1, seed=0)
    assert (attempt.adversarial, attempt.queries) == (None, 3)
