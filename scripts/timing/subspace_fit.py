"""(d) Memory and time of the subspace fit against scikit-learn's principal components.

Every fit runs in a process of its own, whose peak above what it held before its first row is
what the fit needs. Rows come as they come from the model, batch by batch; a method that wants all
rows at once has to keep them, and that counts. Making the rows is not timed.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import subspace_angles
from threadpoolctl import threadpool_limits

from robust_prefix.classifier import PrefixClassifier
from robust_prefix.configs import SubspaceConfig
from robust_prefix.subspaces import StreamingCovariance, choose_rank
from timing.interleave import Contestant
from timing.material import Material
from timing.results import Plan, Row, contests

PART = "subspaces"
OURS = "StreamingCovariance"
FULL = "sklearn PCA, full"
AUTO = "sklearn PCA, as it chooses"
INCREMENTAL = "sklearn IncrementalPCA"
BATCH = 1024  # rows; IncrementalPCA takes no fewer than the rank that is asked for

Rows = NDArray[np.float32]
Basis = NDArray[np.float64]
"""Orthonormal columns ``(hidden, rank)``."""


@dataclass(frozen=True)
class Job:
    """One fit.

    Attributes:
        method: one of ``METHODS``.
        states: real states ``(m, hidden)``, of which the rows are noisy copies.
        count: rows to fit on.
        rank: of the subspace.
        threads: of the linear algebra.
        double: give the rows in float64. Ours sums in float64 in any case.
    """

    method: str
    states: Rows
    count: int
    rank: int
    seed: int
    threads: int
    double: bool = False

    def batches(self) -> Iterator[NDArray[np.floating]]:
        """The rows: real states with noise of a tenth of each coordinate's deviation.

        Of about ``BATCH`` rows each, none much shorter than the others.
        """
        generator = np.random.default_rng(self.seed)
        noise = 0.1 * self.states.std(axis=0)
        number = max(1, round(self.count / BATCH))
        for places in np.array_split(np.arange(self.count), number):
            rows = self.states[generator.integers(len(self.states), size=len(places))]
            rows = rows + noise * generator.standard_normal(rows.shape, dtype=np.float32)
            yield rows.astype(np.float64) if self.double else rows


@dataclass(frozen=True)
class Fit:
    """What came of a job."""

    seconds: float
    peak_bytes: int
    basis: Basis


Fits = dict[str, list[Fit]]
"""By method, one a round."""


def _streaming(job: Job) -> tuple[float, Basis]:
    statistics, seconds = StreamingCovariance(job.states.shape[1]), 0.0
    for rows in job.batches():
        tensor = torch.from_numpy(rows)
        start = time.perf_counter()
        statistics.update(tensor)
        seconds += time.perf_counter() - start
    start = time.perf_counter()
    vectors, _ = statistics.principal()
    seconds += time.perf_counter() - start
    return seconds, vectors[:, : job.rank].numpy()


def _incremental(job: Job) -> tuple[float, Basis]:
    from sklearn.decomposition import IncrementalPCA

    model, seconds = IncrementalPCA(job.rank), 0.0
    for rows in job.batches():
        start = time.perf_counter()
        model.partial_fit(rows)
        seconds += time.perf_counter() - start
    return seconds, model.components_.T


def _pca(solver: str) -> Callable[[Job], tuple[float, Basis]]:
    def fit(job: Job) -> tuple[float, Basis]:
        from sklearn.decomposition import PCA

        everything = np.concatenate(list(job.batches()))
        start = time.perf_counter()
        model = PCA(job.rank, svd_solver=solver).fit(everything)
        return time.perf_counter() - start, model.components_.T

    return fit


Angles = dict[str, float]
"""``rows``, how many, and by method the largest principal angle in radians to the subspace that
scikit-learn's full decomposition of the same rows finds in float64."""

METHODS = {
    OURS: _streaming,
    FULL: _pca("full"),
    AUTO: _pca("auto"),
    INCREMENTAL: _incremental,
}


def fit(job: Job) -> Fit:
    """Do a job in this process, which is to be a young one for the peak to mean anything."""
    torch.set_num_threads(job.threads)
    with threadpool_limits(job.threads):
        small = replace(job, states=job.states[:, :8], count=64, rank=4)
        METHODS[job.method](small)  # loads what is loaded at first use
        before = _peak_since_reset()
        seconds, basis = METHODS[job.method](job)
        return Fit(seconds, _peak_bytes() - before, basis.astype(np.float64))


def fit_apart(job: Job) -> Fit:
    """Do a job in a process of its own, started anew: a fork would inherit our peak."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(fit, job).result()


def _peak_since_reset() -> int:
    """Forget the peak so far where the system can, and return what is held now."""
    forget = Path("/proc/self/clear_refs")
    if forget.exists():
        forget.write_text("5", encoding="ascii")
    return _peak_bytes()


def _peak_bytes() -> int:
    """The largest resident size of this process.

    Linux hands ``ru_maxrss`` down from the process that started this one, so it is asked otherwise.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def real_states(classifier: PrefixClassifier, material: Material, count: int) -> Rows:
    """States of up to ``count`` texts after the deepest layer that the default fit reads."""
    layer = SubspaceConfig().layers - 1
    model = classifier.model
    found = []
    for number in range(-(-min(count, len(material.texts)) // 32)):
        encoded = model.prompter.encode(material.window(number, 32).texts)
        with torch.inference_mode():
            states, _ = model.answer_states(encoded, [layer])
        found.append(states[layer].cpu().numpy())
    return np.concatenate(found)


def measure(
    states: Rows, plan: Plan, counts: Sequence[int], run_fit: Callable[[Job], Fit] = fit_apart
) -> tuple[list[Row], list[Angles]]:
    """Time and peak of every method at every number of rows, and the angles between subspaces.

    Args:
        states: real ones ``(m, hidden)``.
        plan: its warm-up must be 0: every process is new, and warms up itself.
        run_fit: does a job.

    Returns:
        The rows, and the angles at each count.
    """
    threads = torch.get_num_threads()
    rank = _rank(Job(OURS, states, 2 * BATCH, 0, plan.seed, threads))
    rows: list[Row] = []
    angles: list[Angles] = []
    with contests(PART, len(counts), len(METHODS), plan) as run:
        for count in counts:
            fits: dict[str, list[Fit]] = {method: [] for method in METHODS}

            def contestant(method: str, count: int = count, fits: Fits = fits) -> Contestant:
                def one(number: int) -> float:
                    job = Job(method, states, count, rank, plan.seed + number, threads)
                    fits[method].append(run_fit(job))
                    return fits[method][-1].seconds

                return one

            entered = {method: contestant(method) for method in METHODS}
            found = run({"rows": count, "rank": rank}, entered, OURS, [count] * plan.rounds)
            rows += [
                replace(row, peak_bytes=[fit.peak_bytes for fit in fits[row.contestant]])
                for row in found
            ]
            exact = run_fit(Job(FULL, states, count, rank, plan.seed, threads, double=True))
            angles.append({"rows": count} | _angles(exact.basis, fits))
    return rows, angles


def _angles(exact: Basis, fits: Fits) -> Angles:
    """Of the first fit of each method, whose rows are those of ``exact``."""
    return {
        method: float(subspace_angles(exact, found[0].basis).max())
        for method, found in fits.items()
    }


def _rank(job: Job) -> int:
    """What the default threshold chooses on these rows."""
    statistics = StreamingCovariance(job.states.shape[1])
    for rows in job.batches():
        statistics.update(torch.from_numpy(rows))
    return choose_rank(statistics.principal()[1], SubspaceConfig().threshold)
