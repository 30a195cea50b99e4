"""``robust-prefix average``: one prefix between several."""

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
    is often one that is nearly both. The first run's default defence is kept where it rewrites
    text, votes or adds word scores, which fit-word-scores fits anew; what else was fitted to one
    prefix is not for another."""
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
    from robust_prefix.runs import Run, check_free

    check_free(out)
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
    goes_on = (TextDefense, MaskedVote, WordScoresDefense, NoDefense)
    keep = all(isinstance(part, goes_on) for part in layers(before))
    words = None
    if first.words and keep and any(isinstance(part, WordScoresDefense) for part in layers(before)):
        words = first.words.beside(prefix.fingerprint)  # as training keeps them
    fitted = dataclasses.replace(first.fitted, words=words)
    defense = build_defense(before.spec, fitted) if keep else NoDefense()
    run = measured_run(backbone, first.task, prefix, defense=defense, kept=fitted)
    dataclasses.replace(run, words=words).save(out)
    clean = run.measurements["clean_accuracy"]
    console = Console(stderr=True)
    console.print(f"{out}: accuracy {describe(clean)} on {clean['split']}")
    if not keep:
        console.print(
            f"no default defence: {before.spec} was fitted to the prefix of {runs[0]}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if json:
        print_json({"out": str(out), **run.measurements})
