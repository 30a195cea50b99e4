"""Intervals and tests for what an evaluation counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
_RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval; the value is None where there was nothing to count."""

    value: float | None
    low: float
    high: float

    @property
    def interval(self) -> list[float]:
        """``[low, high]``."""
        return [self.low, self.high]


def wilson(successes: int, n: int) -> Estimate:
    """A proportion with its Wilson score interval (Wilson, JASA 1927), within ``[0, 1]``.

    Of nothing (``n`` = 0) nothing is known: no value, interval ``[0, 1]``.
    """
    if n == 0:
        return Estimate(None, 0.0, 1.0)
    value = successes / n
    found = stats.binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    # at 0 and n successes rounding can put a bound 1e-17 on the wrong side of the value
    low, high = min(float(found.low), value), max(float(found.high), value)
    return Estimate(value, max(low, 0.0), min(high, 1.0))


def bootstrap_mean(values: Sequence[float], seed: int = 0) -> Estimate | None:
    """A mean with its percentile bootstrap interval (Efron, Ann. Statist. 1979).

    The resampling is seeded: equal values give equal intervals. None without values.
    """
    if not values:
        return None
    sample = np.asarray(values, dtype=np.float64)
    mean = math.fsum(values) / len(values)
    if np.ptp(sample) == 0:  # one value, or all the same: every resample is the sample
        return Estimate(mean, mean, mean)
    found = stats.bootstrap(
        (sample,),
        np.mean,
        confidence_level=CONFIDENCE,
        n_resamples=_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(mean, min(float(found.low), mean), max(float(found.high), mean))


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """The p-value of McNemar's exact test that two systems hold equally often.

    Only the examples at which they differ count: under the null each goes either way like a coin.

    Args:
        first: whether the first system held, for each example.
        second: the same for the second system and the same examples.

    Returns:
        The two-sided p-value; 1 where they never differ.
    """
    pairs = list(zip(first, second, strict=True))
    only_first = sum(a and not b for a, b in pairs)
    discordant = sum(a != b for a, b in pairs)
    if discordant == 0:
        return 1.0
    return float(stats.binomtest(only_first, discordant, 0.5).pvalue)
