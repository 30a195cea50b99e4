"""The streaming fit against scikit-learn, and the projections' algebra."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from robust_prefix.errors import ArtifactError, ConfigError, InputError
from robust_prefix.subspaces import (
    StreamingCovariance,
    Subspace,
    Subspaces,
    choose_rank,
    project,
    residual,
    residual_norm_squared,
)


def _rows(count: int, hidden: int, seed: int = 0, decay: float = 0.8) -> torch.Tensor:
    """Rows whose variance falls geometrically along rotated axes, far from the origin."""
    generator = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(generator.normal(size=(hidden, hidden)))
    values = generator.normal(size=(count, hidden)) * decay ** np.arange(hidden)
    return torch.from_numpy(values @ rotation.T + 50 * generator.normal(size=hidden))


def _stream(rows: torch.Tensor, sizes: list[int]) -> StreamingCovariance:
    fit = StreamingCovariance(rows.shape[1])
    start = 0
    for size in sizes:
        fit.update(rows[start : start + size])
        start += size
    fit.update(rows[start:])
    return fit


def test_streamed_fit_equals_scikit_learns_pca() -> None:
    rows = _rows(500, 24)
    fit = _stream(rows, [1, 7, 64, 200])
    pca = PCA(svd_solver="full").fit(rows.numpy())
    vectors, values = fit.principal()
    np.testing.assert_allclose(fit.mean.numpy(), pca.mean_, rtol=0, atol=1e-12 * 50)
    np.testing.assert_allclose(values.numpy(), pca.singular_values_, rtol=1e-6)
    cosines = np.linalg.svd(vectors[:, :10].numpy().T @ pca.components_[:10].T)[1]
    # Angles by their sine, as a cosine cannot tell angles below 1e-8 apart.
    outside = pca.components_[:10].T - vectors[:, :10].numpy() @ (
        vectors[:, :10].numpy().T @ pca.components_[:10].T
    )
    assert np.linalg.norm(outside, 2) < 1e-6
    assert cosines.min() > 1 - 1e-9


def test_explained_variance_is_scikit_learns() -> None:
    rows = _rows(400, 16)
    fit = _stream(rows, [100, 100])
    assert fit.subspace(0.9, "variance").rank == PCA(n_components=0.9).fit(rows).n_components_


@pytest.mark.parametrize(
    ("values", "threshold", "criterion", "rank"),
    [
        pytest.param([6, 3, 1], 0.59, "singular-values", 1, id="exceeds at once"),
        pytest.param([6, 3, 1], 0.6, "singular-values", 2, id="reaching is not exceeding"),
        pytest.param([6, 3, 1], 0.95, "singular-values", 3, id="needs all"),
        pytest.param([6, 3, 1], 1.0, "singular-values", 3, id="one keeps what varies"),
        pytest.param([6, 3, 0], 1.0, "singular-values", 2, id="one drops what does not"),
        pytest.param([6, 3, 1], 0.75, "variance", 1, id="squares weigh the first more"),
        pytest.param([0, 0, 0], 0.99, "singular-values", 0, id="nothing varies"),
    ],
)
def test_rank_by_hand(values: list[float], threshold: float, criterion: str, rank: int) -> None:
    assert choose_rank(torch.tensor(values), threshold, criterion) == rank  # type: ignore[arg-type]


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5])
def test_threshold_out_of_range(threshold: float) -> None:
    with pytest.raises(ConfigError, match="threshold"):
        choose_rank(torch.ones(3), threshold)


def test_one_row_is_not_enough() -> None:
    with pytest.raises(InputError, match="at least 2"):
        _stream(_rows(1, 8), []).subspace(0.99)


def test_a_constant_state_has_rank_zero_and_no_residual() -> None:
    rows = torch.full((40, 8), 3.25, dtype=torch.float64)
    space = _stream(rows, [13, 13]).subspace(0.99)
    assert space.rank == 0
    assert residual_norm_squared(space, rows.float()).max() == 0


def test_the_smaller_basis_is_stored_and_both_say_the_same() -> None:
    rows = _rows(300, 20, decay=0.97)
    fit = _stream(rows, [150])
    high, low = fit.subspace(0.95), fit.subspace(0.3)
    assert (high.is_complement, low.is_complement) == (True, False)
    assert high.basis.shape[1] < 10
    vectors, _ = fit.principal()
    own = Subspace(high.mean, vectors[:, : high.rank].float(), is_complement=False)
    states = rows[:9].float() + 1
    torch.testing.assert_close(residual(high, states), residual(own, states), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(
        residual_norm_squared(high, states),
        residual_norm_squared(own, states),
        atol=1e-4,
        rtol=1e-3,
    )


@settings(max_examples=30, deadline=None)
@given(
    hidden=st.integers(2, 12),
    rank=st.integers(0, 12),
    is_complement=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_projection_algebra(hidden: int, rank: int, is_complement: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    columns = min(rank, hidden)
    basis = torch.linalg.qr(torch.randn(hidden, hidden, generator=generator, dtype=torch.float64))[
        0
    ]
    space = Subspace(
        torch.randn(hidden, generator=generator, dtype=torch.float64),
        basis[:, :columns],
        is_complement,
    )
    states = torch.randn(5, hidden, generator=generator, dtype=torch.float64)
    once, rest = project(space, states), residual(space, states)
    torch.testing.assert_close(project(space, once), once)  # idempotent
    torch.testing.assert_close(once + rest, states)
    torch.testing.assert_close(residual(space, once), torch.zeros_like(rest))  # in range
    inner = ((once - space.mean) * rest).sum(-1)
    torch.testing.assert_close(inner, torch.zeros_like(inner))  # orthogonal
    torch.testing.assert_close(residual_norm_squared(space, states), rest.square().sum(-1))


@pytest.mark.parametrize("is_complement", [True, False])
def test_gradient_of_the_residual_by_finite_differences(is_complement: bool) -> None:
    basis = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0][:, :2]
    space = Subspace(torch.randn(6, dtype=torch.float64), basis, is_complement)
    states = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda h: residual_norm_squared(space, h), states)


def test_save_and_load(tmp_path: Path) -> None:
    fit = _stream(_rows(100, 8), [50])
    spaces = Subspaces({1: fit.subspace(0.99), 2: fit.subspace(0.2)}, "base", "prefix", {"n": 1})
    spaces.save(tmp_path / "spaces.safetensors")
    loaded = Subspaces.load(tmp_path / "spaces.safetensors")
    assert (loaded.base_fingerprint, loaded.prefix_fingerprint) == ("base", "prefix")
    assert loaded.config == {"n": 1}
    for layer, space in spaces.layers.items():
        torch.testing.assert_close(loaded.layers[layer].basis, space.basis, atol=0, rtol=0)
        torch.testing.assert_close(loaded.layers[layer].mean, space.mean, atol=0, rtol=0)
        assert loaded.layers[layer].is_complement == space.is_complement
    with pytest.raises(ArtifactError, match="fit-subspaces"):
        loaded.check("base", "another prefix")
