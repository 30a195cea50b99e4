"""Certificates against everything an attacker could do to tiny texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import combinations, product
from math import comb
from threading import RLock
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robust_prefix.backbones.base import Passes
from robust_prefix.certificates import (
    lower_bound,
    reach,
    smoothed_radius,
    touched_share,
    vote_radius,
)
from robust_prefix.certification import CertifyConfig, certify, vote_certificate
from robust_prefix.defenses import (
    Defense,
    Ensemble,
    Gate,
    MaskedVote,
    Normalize,
    RobustPrefix,
    Synonyms,
)
from robust_prefix.defenses.base import NoSettings
from robust_prefix.errors import ConfigError
from robust_prefix.masks import every_mask, random_masks
from robust_prefix.prefixes import Inputs, PrefixModel
from robust_prefix.subspaces import Subspaces
from robust_prefix.synonyms import SynonymClusters
from robust_prefix.tasks import Fields


@settings(deadline=None)
@given(st.integers(1, 9), st.data())
def test_the_share_of_touched_masks_is_counted_right(words: int, data: st.DataObject) -> None:
    visible = data.draw(st.integers(1, words))
    changes = data.draw(st.integers(0, words))
    masks = every_mask(words, visible)
    touched = int(masks[:, :changes].any(1).sum())
    assert touched_share(words, visible, changes) == Fraction(touched, comb(words, visible))


@settings(deadline=None)
@given(st.integers(2, 40), st.integers(1, 20), st.floats(0.5, 1))
def test_a_smoothed_radius_grows_with_the_share_and_shrinks_with_what_is_seen(
    words: int, visible: int, share: float
) -> None:
    visible = min(visible, words)
    found = smoothed_radius(share, words, visible)
    if found is None:
        assert share <= 0.5
        return
    assert 0 <= found < words
    assert smoothed_radius(1, words, visible) >= found
    assert visible == 1 or smoothed_radius(share, words, visible - 1) >= found
    deltas = [touched_share(words, visible, d) for d in range(words + 1)]
    assert deltas == sorted(deltas)
    exact = Fraction(share)
    assert exact - deltas[found] > Fraction(1, 2) >= exact - deltas[found + 1]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(1, 9), st.integers(0, 10**6), st.booleans())
def test_reach_bounds_the_worst_choice_of_words(
    words: int, copies: int, seed: int, balanced: bool
) -> None:
    rng = np.random.default_rng(seed)
    masks = rng.random((copies, words)) < 0.4
    weights = rng.integers(0, 3, copies).astype(float) if balanced else rng.random(copies) * 2
    before = 0.0
    for changes in range(1, words + 1):
        worst = max(
            float(weights[masks[:, list(chosen)].any(1)].sum())
            for chosen in combinations(range(words), changes)
        )
        # asked for as tight a bound as there is, it is the worst itself
        assert reach(weights, masks, changes, enough=0) == pytest.approx(worst, abs=1e-5)
        assert reach(weights, masks, changes, enough=1e9) >= worst - 1e-9
        assert worst >= before - 1e-9
        before = worst


def _clopper_pearson(successes: int, trials: int, confidence: float) -> float:
    """By bisection: the p at which so many successes or more have probability 1 - confidence."""
    low, high = 0.0, 1.0
    for _ in range(60):
        p = (low + high) / 2
        tail = sum(
            comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(successes, trials + 1)
        )
        low, high = (p, high) if tail < 1 - confidence else (low, p)
    return low


@pytest.mark.parametrize(
    ("successes", "trials", "confidence"),
    [(20, 20, 0.999), (17, 20, 0.95), (1, 20, 0.95), (0, 20, 0.95), (150, 200, 0.999)],
)
def test_the_lower_bound_is_clopper_and_pearsons(
    successes: int, trials: int, confidence: float
) -> None:
    expected = _clopper_pearson(successes, trials, confidence)
    assert lower_bound(successes, trials, confidence) == pytest.approx(expected, abs=1e-9)


class Lookup(Defense[NoSettings]):
    """A classifier that says of each text what a random table says."""

    name = "lookup"

    def __init__(self, table: Callable[[Fields], int], classes: int) -> None:
        super().__init__()
        self.table, self.classes = table, classes

    def _scores(self, model: PrefixModel, texts: Any, batch_size: int) -> Tensor:
        chosen = torch.tensor([self.table(text) for text in texts])
        return 5.0 * torch.nn.functional.one_hot(chosen, self.classes).float()

    def run(self, model: PrefixModel, inputs: Inputs) -> Tensor:
        raise NotImplementedError


def lookup(classes: int, favour: float, seed: int) -> Lookup:
    """Each text's class is drawn once; class 0 with the probability ``favour`` more."""
    rng, known = np.random.default_rng(seed), dict[Fields, int]()

    def table(text: Fields) -> int:
        if text not in known:
            known[text] = 0 if rng.random() < favour else int(rng.integers(classes))
        return known[text]

    return Lookup(table, classes)


def fake_model(classes: int) -> Any:
    return SimpleNamespace(
        backbone=SimpleNamespace(passes=Passes(), dtype=torch.float32, lock=RLock()),
        task=SimpleNamespace(labels=tuple(range(classes))),
    )


def substitutions(words: list[str], changes: int) -> Iterator[Fields]:
    """Every text with so many words at most exchanged for one of three others."""
    for places in combinations(range(len(words)), changes):
        for chosen in product(("p", "q", "r"), repeat=changes):
            changed = list(words)
            for place, word in zip(places, chosen, strict=True):
                changed[place] = word
            yield (" ".join(changed),)


VOTES = [
    {"copies": 5, "mask": 0.8},
    {"copies": 5, "mask": 0.8, "layout": "blocks"},
    {"copies": 7, "mask": 0.7, "stand_in": "none"},
    {"copies": 8, "mask": 0.75, "combine": "mean"},
]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 5),
    st.integers(2, 3),
    st.sampled_from(VOTES),
    st.sampled_from([0.6, 0.9, 1.0]),
    st.integers(0, 10**6),
)
def test_no_substitution_inside_the_radius_changes_the_vote(
    length: int, classes: int, vote: dict[str, Any], favour: float, seed: int
) -> None:
    model, words = fake_model(classes), list("abcde"[:length])
    defense = MaskedVote(lookup(classes, favour, seed), seed=seed % 3, **vote)
    [found] = certify(model, defense, [(" ".join(words),)])
    assert found.words == length
    assert found.label == int(defense.logits(model, [(" ".join(words),)]).argmax())
    attacked = [t for d in range(1, min(found.radius, 3) + 1) for t in substitutions(words, d)]
    if attacked:
        answers = defense.logits(model, attacked).argmax(-1)
        assert (answers == found.label).all()


def test_the_radius_of_a_vote_is_reached() -> None:
    """Nothing is given away: one word more than the radius, and an attacker may win."""
    model = fake_model(2)
    words = ["a", "b", "c", "d", "e"]

    def table(text: Fields) -> int:
        return int(bool(set(text[0].split()) & {"p", "q", "r"}))

    defense = MaskedVote(Lookup(table, 2), copies=5, mask=0.8)
    [found] = certify(model, defense, [(" ".join(words),)])
    assert (found.label, found.radius, found.support) == (0, 2, 1.0)
    broken = defense.logits(model, list(substitutions(words, 3))).argmax(-1)
    assert (broken == 1).any()


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 5),
    st.integers(2, 3),
    st.sampled_from([0.5, 0.7]),
    st.sampled_from([0.6, 0.9, 1.0]),
    st.integers(0, 10**6),
)
def test_no_substitution_inside_the_radius_changes_the_vote_of_all_masks(
    length: int, classes: int, mask: float, favour: float, seed: int
) -> None:
    model, words = fake_model(classes), list("abcde"[:length])
    inner = lookup(classes, favour, seed)
    defense = MaskedVote(inner, mask=mask)
    config = CertifyConfig(method="smoothed")
    [found] = certify(model, defense, [(" ".join(words),)], config)
    if found.label is None:
        assert found.support <= 0.5
        return
    every = every_mask(length, max(1, round((1 - mask) * length)))
    for changes in range(min(found.radius, 3) + 1):
        for text in substitutions(words, changes):
            copies = [(copy[0].text,) for copy in defense.masked(text, every)]
            counts = np.bincount([inner.table(copy) for copy in copies], minlength=classes)
            assert counts[found.label] > len(every) / 2


def test_a_sampled_certificate_holds_back_for_chance() -> None:
    """With all masks answering alike only the sample's size limits what is certified."""
    model, text = fake_model(2), (" ".join(f"w{n}" for n in range(20)),)
    defense = MaskedVote(Lookup(lambda text: 1, 2), mask=0.9)

    def radius(estimate: int, confidence: float) -> int:
        config = CertifyConfig(method="smoothed", estimate=estimate, confidence=confidence)
        [found] = certify(model, defense, [text], config)
        assert found.label == 1
        assert found.support == pytest.approx((1 - confidence) ** (1 / estimate))
        return found.radius

    assert (radius(20, 0.999), radius(100, 0.999), radius(20, 0.95)) == (2, 4, 3)
    assert smoothed_radius(1, 20, 2) == 5


def test_a_copy_in_doubt_counts_against_the_answer() -> None:
    vote = MaskedVote(copies=6, mask=0.8)
    masks = np.eye(6, dtype=bool)
    answers = torch.tensor([[3.0, 0.0]] * 5 + [[0.01, 0.0]])
    assert vote_certificate(vote, answers, masks).radius == 2
    assert vote_certificate(vote, answers, masks, rounding=0.1).radius == 1
    assert vote_certificate(vote, answers, masks, rounding=9).radius == 0
    mean = MaskedVote(copies=6, mask=0.8, combine="mean")
    assert vote_certificate(mean, answers, masks).radius == 2
    assert vote_certificate(mean, answers, masks, rounding=0.6).radius == 0


def test_of_three_classes_the_nearest_decides() -> None:
    ballots = np.eye(3)[[0, 0, 0, 0, 1, 1, 2]]
    masks = np.eye(7, dtype=bool)
    # a vote taken from 0 and given to 1: 3 against 3
    assert vote_radius(ballots, masks, 0) == 0
    assert vote_radius(ballots[[0, 1, 2, 3, 4, 6]], masks[:6], 0) == 1
    assert vote_radius(ballots, masks, 1) == 0


def _member() -> Any:
    return SimpleNamespace(fingerprint="abc")


@pytest.mark.parametrize(
    ("defense", "config", "message"),
    [
        pytest.param(
            lambda spaces: Normalize(), {}, "expected masked-vote, alone or behind", id="no vote"
        ),
        pytest.param(
            lambda spaces: Normalize(MaskedVote()),
            {},
            "expected only defences that read each word for itself before masked-vote, got "
            "'normalize'",
            id="words change",
        ),
        pytest.param(
            lambda spaces: Synonyms(SynonymClusters({"usa": "united states"}), MaskedVote()),
            {},
            "got 'synonyms'",
            id="one word read as two",
        ),
        pytest.param(
            lambda spaces: MaskedVote(RobustPrefix(spaces, mode="batch")),
            {},
            "answers a copy the same way each time",
            id="batch",
        ),
        pytest.param(
            lambda spaces: MaskedVote(Gate(None, RobustPrefix(spaces), threshold=1.0)),
            {},
            "answers a copy the same way each time",
            id="gate inside",
        ),
        pytest.param(
            lambda spaces: MaskedVote(Ensemble([_member()], combine="vote")),
            {},
            "answers a copy the same way each time",
            id="vote of members inside",
        ),
        pytest.param(
            lambda spaces: MaskedVote(RobustPrefix(spaces, tolerance=0.1)),
            {},
            "answers a copy the same way each time",
            id="tuning that ends early",
        ),
        pytest.param(
            lambda spaces: Gate(None, MaskedVote(), threshold=1.0),
            {},
            "expected masked-vote, alone or behind",
            id="gate before",
        ),
        pytest.param(
            lambda spaces: MaskedVote(draw="text"), {}, "draw=length", id="masks by the text"
        ),
    ],
)
def test_what_is_not_certified_is_refused(
    spaces: Subspaces, defense: Callable[[Subspaces], Any], config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match="expected") as raised:
        list(certify(fake_model(2), defense(spaces), [("a b",)], CertifyConfig(**config)))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_defences_that_read_word_by_word_may_stand_before() -> None:
    def table(text: Fields) -> int:
        return int("bad" in text[0])

    clusters = SynonymClusters({"poor": "bad", "awful": "bad"})
    defense = Synonyms(clusters, MaskedVote(Lookup(table, 2), copies=3, mask=0.7))
    model = fake_model(2)
    one, two = certify(model, defense, [("poor awful bad",), ("a fine film",)])
    assert (one.label, one.radius) == (1, 1)
    assert (two.label, two.radius) == (0, 1)
    smoothed = CertifyConfig(method="smoothed")
    vote = MaskedVote(Lookup(table, 2), draw="text", mask=0.7)
    assert [c.label for c in certify(model, vote, [("a fine film",)], smoothed)] == [0]


def test_masks_of_the_smoothed_certificate_do_not_depend_on_the_text() -> None:
    rng = [np.random.default_rng((0, 3)) for _ in range(2)]
    first, second = (random_masks(8, 2, 50, each) for each in rng)
    assert np.array_equal(first, second)


def test_of_a_pair_the_last_column_alone_may_be_certified() -> None:
    def table(text: Fields) -> int:
        return int("p" in text[1].split())

    model, pair = fake_model(2), ("a man sleeps", "a b c")
    defense = MaskedVote(Lookup(table, 2), copies=3, mask=0.7, columns="last")
    [found] = certify(model, defense, [pair])
    assert (found.label, found.radius, found.words, found.first_column) == (0, 1, 3, 1)
    attacked: list[Fields] = [(pair[0], text) for [text] in substitutions(pair[1].split(), 1)]
    assert (defense.logits(model, attacked).argmax(-1) == 0).all()
