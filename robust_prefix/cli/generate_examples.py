"""``robust-prefix generate-examples``: more texts of a task, with their classes, as a CSV."""

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
    SeedOption,
    command,
)
from robust_prefix.cli.output import print_json
from robust_prefix.configs import ExamplesConfig, SamplingConfig

SAMPLING = SamplingConfig()
EXAMPLES = ExamplesConfig()


@command
def generate_examples(
    generator: Annotated[
        str,
        typer.Argument(
            metavar="GENERATOR", help="Run directory of train-generation --task TASK (sst2)."
        ),
    ],
    judge: Annotated[
        list[str],
        typer.Option(
            help="Run, or zoo:NAME, that answers as it does by default whether a text is of its "
            "class; may be given several times, and all have to agree."
        ),
    ],
    out: Annotated[Path, typer.Option(help="CSV to write; train --more-data reads it.")],
    num_examples: Annotated[int, typer.Option(min=1, help="Rows to write.")] = 10_000,
    min_probability: Annotated[
        float, typer.Option(help="Of its class, in the mean of the judges.")
    ] = EXAMPLES.min_probability,
    temperature: Annotated[
        float, typer.Option(help="Of the draw of the next token.")
    ] = SAMPLING.temperature,
    top_k: Annotated[
        int, typer.Option(help="Likeliest tokens that are drawn from.")
    ] = SAMPLING.top_k,
    max_new_tokens: Annotated[
        int, typer.Option(help="A text that has not ended by then is left out.")
    ] = SAMPLING.max_new_tokens,
    batch_size: Annotated[
        int, typer.Option(help="Texts that are drawn side by side.")
    ] = EXAMPLES.batch_size,
    data_dir: DataDirOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    json: JsonOption = False,
) -> None:
    """Write labelled texts for a classifier to be trained on, class by class.

    A killed call goes on where it stopped. The texts of the task, and what repeats its test data,
    are left out; how the file was made stands beside it in a .json of its name.
    """
    from robust_prefix.classifier import PrefixClassifier
    from robust_prefix.generation import PrefixGenerator
    from robust_prefix.generation import generate_examples as written
    from robust_prefix.specs import build_config

    sampling = build_config(
        SamplingConfig,
        {"temperature": temperature, "top_k": top_k, "max_new_tokens": max_new_tokens},
        "generate-examples",
    )
    config = build_config(
        ExamplesConfig,
        {"sampling": sampling, "min_probability": min_probability, "batch_size": batch_size},
        "generate-examples",
    )
    writer = PrefixGenerator.from_pretrained(
        generator, device=device.value, dtype=dtype.value, data_dir=data_dir
    )
    judges = [
        PrefixClassifier.from_pretrained(name, backbone=writer.backbone, data_dir=data_dir)
        for name in judge
    ]
    task = judges[0].task
    found = written(writer, task, judges, num_examples, out, config=config, seed=seed)
    Console(stderr=True).print(
        f"{out}: {found['kept']:,} texts of {found['written']:,} drawn; {found['unfinished']:,} "
        f"did not end, {found['known']:,} were known, {found['doubted']:,} doubted by a judge",
        markup=False,
    )
    if json:
        print_json({"out": str(out), **found})
