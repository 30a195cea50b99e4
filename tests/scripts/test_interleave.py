"""Rounds and ratios, on contestants that say what they took."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from robust_prefix.errors import ConfigError
from timing import interleave as module
from timing.interleave import Spread, Timings, WallClock, interleave, runs, timed


def test_a_machine_that_drifts_changes_no_ratio() -> None:
    """Seconds of 1 to 30 a round; within a round one contestant takes 2.5 times the other."""
    timings = interleave(
        {"slow": lambda number: 2.5 * (number + 1), "fast": lambda number: number + 1.0}, 30
    )
    assert timings.seconds["fast"] == [*range(1, 31)]
    ratio = timings.ratio("slow", "fast")
    assert ratio == Spread(2.5, 2.5, 2.5, 2.5, 2.5)
    assert timings.spread("slow").p90 > 5 * timings.spread("slow").p10


def test_each_round_runs_all_in_an_order_of_its_own() -> None:
    calls: list[tuple[int, str]] = []

    def contestant(name: str) -> module.Contestant:
        return lambda number: calls.append((number, name)) or 1.0  # type: ignore[func-returns-value]

    told: list[str] = []
    names = "abcd"
    timings = interleave(
        {name: contestant(name) for name in names}, 6, seed=3, warmup=2, done=told.append
    )
    rounds = [calls[start : start + 4] for start in range(0, len(calls), 4)]
    # the warm-up sees texts that no timed round sees
    assert [{number for number, _ in each} for each in rounds] == [
        {6}, {7}, {0}, {1}, {2}, {3}, {4}, {5},
    ]  # fmt: skip
    assert all(sorted(name for _, name in each) == list(names) for each in rounds)
    assert len({tuple(name for _, name in each) for each in rounds}) > 3
    assert told == [name for _, name in calls]
    assert len(calls) == runs(4, 6, 2)
    assert {len(seconds) for seconds in timings.seconds.values()} == {6}


def test_equal_seeds_give_equal_orders() -> None:
    def order(seed: int) -> list[str]:
        told: list[str] = []
        contestants = dict.fromkeys("abcdef", lambda _: 1.0)
        interleave(contestants, 4, seed, done=told.append)
        return told

    assert order(1) == order(1) != order(2)


def test_a_spread_tells_median_percentiles_and_the_interval_of_the_median() -> None:
    values = [*map(float, range(1, 102))]
    spread = Spread.of(values)
    assert (spread.median, spread.p10, spread.p90) == (51, 11, 91)
    assert 35 < spread.low < 46
    assert 56 < spread.high < 67
    assert spread == Spread.of(values)
    # the interval is that of a median: an outlier more does not move it, and more rounds narrow it
    assert Spread.of([*values[:-1], 1e9]).high == pytest.approx(spread.high, abs=2)
    many = Spread.of(list(np.repeat(values, 9)))
    assert many.high - many.low < 0.5 * (spread.high - spread.low)


def test_ratios_are_taken_round_by_round() -> None:
    timings = Timings({"a": [2.0, 40.0, 6.0], "b": [1.0, 10.0, 2.0]})
    assert timings.ratio("a", "b").median == 3
    assert timings.ratio("b", "a").median == pytest.approx(1 / 3)


def test_the_clock_measures_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    now = itertools.count(10.0, 2.5)
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(now))
    seen: list[int] = []
    assert timed(seen.append, WallClock())(7) == 2.5
    assert seen == [7]


@pytest.mark.parametrize(("names", "rounds"), [("a", 0), ("", 3)], ids=["no round", "nobody"])
def test_nothing_to_measure_is_an_error(names: str, rounds: int) -> None:
    with pytest.raises(ConfigError, match="at least one round and one contestant"):
        interleave(dict.fromkeys(names, lambda _: 1.0), rounds)
