"""Intervals and tests for what an evaluation counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
_RESAMPLES = 2000
_PERMUTATIONS = 9999
_BATCH = 1000  # permutations in memory at once


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
    return Estimate(None, 0.0, 1.0) if n == 0 else _wilson(successes / n, n)


def pooled_proportion(successes: Sequence[int], trials: Sequence[int]) -> Estimate:
    """A proportion of trials that come in clusters, such as one example under several seeds.

    The trials of one example are not independent. The interval is Wilson's for as many trials as
    would vary as much if they were: between the number of clusters and that of the trials, by the
    variance of the clusters and, as Agresti & Coull (Am. Stat. 1998) add trials where few
    succeed or few fail, of two more clusters, one of successes and one of failures. Where all
    trials of a cluster agree there is nothing but clusters to count.

    Args:
        successes: of each cluster.
        trials: of each cluster.
    """
    pairs = [(s, t) for s, t in zip(successes, trials, strict=True) if t]
    won, total = sum(successes), sum(trials)
    same_size = len({t for _, t in pairs}) <= 1
    if won in (0, total) or (same_size and all(s in (0, t) for s, t in pairs)):
        return wilson(len(pairs) * won // total if total else 0, len(pairs))
    usual = total / len(pairs)
    held, asked = np.array([*pairs, (usual, usual), (0.0, usual)]).T
    share = held.sum() / asked.sum()
    variance = np.square(held - share * asked).sum() / asked.sum() ** 2
    variance *= len(held) / (len(held) - 1)
    size = min(max(share * (1 - share) / variance, len(pairs)), total)
    return _wilson(won / total, float(size))


def _wilson(value: float, n: float) -> Estimate:
    """Wilson's interval of a share of ``n`` trials, which need be no whole number."""
    z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    middle = (value + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(value * (1 - value) / n + z**2 / (4 * n**2))
    # at 0 and n successes rounding can put a bound 1e-17 on the wrong side of the value
    low, high = min(middle - half, value), max(middle + half, value)
    return Estimate(value, max(low, 0.0), min(high, 1.0))


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> Estimate:
    """The share of examples that hold in the first less that in the second, of the same examples.

    With the hybrid score interval for paired proportions (Newcombe, Stat. Med. 1998, "Improved
    confidence intervals for the difference between binomial proportions based on paired data",
    method 10), which stays an interval where few examples differ or none.
    """
    pairs = list(zip(first, second, strict=True))
    n = len(pairs)
    if not n:
        return Estimate(None, -1.0, 1.0)
    both, neither = sum(a and b for a, b in pairs), sum(not (a or b) for a, b in pairs)
    only_first, only_second = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    one, two = wilson(both + only_first, n), wilson(both + only_second, n)
    p, q = (both + only_first) / n, (both + only_second) / n
    margins = (p * n) * (n - p * n) * (q * n) * (n - q * n)
    together = both * neither - only_first * only_second
    corrected = max(together - n / 2, 0.0) if together > 0 else float(together)
    phi = corrected / math.sqrt(margins) if margins else 0.0
    value = (only_first - only_second) / n

    def reach(down: float, up: float) -> float:
        return math.sqrt(max(down**2 - 2 * phi * down * up + up**2, 0.0))

    low = value - reach(p - one.low, two.high - q)
    high = value + reach(one.high - p, q - two.low)
    return Estimate(value, max(low, -1.0), min(high, 1.0))


def bootstrap_ratio(sums: Sequence[float], counts: Sequence[int], seed: int = 0) -> Estimate | None:
    """A mean over clusters of values with its percentile bootstrap interval (Efron, Ann. Statist.
    1979), resampled by cluster. The resampling is seeded: equal values give equal intervals. None
    without values.

    Args:
        sums: of the values of each cluster.
        counts: how many values each has; clusters without any are left out.
    """
    pairs = [(value, count) for value, count in zip(sums, counts, strict=True) if count]
    if not pairs:
        return None
    sample = np.asarray(pairs, dtype=np.float64).T
    mean = math.fsum(sample[0]) / math.fsum(sample[1])
    if np.ptp(sample[0] / sample[1]) == 0:  # one cluster, or all the same: so is every resample
        return Estimate(mean, mean, mean)
    found = stats.bootstrap(
        (sample[0], sample[1]),
        lambda values, sizes, axis: values.sum(axis) / sizes.sum(axis),
        paired=True,
        vectorized=True,
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


def sign_flip(differences: Sequence[int], seed: int = 0) -> float:
    """The p-value of the paired permutation test that differences are as often for as against.

    Under the null each example's difference may as well have the other sign. Where all differences
    other than 0 are of one size the test is McNemar's, exactly; otherwise scipy goes through all
    signs or, of too many, draws some.

    Args:
        differences: of each example, as whole numbers: held times the number of control seeds,
            less how many of these held.

    Returns:
        The two-sided p-value; 1 where nothing differs.
    """
    moved = [value for value in differences if value]
    if len({abs(value) for value in moved}) <= 1:
        return mcnemar([value > 0 for value in moved], [value < 0 for value in moved])
    found = stats.permutation_test(
        (np.asarray(moved),),
        lambda values, axis: values.sum(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=_PERMUTATIONS,
        batch=_BATCH,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)
