"""``robust-prefix benchmark``: a matrix of runs, attacks and seeds, a process a core."""

from __future__ import annotations

import dataclasses
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robust_prefix.cli.common import (
    DataDirOption,
    Device,
    DeviceOption,
    Dtype,
    DtypeOption,
    JsonOption,
    command,
    quiet_libraries,
)
from robust_prefix.cli.encoder import find_encoder
from robust_prefix.cli.output import show_results

if TYPE_CHECKING:
    from robust_prefix.evaluation.workbench import Workbench


@command
def benchmark(
    matrix: Annotated[
        Path,
        typer.Argument(
            help="TOML with runs and attacks; also defenses, protocols, seeds, num_examples, "
            "control_seeds."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Where results go; an earlier run there goes on.")],
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes; one a core by default, a single one on a GPU."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**32 - 1, help="Run this seed instead of those of the matrix."),
    ] = None,
    data_dir: DataDirOption = None,
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    json: JsonOption = False,
) -> None:
    """Run every attack of a matrix on every run and seed. Resumes a killed run."""
    from attacks import canonical_spec
    from robust_prefix.backbones.precision import choose_device, choose_dtype
    from robust_prefix.evaluation.bench import DATABASE
    from robust_prefix.evaluation.benchmark import run_benchmark
    from robust_prefix.evaluation.plan import Plan
    from robust_prefix.evaluation.results import missing_cells
    from robust_prefix.evaluation.store import RecordStore

    plan = Plan.read(matrix)
    if seed is not None:
        plan = dataclasses.replace(plan, seeds=[seed])
    cells = plan.cells(canonical_spec, data_dir)
    place = choose_device(device.value)
    # Chosen here for all workers: two of them might measure differently.
    number = str(choose_dtype(dtype.value, place)).removeprefix("torch.")
    similarity = find_encoder(data_dir) is not None
    make = functools.partial(make_workbench, place.type, number, data_dir, similarity)
    processes = workers or (1 if place.type == "cuda" else cores())
    results = run_benchmark(cells, make, out, processes, similarity)
    with RecordStore(out / DATABASE) as store:
        missing = missing_cells(store)
    show_results(results, missing, out, json)


def make_workbench(device: str, dtype: str, data_dir: Path | None, similarity: bool) -> Workbench:
    """What a worker process begins with."""
    quiet_libraries()
    from attacks import build_attack
    from robust_prefix.evaluation.workbench import Workbench

    encoder = find_encoder(data_dir) if similarity else None
    return Workbench(build_attack, device, dtype, data_dir, encoder)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
