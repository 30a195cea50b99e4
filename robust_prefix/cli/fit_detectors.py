"""``robust-prefix fit-detectors``: what tells altered text from clean text."""

from __future__ import annotations

import dataclasses
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
from robust_prefix.configs import DetectorConfig

DEFAULT = DetectorConfig()


@command
def fit(
    run: RunArgument,
    layer: Annotated[
        int, typer.Option(help="State that mahalanobis and density read; -1: the last.")
    ] = DEFAULT.layer,
    components: Annotated[
        int, typer.Option(help="Principal directions that density keeps.")
    ] = DEFAULT.components,
    rare: Annotated[
        float, typer.Option(help="Share of the vocabulary that frequency takes for rare.")
    ] = DEFAULT.rare,
    sources: Annotated[
        str,
        typer.Option(
            help="Word lists for frequency, with commas: wordnet, counterfitted-neighbors; none: "
            "leave that score out."
        ),
    ] = "wordnet,counterfitted-neighbors",
    max_examples: Annotated[
        int, typer.Option(help="Fit on the first so many training rows; 0: all.")
    ] = DEFAULT.max_examples,
    data_dir: DataDirOption = None,
    seed: SeedOption = DEFAULT.seed,
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    json: JsonOption = False,
) -> None:
    """Fit detectors on a run's clean training texts, for the defence detect."""
    from robust_prefix.backbones import load_backbone
    from robust_prefix.cli.lexical import renewed, substitutes_from
    from robust_prefix.defenses import Detect
    from robust_prefix.detection.fitting import fit_detectors
    from robust_prefix.runs import Run
    from robust_prefix.specs import build_config

    settings = {"layer": layer, "components": components, "rare": rare, "seed": seed}
    config = build_config(
        DetectorConfig, settings | {"max_examples": max_examples}, "fit-detectors"
    )
    loaded = Run.load_own(run, data_dir)
    names = [name.strip() for name in sources.split(",") if name.strip() != "none"]
    substitutes = substitutes_from(data_dir, names) if names else None
    backbone = load_backbone(loaded.prefix.base_model, device=device.value, dtype=dtype.value)
    found = fit_detectors(
        backbone,
        loaded.prefix,
        loaded.task,
        subspaces=loaded.subspaces,
        substitutes=substitutes,
        config=config,
    )
    found = dataclasses.replace(found, config={**found.config, "sources": names})
    Run.change(run, lambda now: renewed(now, Detect.name), detectors=found)
    Console(stderr=True).print(
        f"{run}: {', '.join(found.scores)} of {found.config['correct']} correct of "
        f"{found.config['examples']} examples, thresholds from {found.config['dev']} dev texts"
    )
    if json:
        print_json({"run": run, "scores": list(found.scores), **found.config})
