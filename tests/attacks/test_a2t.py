"""A2T: words in the order of their gradients, near words in their place."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from attacks import build_attack
from attacks.base import Recipe
from attacks.resources import is_available
from robust_prefix.errors import ConfigError
from robust_prefix.gradients import TokenGradients

pytestmark = pytest.mark.usefixtures("encoder")

Build = Callable[..., Recipe]
PAIR = ("premise", "hypothesis")


def with_gradients(base: type[Any], slopes: dict[str, float]) -> type[Any]:
    """A victim that reads half words and has the given gradient at each half of a word."""

    class WhiteBox(base):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.differentiated: list[tuple[Any, ...]] = []

        def gradients(
            self, texts: Sequence[Any], labels: Sequence[int], through: str = "fixed"
        ) -> list[TokenGradients]:
            self.differentiated.append((*texts, *labels, through))
            [fields] = texts
            spans: list[Any] = [None]
            rows = [[100.0, 100.0]]  # the template's
            for column, text in enumerate(fields):
                for match in re.finditer(r"\w+", text):
                    middle = (match.start() + match.end() + 1) // 2
                    spans += [(column, match.start(), middle), (column, middle, match.end())]
                    slope = slopes.get(match.group(), 0.0)
                    rows += [[slope, 0.0], [0.0, -slope]]
            gradient = np.array(rows, dtype=np.float32)
            return [TokenGradients(tuple(range(len(spans))), tuple(spans), gradient, 1.0)]

    return WhiteBox


def changed(victim: Any, text: str) -> list[str]:
    """The words of ``text`` that were changed, in the order in which that was first tried."""
    found = []
    for (asked,) in victim.asked[1:]:
        pairs = zip(text.split(), asked.split(), strict=True)
        found += [old for old, new in pairs if old != new]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize(
    ("slopes", "order"),
    [
        ({"good": 1, "film": 2, "great": 3}, ["great", "film", "good"]),
        ({"good": 3, "film": -2, "great": 1}, ["good", "film", "great"]),
        ({}, ["good", "film", "great"]),
    ],
    ids=["rising", "falling", "flat"],
)
def test_words_are_tried_in_the_order_of_their_gradients(
    slopes: dict[str, float], order: list[str], build: Build, bag_of_words: Any
) -> None:
    victim = with_gradients(bag_of_words, slopes)()
    text = "a good film great lovely lovely lovely lovely"
    attempt = build("a2t(min_similarity=0)").perturb(victim, (text,), 1, seed=0)
    assert [word for word in changed(victim, text) if word != "lovely"] == order
    # The gradient is taken once, of the original, and costs one query.
    assert victim.differentiated == [((text,), 1, "fixed")]
    assert attempt.queries == len(victim.asked) + 1


def test_the_gradient_of_a_pair_is_found_in_its_column(build: Build, bag_of_words: Any) -> None:
    victim = with_gradients(bag_of_words, {"film": 9, "great": 3, "good": 2})(PAIR)
    fields = ("film great", "good film great lovely lovely")
    build("a2t(min_similarity=0)", PAIR).perturb(victim, fields, 1, seed=0)
    assert victim.differentiated == [(fields, 1, "fixed")]
    assert {premise for premise, _ in victim.asked} == {"film great"}
    first = [hypothesis for _, hypothesis in victim.asked[1:]]
    assert first[0] == "good movie great lovely lovely"
    assert [t.split()[2] != "great" for t in first].index(True) < [
        t.split()[0] != "good" for t in first
    ].index(True)


def test_an_adversary_differs_and_is_misclassified(build: Build, bag_of_words: Any) -> None:
    text = "a good , great film"
    victim = with_gradients(bag_of_words, {"great": 1})()
    attempt = build("a2t(min_similarity=0)").perturb(victim, (text,), 1, seed=0)
    assert attempt.adversarial is not None
    assert attempt.adversarial != (text,)
    assert victim.predict(attempt.adversarial) == 0
    again = with_gradients(bag_of_words, {"great": 1})()
    assert build("a2t(min_similarity=0)").perturb(again, (text,), 1, seed=0) == attempt


@pytest.mark.parametrize("limit", [1, 2, 3, 5])
@pytest.mark.parametrize("ranking", ["gradient", "delete"])
def test_the_budget_holds(ranking: str, limit: int, build: Build, bag_of_words: Any) -> None:
    victim = with_gradients(bag_of_words, {})()
    attack = build(f"a2t(min_similarity=0, max_queries={limit}, ranking={ranking})")
    text = "good good good good charming great journey"
    attempt = attack.perturb(victim, (text,), 1, seed=0)
    assert (attempt.adversarial, attempt.queries) == (None, limit)
    assert len(victim.asked) + len(victim.differentiated) == limit


def test_at_most_a_tenth_of_the_words_or_four_change(build: Build, bag_of_words: Any) -> None:
    victim = with_gradients(bag_of_words, {})()
    text = "good " * 9 + "actor"
    attempt = build("a2t(min_similarity=0)").perturb(victim, (text,), 1, seed=0)
    assert attempt.adversarial is None
    counts = [
        sum(a != b for a, b in zip(text.split(), asked.split(), strict=True))
        for (asked,) in victim.asked
    ]
    assert max(counts) == 4


def test_a_noun_does_not_pass_for_a_verb(build: Build, bag_of_words: Any) -> None:
    # "trip" and "voyage", "enjoy" and "relish" pass for each other in TextFooler.
    victim, text = with_gradients(bag_of_words, {})(), "enjoy trip good movie great great great"
    build("a2t(min_similarity=0)").perturb(victim, (text,), 1, seed=0)
    new = {word for (t,) in victim.asked for word in t.split()} - set(text.split())
    assert not {"relish", "voyage"} & new
    assert {"journey", "solid", "film"} <= new


def test_without_gradients_it_says_so_and_ranks_by_deletion(
    build: Build, bag_of_words: Any
) -> None:
    text = "a good , great film"
    with pytest.raises(ConfigError, match="expected a victim that gives gradients, got BagOfWords"):
        build("a2t(min_similarity=0)").perturb(bag_of_words(), (text,), 1, seed=0)
    attack = build("a2t(min_similarity=0, ranking=delete)")
    attempt = attack.perturb(bag_of_words(), (text,), 1, seed=0)
    assert attempt.adversarial is not None
    assert attack.threat.knowledge == "score"
    assert build("a2t").threat.knowledge == "gradient"


def test_the_gradients_way_through_a_defence_is_passed_on(build: Build, bag_of_words: Any) -> None:
    victim = with_gradients(bag_of_words, {})()
    build("a2t(through=unrolled)").perturb(victim, ("a good , great film",), 1, seed=0)
    assert [through for *_, through in victim.differentiated] == ["unrolled"]


@pytest.mark.parametrize(
    "text", ["", "...", "\U0001f600", "the", "我喜欢这部电影", "İ e\u0301te\u0301 good"]
)
def test_odd_texts_do_not_crash(text: str, build: Build, brittle: Any) -> None:
    victim = with_gradients(brittle, {})((text,))
    attempt = build("a2t(min_similarity=0)").perturb(victim, (text,), 1, seed=0)
    # where there is nothing a sign is asked about
    assert victim.asked[0][0].strip(" _\n") == text.strip(" _\n")
    if not text.endswith("good"):
        assert attempt.adversarial is None


def test_on_the_real_resources(bag_of_words: Any, users_data_dir: str | None) -> None:
    needed = (
        "stopwords",
        "counterfitted-neighbors",
        "averaged_perceptron_tagger_eng",
        "sentence-encoder",
    )
    missing = [n for n in needed if not is_available(n, users_data_dir)]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: see robust-prefix list attacks")
    victim = with_gradients(bag_of_words, {"great": 1})()
    attack = build_attack("a2t(min_similarity=0.5)", ("text",), users_data_dir)
    text = "the actor is great and the film is told well"
    attack.perturb(victim, (text,), 1, seed=0)
    assert changed(victim, text)[0] == "great"
    assert ("the actor is tremendous and the film is told well",) in victim.asked
