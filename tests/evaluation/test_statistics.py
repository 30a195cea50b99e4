"""Intervals and tests against published and hand-worked numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robust_prefix.evaluation.statistics import (
    Estimate,
    bootstrap_ratio,
    mcnemar,
    paired_difference,
    pooled_proportion,
    sign_flip,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_as_published(successes: int, n: int, low: float, high: float) -> None:
    found = wilson(successes, n)
    assert found.value == successes / n
    assert found.interval == [pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5)]


def test_wilson_of_nothing_knows_nothing() -> None:
    found = wilson(0, 0)
    assert (found.value, found.interval) == (None, [0.0, 1.0])


@settings(deadline=None)
@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_contains_its_value(counts: tuple[int, int]) -> None:
    found = wilson(*counts)
    assert found.value is not None
    assert 0.0 <= found.low <= found.value <= found.high <= 1.0
    assert found.low < found.high


@settings(deadline=None)
@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_symmetric(counts: tuple[int, int]) -> None:
    successes, n = counts
    low, high = wilson(successes, n).interval
    assert wilson(n - successes, n).interval == [pytest.approx(1 - high), pytest.approx(1 - low)]


def bootstrap_mean(values: Sequence[float], seed: int = 0) -> Estimate | None:
    return bootstrap_ratio(values, [1] * len(values), seed)


@settings(deadline=None)
@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=40))
def test_bootstrap_contains_the_mean(values: list[int]) -> None:
    found = bootstrap_mean(values)
    assert found is not None
    assert found.value == pytest.approx(sum(values) / len(values))
    assert min(values) <= found.low <= found.value <= found.high <= max(values)


def test_bootstrap_of_degenerate_samples() -> None:
    assert bootstrap_mean([]) is None
    for values in ([4], [7, 7, 7]):
        found = bootstrap_mean(values)
        assert found is not None
        assert [found.value, *found.interval] == [values[0]] * 3


def test_bootstrap_agrees_with_the_normal_interval() -> None:
    values = list(range(200))
    found = bootstrap_mean(values)
    assert found is not None
    half = 1.96 * math.sqrt((200**2 - 1) / 12 / 200)
    assert found.interval == [
        pytest.approx(99.5 - half, abs=0.7),
        pytest.approx(99.5 + half, abs=0.7),
    ]


def test_bootstrap_is_seeded() -> None:
    values = [number**2 for number in range(40)]
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    [
        (0, 0, 1.0),
        (1, 1, 1.0),
        (0, 5, 2 / 2**5),
        (5, 0, 2 / 2**5),
        (1, 7, 2 * (1 + 8) / 2**8),
        (2, 8, 2 * (1 + 10 + 45) / 2**10),
    ],
)
def test_mcnemar_by_hand(only_first: int, only_second: int, p_value: float) -> None:
    first = [True] * only_first + [False] * only_second + [True] * 4 + [False] * 3
    second = [False] * only_first + [True] * only_second + [True] * 4 + [False] * 3
    assert mcnemar(first, second) == pytest.approx(p_value)


def test_mcnemar_needs_pairs() -> None:
    with pytest.raises(ValueError, match="shorter"):
        mcnemar([True], [])


@pytest.mark.parametrize(
    ("successes", "trials", "same_as"),
    [
        ([1, 0, 1, 1], [1, 1, 1, 1], (3, 4)),  # one seed
        ([5, 0, 0, 5], [5, 5, 5, 5], (2, 4)),  # the seeds agree: four examples, not twenty
        ([0, 0, 0], [5, 5, 5], (0, 3)),
        ([2, 5], [2, 5], (2, 2)),  # all won, of different sizes
        ([1, 0, 0], [1, 0, 1], (1, 2)),  # one without trials
        ([0], [0], (0, 0)),
        ([], [], (0, 0)),
    ],
)
def test_clusters_that_agree_are_a_plain_proportion(
    successes: list[int], trials: list[int], same_as: tuple[int, int]
) -> None:
    assert pooled_proportion(successes, trials) == wilson(*same_as)


def test_clusters_that_disagree_have_a_wider_interval() -> None:
    held = [5, 3, 1, 0, 4, 0, 2, 5, 5, 1]
    found = pooled_proportion(held * 4, [5] * 40)
    assert found.value == 104 / 200
    half = 1.96 * math.sqrt(sum((x / 5 - 0.52) ** 2 for x in held) / 10 / 40)
    assert found.low == pytest.approx(0.52 - half, abs=0.02)
    assert found.high == pytest.approx(0.52 + half, abs=0.02)
    assert found.high - found.low > 1.5 * (wilson(104, 200).high - wilson(104, 200).low)


def test_one_success_more_hardly_narrows_an_interval_at_the_edge() -> None:
    """Of 100 examples under five seeds each, one that holds now and then is hardly news."""
    highs = [pooled_proportion([held, *[0] * 99], [5] * 100).high for held in range(6)]
    assert all(more > 0.95 * fewer for fewer, more in itertools.pairwise(highs))
    assert highs[0] == wilson(0, 100).high
    single = pooled_proportion([2], [5])
    assert (single.value, single.low < 0.2, single.high > 0.6) == (0.4, True, True)


def test_independent_seeds_count_as_so_many_trials() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for _ in range(20):
        found = pooled_proportion(rng.binomial(5, 0.5, 100).tolist(), [5] * 100)
        widths.append((found.high - found.low) / (wilson(250, 500).high - wilson(250, 500).low))
    assert np.mean(widths) == pytest.approx(1.05, abs=0.05)


def test_paired_differences_as_published() -> None:
    """Newcombe's own examples, the intervals of method 10 as they are printed there."""
    first = [True] * 36 + [True] * 12 + [False] * 2
    second = [True] * 36 + [False] * 12 + [True] * 2
    found = paired_difference(first, second)
    assert found.value == pytest.approx(0.2)
    assert found.interval == [pytest.approx(0.0569, abs=1e-4), pytest.approx(0.3404, abs=1e-4)]


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_a_paired_difference_is_within_its_interval(pairs: list[tuple[bool, bool]]) -> None:
    first, second = zip(*pairs, strict=True)
    found, turned = paired_difference(first, second), paired_difference(second, first)
    assert found.value is not None
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high
    assert turned.interval == [pytest.approx(-found.high), pytest.approx(-found.low)]


def test_of_nothing_no_difference_is_known() -> None:
    found = paired_difference([], [])
    assert (found.value, found.interval) == (None, [-1.0, 1.0])


def test_a_ratio_weighs_clusters_by_their_size() -> None:
    found = bootstrap_ratio([10, 0, 90], [1, 0, 3])
    assert found is not None
    assert (found.value, found.low, found.high) == (25.0, 10.0, 30.0)
    assert bootstrap_ratio([0], [0]) is None


@settings(deadline=None)
@given(st.lists(st.sampled_from([-1, 0, 1]), max_size=30))
def test_sign_flips_of_one_seed_are_mcnemar(differences: list[int]) -> None:
    first, second = [d > 0 for d in differences], [d < 0 for d in differences]
    assert sign_flip(differences) == mcnemar(first, second)
    assert sign_flip([3 * d for d in differences]) == mcnemar(first, second)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=9))
def test_sign_flips_by_going_through_all(differences: list[int]) -> None:
    observed = abs(sum(differences))
    signs = itertools.product((-1, 1), repeat=len(differences))
    sums = [abs(sum(s * d for s, d in zip(sign, differences, strict=True))) for sign in signs]
    expected = sum(value >= observed for value in sums) / len(sums)
    assert sign_flip(differences) == pytest.approx(expected)


def test_many_sign_flips_are_drawn_and_the_draw_is_seeded() -> None:
    differences = [5, 4, -3, 2, 5, -1, 4, 3] * 8
    assert sign_flip(differences, seed=1) == sign_flip(differences, seed=1)
    assert sign_flip(differences) == pytest.approx(2 / 10_000)  # nothing drawn was as extreme
    balanced = [5, 4, -5, -4, 3, -3, 2, -2] * 8
    assert sign_flip(balanced) == pytest.approx(1.0, abs=0.1)
