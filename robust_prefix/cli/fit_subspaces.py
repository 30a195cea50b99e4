"""``robust-prefix fit-subspaces``: what normal looks like inside the model."""

from __future__ import annotations

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
    RunArgument,
    SeedOption,
    command,
)
from robust_prefix.cli.output import print_json
from robust_prefix.configs import SubspaceConfig

DEFAULT = SubspaceConfig()


@command
def fit(
    run: RunArgument,
    layers: Annotated[
        int, typer.Option(help="States the defence reads, the embedding among them.")
    ] = DEFAULT.layers,
    threshold: Annotated[
        float, typer.Option(help="Cumulative share a subspace must exceed.")
    ] = DEFAULT.threshold,
    criterion: Annotated[
        str, typer.Option(help="Share of singular-values (the paper) or of variance.")
    ] = DEFAULT.criterion,
    max_examples: Annotated[
        int, typer.Option(help="Fit on the first so many training rows; 0: all.")
    ] = DEFAULT.max_examples,
    data_dir: DataDirOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    json: JsonOption = False,
) -> None:
    """Fit one subspace a layer on the correctly classified training examples of a run."""
    from robust_prefix.backbones import load_backbone
    from robust_prefix.fitting import fit_subspaces
    from robust_prefix.runs import Run
    from robust_prefix.specs import build_config

    config = build_config(
        SubspaceConfig,
        {
            "layers": layers,
            "threshold": threshold,
            "criterion": criterion,
            "max_examples": max_examples,
        },
        "fit-subspaces",
    )
    loaded = Run.load_own(run, data_dir)
    backbone = load_backbone(loaded.prefix.base_model, device=device.value, dtype=dtype.value)
    spaces = fit_subspaces(backbone, loaded.prefix, loaded.task, config=config)
    Run.change(run, subspaces=spaces)
    ranks = ", ".join(f"h{layer}: {space.rank}" for layer, space in spaces.layers.items())
    Console(stderr=True).print(
        f"{run}: subspaces of {spaces.config['correct']} correct of {spaces.config['examples']} "
        f"examples, rank of {backbone.hidden_size} dimensions at {ranks}"
    )
    if json:
        print_json({"run": run, "seed": seed, **spaces.config})
