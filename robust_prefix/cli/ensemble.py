"""``robust-prefix ensemble``: several prefixes in one run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from robust_prefix.cli.common import (
    DataDirOption,
    Device,
    DeviceOption,
    Dtype,
    DtypeOption,
    JsonOption,
    command,
)
from robust_prefix.cli.output import print_json


@command
def ensemble(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Run directories, or zoo:NAME.")
    ],
    out: Annotated[Path, typer.Option(help="Run directory to write.")],
    combine: Annotated[str, typer.Option(help="mean of the probabilities, or vote.")] = "mean",
    data_dir: DataDirOption = None,
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    json: JsonOption = False,
) -> None:
    """Put runs together: their prefixes answer in one batch. Measured where the task's data is."""
    from robust_prefix.backbones import load_backbone
    from robust_prefix.data import load_split
    from robust_prefix.defenses import build_defense
    from robust_prefix.defenses.ensemble import EnsembleConfig
    from robust_prefix.ensembling import ensemble_runs
    from robust_prefix.evaluation.accuracy import describe, measure_accuracy
    from robust_prefix.prefixes import PrefixModel
    from robust_prefix.runs import Run, check_free
    from robust_prefix.specs import build_config

    check_free(out)
    chosen = build_config(EnsembleConfig, {"combine": combine}, "ensemble").combine
    run = ensemble_runs([Run.load(name, data_dir) for name in runs], chosen)
    measured = "not measured"
    if run.task.data_dir is not None:
        split = "test" if "test" in run.task.splits else "dev"
        rows = load_split(run.task, split)
        backbone = load_backbone(run.prefix.base_model, device=device.value, dtype=dtype.value)
        defense = build_defense(run.defense, run.fitted)
        accuracy = measure_accuracy(PrefixModel(backbone, run.task, run.prefix), rows, defense)
        clean = {"split": split, **accuracy.to_dict()}
        run = dataclasses.replace(run, measurements={"clean_accuracy": clean, **run.measurements})
        measured = f"accuracy {describe(clean)} on {split}"
    run.save(out)
    Console(stderr=True).print(f"{out}: {1 + len(run.members)} prefixes, {measured}")
    if json:
        print_json({"out": str(out), "defense": run.defense, **run.measurements})
