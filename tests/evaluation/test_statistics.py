"""Intervals and tests against published and hand-worked numbers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robust_prefix.evaluation.statistics import bootstrap_mean, mcnemar, wilson


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
