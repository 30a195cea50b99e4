"""The genetic, swarm, greedy and invariance attacks on small victims."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from attacks import build_attack
from attacks.base import Recipe
from attacks.resources import is_available

pytestmark = pytest.mark.usefixtures("encoder", "language_model")

Build = Callable[..., Recipe]
PAIR = ("premise", "hypothesis")
# The toy models are untrained: what they find likely or alike means nothing.
SPECS = {
    "alzantot": "population=6, iterations=4, max_changed=0.5, max_fluent=8",
    "bad-characters": "population=8",
    "checklist": "draws=3",
    "faster-alzantot": "population=6, iterations=4, max_changed=0.5, max_drop=1000",
    "iga": "population=6, iterations=4, max_changed=0.5",
    "input-reduction": "target_words=1",
    "kuleshov": "max_drop=1000, min_similarity=0",
    "leap": "population=6, iterations=4, max_changed=0.5",
    "morpheus": "modify=last",
    "pso": "population=6, iterations=4",
}
FLIPPED = {
    **dict.fromkeys(SPECS, "a good , charming journey"),
    "alzantot": "a great , charming film",
    "faster-alzantot": "a great , charming film",
    "checklist": "it is a good film",
    "pso": "a good , great journey",
    "leap": "a good , great journey",
    "morpheus": "a good movie",
}


def spec(name: str, **more: Any) -> str:
    settings = [SPECS[name], *(f"{key}={value}" for key, value in more.items())]
    return f"{name}({', '.join(settings)})"


class Fussy:
    """Positive as long as three given words stand as they are."""

    labels = ("negative", "positive")

    def __init__(self, *words: str, columns: tuple[str, ...] = ("text",)) -> None:
        self.columns, self.words = columns, words
        self.asked: list[tuple[str, ...]] = []

    def logits(self, texts: Any) -> np.ndarray:
        self.asked.extend(texts)
        counts = [sum(w in " ".join(t).split() for w in self.words) for t in texts]
        return np.array([[0.0, c - len(self.words) + 0.5] for c in counts], dtype=np.float32)


@pytest.mark.parametrize("name", sorted(set(SPECS) - {"input-reduction"}))
def test_an_adversary_is_misclassified(name: str, build: Build) -> None:
    fields = (FLIPPED[name],)
    victim = Fussy(*fields[0].split())
    attempt = build(spec(name)).perturb(victim, fields, 1, seed=0)
    assert victim.asked[0] == fields
    assert attempt.adversarial is not None
    assert attempt.adversarial in victim.asked
    assert victim.logits([attempt.adversarial]).argmax() == 0
    assert attempt.queries >= len(set(victim.asked))


@pytest.mark.parametrize("name", sorted(set(SPECS) - {"input-reduction", "checklist"}))
def test_several_words_are_swapped_where_one_does_not_do(
    name: str, build: Build, bag_of_words: Any
) -> None:
    text = {
        "bad-characters": "good good good good charming journey",
        "morpheus": "good enjoy journey",
    }.get(name, "a great , good , charming journey")
    victim = bag_of_words()
    attempt = build(spec(name)).perturb(victim, (text,), 1, seed=0)
    assert attempt.adversarial is not None
    assert victim.predict(attempt.adversarial) == 0
    swaps = zip(text.split(), attempt.adversarial[0].split(), strict=True)
    assert sum(old != new for old, new in swaps) >= 2


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("limit", [1, 2, 30])
def test_the_budget_holds(name: str, limit: int, build: Build, bag_of_words: Any) -> None:
    victim = bag_of_words()
    text = " ".join(["it is good good great 12 charming enjoy journey"] * 3)
    attempt = build(spec(name, max_queries=limit)).perturb(victim, (text,), 1, seed=0)
    assert attempt.adversarial is None
    assert attempt.queries == limit
    assert len(victim.asked) <= limit


@pytest.mark.parametrize("name", SPECS)
def test_a_wrong_original_costs_one_query(name: str, build: Build, bag_of_words: Any) -> None:
    attempt = build(spec(name)).perturb(bag_of_words(), ("a dull movie",), 1, seed=0)
    assert (attempt.adversarial, attempt.queries) == (None, 1)


@pytest.mark.parametrize("name", SPECS)
def test_the_seed_decides_and_the_global_state_does_not(
    name: str, build: Build, bag_of_words: Any
) -> None:
    attack = build(spec(name, max_queries=60))
    text = ("it is a great , good , charming film and 12 good , lovely journeys",)
    attempts, asked = [], []
    for state in (1, 2):
        random.seed(state)
        np.random.seed(state)
        torch.manual_seed(state)
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
        victim = bag_of_words()
        attempts.append(attack.perturb(victim, text, 1, seed=2**63 + 5))
        asked.append(victim.asked)
        after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
        assert before[:2] == after[:2]
        assert torch.equal(before[2], after[2])
    assert attempts[0] == attempts[1]
    assert asked[0] == asked[1]
    # One instance after other examples does as a fresh one.
    assert build(spec(name, max_queries=60)).perturb(bag_of_words(), text, 1, 2**63 + 5) in attempts
    other = bag_of_words()
    attack.perturb(other, text, 1, seed=1)
    drawn = name not in ("input-reduction", "kuleshov", "morpheus")
    assert (other.asked != asked[0]) == drawn


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize(
    ("modify", "changed"),
    [("last", {"hypothesis"}), ("premise", {"premise"}), ("all", set(PAIR))],
)
def test_of_a_pair_only_the_named_columns_change(
    name: str, modify: str, changed: set[str], build: Build, bag_of_words: Any
) -> None:
    fields = ("it is good good 12 trips", "it is a great , good journey , 30 good films")
    victim = bag_of_words(PAIR)
    changing = spec(name, max_queries=150).replace("modify=last, ", "")
    build(changing.replace(")", f", modify={modify})"), PAIR).perturb(victim, fields, 1, seed=0)
    assert victim.asked[0] == fields
    seen = {
        column
        for asked in victim.asked
        for column, old, new in zip(PAIR, fields, asked, strict=True)
        if old != new
    }
    assert seen == changed


ODD = {
    "empty": "",
    "dots": "...",
    "emoji": "😀 👍🏽",
    "chinese": "我喜欢这部电影",
    "one-word": "good",
    "no-candidate": "zyx",
}


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_texts_do_not_crash(name: str, text: str, build: Build, brittle: Any) -> None:
    victim = brittle((text,))
    attempt = build(spec(name)).perturb(victim, (text,), 1, seed=0)
    # where there is nothing a sign is asked about
    assert victim.asked[0][0].strip(" _\n") == text.strip(" _\n")
    if text in (ODD["empty"], ODD["dots"], ODD["emoji"]):
        assert (attempt.adversarial, attempt.queries) == (None, 1)


@pytest.mark.parametrize("name", ["alzantot", "faster-alzantot", "iga", "leap", "pso"])
def test_a_text_without_candidates_costs_one_query(
    name: str, build: Build, bag_of_words: Any
) -> None:
    fields = ("the actor is great", "unheard of words")
    attempt = build(spec(name), PAIR).perturb(bag_of_words(PAIR), fields, 1, seed=0)
    assert (attempt.adversarial, attempt.queries) == (None, 1)


@pytest.mark.parametrize("name", ["alzantot", "faster-alzantot", "iga", "leap", "kuleshov"])
def test_no_text_has_more_words_changed_than_allowed(
    name: str, build: Build, bag_of_words: Any
) -> None:
    text = "good great charming lovely moving good great charming lovely moving"
    victim = bag_of_words()
    limited = spec(name, max_queries=400).replace("max_changed=0.5, ", "")
    build(limited.replace(")", ", max_changed=0.2)")).perturb(victim, (text,), 1, seed=0)
    counts = {
        sum(old != new for old, new in zip(text.split(), asked.split(), strict=True))
        for (asked,) in victim.asked
    }
    assert counts == {0, 1, 2}


def test_every_attack_says_what_it_may_change(build: Build) -> None:
    for name in SPECS:
        attack = build(spec(name), PAIR)
        assert attack.threat.edits
        assert attack.threat.columns == ("hypothesis",)
        assert attack.deviation, "all of these differ from their papers"
        assert "\n" not in attack.deviation + attack.threat.edits
        assert attack.threat.knowledge == "score"
        assert attack.goal == ("keep" if name == "input-reduction" else "misclassify")
        assert build(attack.spec, PAIR).spec == attack.spec


@pytest.mark.parametrize("name", ["iga", "leap", "morpheus", "pso"])
def test_on_the_real_lists(name: str, bag_of_words: Any, users_data_dir: str | None) -> None:
    attack_needs = {
        "iga": "counterfitted-neighbors",
        "morpheus": "averaged_perceptron_tagger_eng",
    }.get(name, "wordnet")
    if not is_available(attack_needs, users_data_dir):
        pytest.skip(f"no {attack_needs}: see robust-prefix list attacks")
    victim = bag_of_words()
    text = "i enjoy it : the actor is great and the journey is never quite told as it should be"
    built = build_attack(f"{name}(max_queries=400)", ("text",), users_data_dir)
    attempt = built.perturb(victim, (text,), 1, seed=0)
    assert attempt.adversarial is not None
    assert victim.predict(attempt.adversarial) == 0
