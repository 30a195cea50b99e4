"""How well a score tells two kinds of text apart, against other ways to count the same."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from robust_prefix.evaluation.roc import area_under_risk, auroc, exceeding, selective


@pytest.mark.parametrize("digits", [6, 0], ids=["no-ties", "many-ties"])
@pytest.mark.parametrize("shift", [0.0, 0.7, 2.0])
def test_auroc_is_that_of_scikit_learn(digits: int, shift: float) -> None:
    rng = np.random.default_rng(0)
    clean, altered = rng.normal(size=80).round(digits), rng.normal(shift, size=50).round(digits)
    truth = np.repeat([0, 1], [80, 50])
    assert auroc(clean, altered).value == pytest.approx(
        roc_auc_score(truth, np.concatenate([clean, altered]))
    )


def test_the_interval_is_about_as_wide_as_a_bootstrap() -> None:
    rng = np.random.default_rng(1)
    clean, altered = rng.normal(size=200), rng.normal(1.0, size=120)
    found = auroc(clean, altered)

    def statistic(a: np.ndarray, b: np.ndarray) -> float:
        return float(stats.mannwhitneyu(b, a).statistic / (len(a) * len(b)))

    drawn = stats.bootstrap(
        (clean, altered), statistic, vectorized=False, n_resamples=500, method="percentile", rng=rng
    ).confidence_interval
    assert found.low == pytest.approx(drawn.low, abs=0.015)
    assert found.high == pytest.approx(drawn.high, abs=0.015)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    truth = stats.norm.cdf(1 / np.sqrt(2))
    found = [auroc(rng.normal(size=60), rng.normal(1.0, size=40)) for _ in range(400)]
    covered = np.mean([each.low <= truth <= each.high for each in found])
    assert 0.92 <= covered <= 0.98


@pytest.mark.parametrize(
    ("clean", "altered", "value", "low", "high"),
    [
        pytest.param([1, 2, 3, 4], [5, 6, 7], 1.0, 0.43, 1.0, id="apart"),
        pytest.param([5, 6, 7, 8], [1, 2, 3], 0.0, 0.0, 0.57, id="the-wrong-way-round"),
        pytest.param([1.0, 2.0], [], None, 0.0, 1.0, id="nothing-to-detect"),
        pytest.param([1, 1, 1], [1, 1], 0.5, 0.095, 0.905, id="all-alike"),
    ],
)
def test_extremes(
    clean: list[float], altered: list[float], value: float | None, low: float, high: float
) -> None:
    found = auroc(clean, altered)
    assert found.value == value
    assert found.interval == pytest.approx([low, high], abs=0.01)


def test_what_is_at_the_threshold_does_not_exceed_it() -> None:
    assert exceeding([1, 2, 2, 3], 2).value == 0.25


def test_the_most_suspicious_are_refused_first() -> None:
    scores, right = [0.1, 0.9, 0.2, 0.8], [True, False, True, True]
    half, most, everything = selective(scores, right, (0.5, 0.75, 1.0))
    assert (half.coverage, half.accuracy.value) == (0.5, 1.0)
    assert (most.coverage, most.accuracy.value) == (0.75, 1.0)
    assert (everything.coverage, everything.accuracy.value) == (1.0, 0.75)
    assert area_under_risk(scores, right) == pytest.approx(0.25 / 4)
    assert area_under_risk([-s for s in scores], right) == pytest.approx(
        (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4
    )
    assert area_under_risk([], []) is None


def test_scores_that_are_all_the_same_tell_nothing() -> None:
    found = auroc([0.0] * 100, [0.0] * 3)
    assert found.value == 0.5
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.3 < 0.7 < found.high
