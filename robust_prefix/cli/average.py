"""``robust-prefix average``: one prefix between several."""

from __future__ import annotations

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
def average(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="Run directories, or zoo:NAME, trained from one another."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Run directory to write.")],
    shares: Annotated[
        str | None,
        typer.Option(help="Of each run, with commas, adding up to 1; equal where not given."),
    ] = None,
    data_dir: DataDirOption = None,
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    json: JsonOption = False,
) -> None:
    """Average prefixes into one that costs no more than any: between a clean and a robust one there
    is often one that is nearly both. A default defence that rewrites text is kept from the first
    run; what was fitted to one prefix is not for another."""
    from robust_prefix.backbones import load_backbone
    from robust_prefix.defenses import (
        MaskedVote,
        NoDefense,
        TextDefense,
        WordScoresDefense,
        build_defense,
        layers,
    )
    from robust_prefix.ensembling import check_alike
    from robust_prefix.errors import ConfigError
    from robust_prefix.evaluation.accuracy import describe, measured_run
    from robust_prefix.prefixes import Prefix
    from robust_prefix.runs import Run

    first, *others = [Run.load(name, data_dir) for name in runs]
    try:
        given = [float(share) for share in shares.split(",")] if shares else None
    except ValueError:
        raise ConfigError(
            f"expected numbers with commas between them as shares, got {shares!r}"
        ) from None
    check_alike([first, *others], apart=[WordScoresDefense.name])
    given = given or [1 / len(runs)] * len(runs)
    mean = first.prefix.averaged([run.prefix for run in others], given)
    backbone = load_backbone(mean.base_model, device=device.value, dtype=dtype.value)
    prefix = Prefix.of(mean.learned, backbone, mean.config)
    before = build_defense(first.defense, first.fitted)
    readers = (TextDefense, MaskedVote, NoDefense)
    reader = before if all(isinstance(part, readers) for part in layers(before)) else NoDefense()
    run = measured_run(backbone, first.task, prefix, defense=reader, kept=first.fitted)
    run.save(out)
    clean = run.measurements["clean_accuracy"]
    Console(stderr=True).print(f"{out}: accuracy {describe(clean)} on {clean['split']}")
    if json:
        print_json({"out": str(out), **run.measurements})
