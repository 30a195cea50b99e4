"""Ours and scikit-learn's find one subspace; a fit's peak is that of its own process."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import subspace_angles

from robust_prefix.classifier import PrefixClassifier
from timing import subspace_fit
from timing.material import Material
from timing.results import Plan
from timing.subspace_fit import FULL, METHODS, OURS, Job, fit, fit_apart, measure, real_states


@pytest.fixture
def states() -> subspace_fit.Rows:
    """Forty directions whose deviation falls from 10 to 0.1, as that of real states does."""
    generator = np.random.default_rng(0)
    deviations = np.logspace(1, -1, 40)
    mixed = np.linalg.qr(generator.standard_normal((40, 40)))[0]
    rows = generator.standard_normal((200, 40)) * deviations @ mixed + 3
    return rows.astype(np.float32)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [300, 2600], ids=["one batch", "three batches"])
def test_a_basis_is_orthonormal_and_of_the_rank_asked_for(
    states: subspace_fit.Rows, method: str, count: int
) -> None:
    basis = fit(Job(method, states, count, 12, seed=1, threads=1)).basis
    assert basis.shape == (40, 12)
    np.testing.assert_allclose(basis.T @ basis, np.eye(12), atol=1e-5)


@pytest.mark.parametrize("rank", [1, 12, 39])
def test_ours_is_scikit_learns_subspace(states: subspace_fit.Rows, rank: int) -> None:
    ours = fit(Job(OURS, states, 2600, rank, seed=1, threads=1)).basis
    exact = fit(Job(FULL, states, 2600, rank, seed=1, threads=1, double=True)).basis
    other = fit(Job(FULL, states, 2600, rank, seed=2, threads=1, double=True)).basis
    assert subspace_angles(ours, exact).max() < 1e-3
    assert subspace_angles(ours, other).max() > 1e-3  # of other rows


def test_rows_are_the_same_whatever_the_batches(states: subspace_fit.Rows) -> None:
    job = Job(OURS, states, 2600, 5, seed=1, threads=1)
    sizes = [len(rows) for rows in job.batches()]
    assert sum(sizes) == 2600
    assert max(sizes) - min(sizes) <= 1
    first, again = (np.concatenate(list(job.batches())) for _ in range(2))
    assert np.array_equal(first, again)
    assert len(np.unique(first, axis=0)) == 2600
    np.testing.assert_allclose(first.mean(0), states.mean(0), atol=1)


def test_a_process_of_its_own_finds_the_same_and_knows_its_peak(
    states: subspace_fit.Rows,
) -> None:
    job = Job(FULL, states, 100_000, 12, seed=1, threads=1)
    apart = fit_apart(job)
    assert 100_000 * 40 * 4 < apart.peak_bytes < 100 * 100_000 * 40 * 4  # it holds all rows
    ours = fit(Job(OURS, states, 100_000, 12, seed=1, threads=1))
    assert subspace_angles(ours.basis, apart.basis).max() < 1e-2  # scikit-learn in float32


def test_every_method_at_every_count(classifier: PrefixClassifier, material: Material) -> None:
    states = real_states(classifier, material, 6)
    assert states.shape == (32, classifier.model.backbone.hidden_size)
    rows, angles = measure(states, Plan(2, 0, warmup=0), [300, 1300], run_fit=fit)
    assert len(rows) == 2 * len(METHODS)
    assert all(len(row.peak_bytes) == 2 for row in rows)
    assert [each["rows"] for each in angles] == [300, 1300]
    assert all(each[OURS] < 1e-3 for each in angles)
