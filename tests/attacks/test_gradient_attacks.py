"""What attacks with gradients share, and gradient-substitution, on a victim whose gradient is known
by heart, and on a tiny model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attacks import list_attacks
from attacks.gradients import Gradients
from attacks.recipes.universal_triggers import UniversalTriggers
from attacks.substitution import Queries
from attacks.victim import tokens_at
from robust_prefix.backbones import CausalBackbone
from robust_prefix.classifier import PrefixClassifier
from robust_prefix.defenses import RandomPrefix
from robust_prefix.errors import ConfigError
from robust_prefix.evaluation.protocols import Example
from robust_prefix.evaluation.trial import CountingVictim
from robust_prefix.prefixes import Prefix
from robust_prefix.tasks import load_task

from .open_bag import Build, OpenBag, examples

NAMES = ("gradient-substitution", "hotflip", "universal-triggers")

# What they share


@pytest.mark.parametrize("name", NAMES)
def test_they_say_that_they_read_gradients(name: str, build: Build) -> None:
    [info] = [info for info in list_attacks() if info.name == name]
    assert info.knowledge == build(name).threat.knowledge == "gradient"
    assert info.edits
    assert "\n" not in info.edits + info.deviation


@pytest.mark.parametrize("name", NAMES)
def test_a_black_box_is_refused_in_one_line(name: str, build: Build, bag_of_words: Any) -> None:
    attack = build(name)

    def use() -> None:
        if isinstance(attack, UniversalTriggers):
            attack.fit(bag_of_words(), examples("good movie"), seed=0)
        else:
            attack.perturb(bag_of_words(), ("good movie",), 1, seed=0)

    with pytest.raises(ConfigError, match="expected a victim that gives gradients") as error:
        use()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["gradient-substitution", "hotflip"])
@pytest.mark.parametrize("through", ["fixed", "unrolled"])
def test_the_gradient_is_taken_as_asked(name: str, through: str, build: Build) -> None:
    victim = OpenBag()
    attack = build(f"{name}(through={through})")
    assert f"through={through}" in attack.spec
    attack.perturb(victim, ("great movie",), 1, seed=0)
    assert {(label, how) for _, label, how in victim.differentiated} == {(1, through)}


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_way_through_is_refused(name: str, build: Build) -> None:
    with pytest.raises(ConfigError, match="through"):
        build(f"{name}(through=around)")


@pytest.mark.parametrize("name", ["gradient-substitution", "hotflip"])
@pytest.mark.parametrize("limit", range(1, 13))
def test_gradients_and_texts_share_one_budget(name: str, limit: int, build: Build) -> None:
    victim = OpenBag()
    text = "great great great great movie trip"  # too positive to be turned
    attempt = build(f"{name}(max_queries={limit})").perturb(victim, (text,), 1, seed=0)
    assert attempt.adversarial is None
    assert attempt.queries == len(victim.asked) + len(victim.differentiated) <= limit
    assert limit > 8 or attempt.queries == limit


@pytest.mark.parametrize("name", ["gradient-substitution", "hotflip"])
def test_a_wrong_original_costs_one_query(name: str, build: Build) -> None:
    victim = OpenBag()
    attempt = build(name).perturb(victim, ("a bad movie",), 1, seed=0)
    assert (attempt.adversarial, attempt.queries, victim.differentiated) == (None, 1, [])


@pytest.mark.parametrize("name", ["gradient-substitution", "hotflip"])
def test_chance_has_no_part_in_it(name: str, build: Build) -> None:
    def asked(seed: int) -> list[tuple[str, ...]]:
        victim = OpenBag()
        build(name).perturb(victim, ("great good movie trip",), 1, seed)
        return victim.asked

    assert asked(0) == asked(1)


# The estimate


def estimate(victim: Any, fields: tuple[str, ...], place: tuple, words: list[str]) -> list[float]:
    gradients = Gradients(Queries(victim, 1, 100), "fixed")
    [found] = gradients.of([fields])
    return gradients.gains(found, place, words).tolist()


def test_the_estimate_is_gradient_times_difference_of_embeddings() -> None:
    victim = OpenBag()
    [found] = victim.gradients([("good movie",)], [1])
    slope = found.gradient[1, 0]
    gains = estimate(victim, ("good movie",), (0, 5, 10), ["film", "picture"])
    np.testing.assert_allclose(gains, [slope * (-0.2 - 0.5), slope * (-0.4 - 0.5)], rtol=1e-5)
    assert gains[1] > gains[0] > 0


def test_the_estimate_pairs_tokens_from_the_first_on() -> None:
    victim = OpenBag()
    assert len(victim.encode([" dull"])[0]) == 5  # spelt
    slope = victim.gradients([("dull movie",)], [1])[0].gradient[1, 0]
    # One token for four: it counts for all of them. Four for one: the first counts.
    [one_for_many] = estimate(victim, ("dull movie",), (0, 0, 4), ["bad"])
    assert one_for_many == pytest.approx(4 * slope * -1.0, rel=1e-5)
    slope = victim.gradients([("good movie",)], [1])[0].gradient[1, 0]
    [many_for_one] = estimate(victim, ("good movie",), (0, 0, 4), ["dull"])
    assert many_for_one == pytest.approx(slope * (0 - 1.0), rel=1e-5)


def test_what_the_victim_does_not_see_promises_nothing() -> None:
    victim = OpenBag(max_tokens=2)
    fields = ("good movie trip",)
    assert estimate(victim, fields, (0, 11, 15), ["journey", "voyage"]) == [-np.inf] * 2
    [found] = victim.gradients([fields], [1])
    assert tokens_at(found, (0, 5, 10)) == [2]
    assert tokens_at(found, (0, 11, 15)) == []
    assert tokens_at(found, (1, 0, 4)) == []


# gradient-substitution


def test_substitution_asks_about_the_most_promising_first(build: Build) -> None:
    victim = OpenBag()
    text = "good great movie"
    attack = build("gradient-substitution(verified=2, max_changed=0.5)")
    attempt = attack.perturb(victim, (text,), 1, seed=0)
    # The gains: good -> solid 2.5, great -> tedious 2.1, good -> bad 2.0, great -> huge 0.9, ...
    assert [t for (t,) in victim.asked[1:3]] == ["solid great movie", "good tedious movie"]
    # The first of them is taken, and with it in place the gradient is taken anew.
    assert [t for (t,), _, _ in victim.differentiated] == [text, "solid great movie"]
    assert attempt.adversarial == ("solid tedious movie",)
    assert attempt.queries == 1 + (1 + 2) + (1 + 2)


def test_substitution_goes_on_where_the_estimate_was_wrong(build: Build) -> None:
    class Curved(OpenBag):
        """Its gradient is right and misleads: only "picture" lowers the score."""

        def logits(self, texts: Any) -> np.ndarray:
            self.asked.extend(texts)
            scores = [-1.0 if "picture" in t else 2.0 for (t,) in texts]
            return np.array([[0.0, score] for score in scores], dtype=np.float32)

    victim = Curved()
    attack = build("gradient-substitution(verified=1, max_changed=0.5)")
    attempt = attack.perturb(victim, ("good movie",), 1, seed=0)
    assert [t for (t,) in victim.asked[1:]] == [
        "solid movie",
        "bad movie",
        "good picture",
    ]
    assert attempt.adversarial == ("good picture",)
    assert len(victim.differentiated) == 1


def test_substitution_ends_where_nothing_helps(build: Build) -> None:
    class Deaf(OpenBag):
        def logits(self, texts: Any) -> np.ndarray:
            self.asked.extend(texts)
            return np.array([[0.0, 1.0]] * len(texts), dtype=np.float32)

    victim = Deaf()
    attempt = build("gradient-substitution(max_changed=1)").perturb(
        victim, ("good movie",), 1, seed=0
    )
    assert attempt.adversarial is None
    tried = {t for (t,) in victim.asked}
    assert tried == {
        "good movie",
        *(f"{word} movie" for word in ("solid", "nice", "bad")),
        *(f"good {word}" for word in ("film", "picture")),
    }
    assert attempt.queries == len(tried) + 1


def test_substitution_shares_words_and_budget_with_the_black_box_attack(build: Build) -> None:
    greedy, white = build("greedy-substitution"), build("gradient-substitution")
    assert (white.config.max_queries, white.config.max_changed) == (200, 0.25)
    assert white.threat.edits == greedy.threat.edits
    victim = OpenBag()
    text = "a good , great Movie trip film the the"
    build("gradient-substitution(max_queries=500)").perturb(victim, (text,), 1, seed=0)
    for (asked,) in victim.asked[1:]:
        before, after = text.split(), asked.split()
        changed = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
        assert 1 <= len(changed) <= 3  # a quarter of 8 words, rounded up, is 2


@pytest.mark.parametrize(
    ("spec", "allowed"),
    [("", {1}), ("(modify=premise)", {0}), ("(modify=all)", {0, 1})],
    ids=["last", "premise", "all"],
)
@pytest.mark.parametrize("name", ["gradient-substitution", "hotflip"])
def test_of_a_pair_the_named_columns_change(
    name: str, spec: str, allowed: set[int], build: Build
) -> None:
    columns = ("premise", "hypothesis")
    victim = OpenBag(columns)
    pair = ("great movie", "great trip")
    build(name + spec, columns).perturb(victim, pair, 1, seed=0)
    changed = {c for t in victim.asked for c in (0, 1) if t[c] != pair[c]}
    assert changed == allowed


# A model


@pytest.mark.parametrize(
    "spec",
    [
        "gradient-substitution(max_changed=1)",
        "hotflip(min_cosine=-1, same_pos=false, max_flips=3)",
        "universal-triggers(length=2, num_candidates=5, batches=2)",
    ],
)
def test_on_a_tiny_model_behind_a_defence(
    spec: str, build: Build, backbone: CausalBackbone, prefix: Prefix
) -> None:
    defense = RandomPrefix(rms=0.3)
    # Not the fixture: the folder named data_dir holds other data here.
    classifier = PrefixClassifier(backbone, load_task("sst2"), prefix, defense)
    victim = CountingVictim(classifier)
    texts = [("the film is good and the end is great",), ("a lovely movie , often charming",)]
    labels = victim.logits(texts).argmax(axis=1).tolist()
    attack = build(spec)
    if isinstance(attack, UniversalTriggers):
        train = [Example(i, *pair) for i, pair in enumerate(zip(texts, labels, strict=True))]
        attack = attack.fitted(attack.fit(victim, train, seed=0))
    found = 0
    for text, label in zip(texts, labels, strict=True):
        before = victim.queries
        attempt = attack.perturb(victim, text, label, seed=0)
        assert victim.queries - before == attempt.queries
        if attempt.adversarial is not None:
            found += 1
            assert int(victim.logits([attempt.adversarial])[0].argmax()) != label
    assert found >= 1
    assert defense.cost.backward > 0
