"""How well a score tells two kinds of text apart, and what abstaining buys."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, rankdata

from robust_prefix.evaluation.statistics import CONFIDENCE, Estimate, wilson


def auroc(clean: ArrayLike, altered: ArrayLike) -> Estimate:
    """The probability that an altered text scores higher than a clean one, with its interval.

    Of equal scores half count. The variance is that of DeLong, DeLong & Clarke-Pearson (Biometrics
    1988) by way of midranks (Sun & Xu, IEEE Signal Processing Letters 2014); the interval is normal
    on the logit scale, which keeps it inside (0, 1). Where one kind lies above the other without
    exception, or all scores are the same, there is no variance to estimate, and the interval is
    Wilson's for as many pairs of texts that share none.

    Args:
        clean, altered: scores ``(n,)`` and ``(m,)``.
    """
    low, high = np.asarray(clean, dtype=np.float64), np.asarray(altered, dtype=np.float64)
    n, m = len(low), len(high)
    if not n or not m:
        return wilson(0, 0)
    ranks = rankdata(np.concatenate([high, low]))
    # of each altered text the share of the clean ones below it, and the other way round
    below = (ranks[:m] - rankdata(high)) / n
    above = 1 - (ranks[m:] - rankdata(low)) / m
    value = float(below.mean())
    independent = min(n, m)
    variance = float(below.var(ddof=1) / m + above.var(ddof=1) / n) if independent > 1 else 0.0
    if not variance:
        found = wilson(round(value * independent), independent)
        return Estimate(value, min(found.low, value), max(found.high, value))
    spread = norm.ppf((1 + CONFIDENCE) / 2) * math.sqrt(variance) / (value * (1 - value))
    center = math.log(value / (1 - value))
    return Estimate(value, _logistic(center - spread), _logistic(center + spread))


def exceeding(scores: ArrayLike, threshold: float) -> Estimate:
    """The share of scores above a threshold, with Wilson's interval."""
    values = np.asarray(scores, dtype=np.float64)
    return wilson(int((values > threshold).sum()), len(values))


@dataclass(frozen=True)
class Selective:
    """Answering only the least suspicious texts.

    Attributes:
        coverage: share of the texts that are answered.
        accuracy: share of these that are answered right.
    """

    coverage: float
    accuracy: Estimate


COVERAGES = (1.0, 0.99, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)


def selective(
    scores: ArrayLike, right: Sequence[bool], coverages: Sequence[float] = COVERAGES
) -> list[Selective]:
    """Accuracy by coverage (El-Yaniv & Wiener, JMLR 2010): the most suspicious are refused first.

    Of equal scores the order of the texts decides.

    Args:
        scores: of each text ``(n,)``.
        right: whether it is answered right ``(n,)``.
    """
    order: NDArray[np.int_] = np.argsort(np.asarray(scores, dtype=np.float64), kind="stable")
    correct = np.cumsum(np.asarray(right, dtype=bool)[order])
    found = []
    for coverage in coverages:
        kept = math.ceil(len(order) * coverage - 1e-9)
        answered = wilson(int(correct[kept - 1]) if kept else 0, kept)
        found.append(Selective(kept / len(order) if len(order) else 0.0, answered))
    return found


def area_under_risk(scores: ArrayLike, right: Sequence[bool]) -> float | None:
    """The mean error over all coverages, 0 at best; None of no texts."""
    order: NDArray[np.int_] = np.argsort(np.asarray(scores, dtype=np.float64), kind="stable")
    wrong = ~np.asarray(right, dtype=bool)[order]
    if not len(wrong):
        return None
    return float((np.cumsum(wrong) / np.arange(1, len(wrong) + 1)).mean())


def as_json(estimate: Estimate) -> dict[str, Any]:
    """``{"value": ..., "interval": [low, high]}``, rounded."""
    value = None if estimate.value is None else round(estimate.value, 6)
    return {"value": value, "interval": [round(bound, 6) for bound in estimate.interval]}


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))
