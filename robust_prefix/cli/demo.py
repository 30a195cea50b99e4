"""``robust-prefix demo``: the whole path on 60 short reviews that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robust_prefix.cli.common import (
    DataDirOption,
    Device,
    DeviceOption,
    Dtype,
    DtypeOption,
    JsonOption,
    SeedOption,
    command,
)
from robust_prefix.cli.encoder import find_encoder
from robust_prefix.cli.output import show_summary

DEMO_RUN = "zoo:sst2-smollm2-135m"


@command
def demo(
    attack: Annotated[
        str, typer.Option(help="deepwordbug needs no word lists; pwws needs WordNet.")
    ] = "deepwordbug",
    defense: Annotated[str, typer.Option(help="The defence put to the test.")] = "robust-prefix",
    num_examples: Annotated[int, typer.Option(help="How many of the 60 reviews.")] = 40,
    out: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("demo-report"),
    data_dir: DataDirOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    json: JsonOption = False,
) -> None:
    """Attack the prefix that comes with the package, defend it, and show what that is worth."""
    from attacks import build_attack
    from robust_prefix.classifier import PrefixClassifier
    from robust_prefix.data import load_file
    from robust_prefix.evaluation.bench import run_attack
    from robust_prefix.runs import ZOO

    classifier = PrefixClassifier.from_pretrained(
        DEMO_RUN, defense, device=device.value, dtype=dtype.value, data_dir=data_dir
    )
    built = build_attack(attack, classifier.task.columns, data_dir)
    summary = run_attack(
        classifier,
        built,
        load_file(classifier.task, ZOO / "demo_reviews.csv"),
        defense=classifier.defense,
        protocol="worst",
        num_examples=num_examples,
        seed=seed,
        out=out,
        encoder=find_encoder(data_dir),
    )
    show_summary(summary, out, json)
