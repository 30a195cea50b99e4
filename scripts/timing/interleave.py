"""Contestants run in turn in one process, so that whatever slows the machine slows them all.

A machine's speed drifts by more than the differences of interest. Within one round the contestants
follow each other closely, in an order drawn anew, and what counts is the ratio within the round.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from robust_prefix.errors import ConfigError

Contestant = Callable[[int], float]
"""Does the work of one round, given its number, and returns the seconds that it took."""

_RESAMPLES = 2000


class Clock(Protocol):
    """Measures a call."""

    def seconds(self, call: Callable[[], object]) -> float:
        """How long ``call`` takes, work that it left to a device included."""
        ...


class WallClock:
    """For the CPU."""

    def seconds(self, call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start


class DeviceClock:
    """For a GPU: a pair of events in its queue, so that waiting for the answer is not counted."""

    def seconds(self, call: Callable[[], object]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / 1000


def clock_for(device: torch.device) -> Clock:
    """The clock that sees all of the work done on ``device``."""
    return DeviceClock() if device.type == "cuda" else WallClock()


def timed(call: Callable[[int], object], clock: Clock) -> Contestant:
    """A contestant whose whole call counts."""
    return lambda number: clock.seconds(lambda: call(number))


@dataclass(frozen=True)
class Spread:
    """A median with its surroundings.

    Attributes:
        p10, p90: between them lie eight rounds of ten.
        low, high: the 95% percentile bootstrap interval of the median over rounds.
    """

    median: float
    p10: float
    p90: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float], seed: int = 0) -> Spread:
        """The spread of at least one value; equal values and seeds give equal intervals."""
        sample = np.asarray(values, dtype=np.float64)
        p10, median, p90 = np.percentile(sample, [10, 50, 90])
        drawn = np.random.default_rng(seed).integers(len(sample), size=(_RESAMPLES, len(sample)))
        low, high = np.percentile(np.median(sample[drawn], axis=1), [2.5, 97.5])
        return cls(*map(float, (median, p10, p90, low, high)))


@dataclass(frozen=True)
class Timings:
    """Seconds by contestant, one number a round."""

    seconds: Mapping[str, Sequence[float]]

    def spread(self, name: str) -> Spread:
        """The seconds of a contestant."""
        return Spread.of(self.seconds[name])

    def ratio(self, name: str, baseline: str) -> Spread:
        """How many times as long as ``baseline`` a contestant takes, round by round."""
        pairs = zip(self.seconds[name], self.seconds[baseline], strict=True)
        return Spread.of([mine / other for mine, other in pairs])


def interleave(
    contestants: Mapping[str, Contestant],
    rounds: int,
    seed: int = 0,
    warmup: int = 1,
    done: Callable[[str], None] | None = None,
) -> Timings:
    """Run every contestant once a round, in an order drawn anew for each round.

    Args:
        rounds: their numbers, which the contestants get, count from 0.
        warmup: rounds beforehand whose seconds are dropped. Their numbers come after those of the
            others, so that nothing that is timed was seen before.
        done: told the contestant's name after each of ``runs(...)`` calls.

    Raises:
        ConfigError: there is no round, or no contestant.
    """
    if rounds < 1 or not contestants:
        raise ConfigError(
            f"expected at least one round and one contestant, got {rounds} of {len(contestants)}"
        )
    order = random.Random(seed)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in [*range(rounds, rounds + warmup), *range(rounds)]:
        names = list(contestants)
        order.shuffle(names)
        for name in names:
            seconds[name].append(contestants[name](number))
            if done is not None:
                done(name)
    return Timings({name: values[warmup:] for name, values in seconds.items()})


def runs(contestants: int, rounds: int, warmup: int = 1) -> int:
    """How many calls ``interleave`` makes."""
    return contestants * (rounds + warmup)
