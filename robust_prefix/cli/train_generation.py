"""``robust-prefix train-generation``: a prefix that makes the model write, from pairs of texts."""

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
    MovingAverageOption,
    SeedOption,
    command,
)
from robust_prefix.cli.output import print_json
from robust_prefix.configs import PrefixTuningConfig, TrainingConfig

TRAINING = TrainingConfig()
PREFIX = PrefixTuningConfig()


@command
def train_generation(
    out: Annotated[Path, typer.Option(help="Run directory to write.")],
    task: Annotated[
        str,
        typer.Option(
            help="Built-in generation task, or a path ending in .toml; of a classification task "
            "(sst2) its texts are written behind their classes, for generate-examples."
        ),
    ] = "trails",
    template: Annotated[
        str | None,
        typer.Option(
            help="Prompt in place of the task's: 'A sentence of a {source} film review:'."
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="smollm2-135m, a local directory or a Hub id; a decoder.")
    ] = "smollm2-135m",
    length: Annotated[int, typer.Option(help="Virtual tokens.")] = PREFIX.length,
    reparameterization: Annotated[
        str, typer.Option(help="none, or mlp: an MLP yields the prefix and is dropped afterwards.")
    ] = PREFIX.reparameterization,
    init: Annotated[
        str, typer.Option(help="What the prefix starts from: text, vocabulary or random.")
    ] = PREFIX.init,
    epochs: Annotated[float, typer.Option(help="Passes over the data.")] = TRAINING.epochs,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of AdamW; 0.005 where not given.")
    ] = TRAINING.learning_rate,
    batch_size: Annotated[int, typer.Option(help="Examples a step.")] = TRAINING.batch_size,
    moving_average: MovingAverageOption = TRAINING.moving_average,
    patience: Annotated[
        int, typer.Option(help="Evaluations without progress before it stops; 0: never.")
    ] = TRAINING.patience,
    max_examples: Annotated[
        int, typer.Option(help="Train on the first so many rows; 0: all.")
    ] = TRAINING.max_examples,
    data_dir: DataDirOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    json: JsonOption = False,
) -> None:
    """Train a prefix to write targets behind sources. A killed run continues where it stopped.

    BLEU is measured on the test split, else on dev, where the extra 'generation' is installed.
    """
    from robust_prefix.backbones import load_backbone
    from robust_prefix.generation import (
        PrefixGenerator,
        load_generation_task,
        load_pairs,
        train_generation,
    )
    from robust_prefix.generation.bleu import can_measure
    from robust_prefix.specs import build_config

    chosen = load_generation_task(task, data_dir, template)
    given = {"length": length, "reparameterization": reparameterization, "init": init}
    prefix_config = build_config(PrefixTuningConfig, given, "train-generation")
    training_config = build_config(
        TrainingConfig,
        {
            "epochs": epochs,
            "learning_rate": learning_rate,
            "batch_size": batch_size,
            "moving_average": moving_average,
            "patience": patience,
            "max_examples": max_examples,
        },
        "train-generation",
    )
    measured = "test" if "test" in chosen.splits else "dev"
    pairs = {split: load_pairs(chosen, split) for split in ("train", "dev", measured)}
    backbone = load_backbone(model, device=device.value, dtype=dtype.value)
    prefix = train_generation(
        backbone, chosen, prefix=prefix_config, training=training_config, seed=seed, out=out
    )
    loss = prefix.config["dev_loss"]
    generator = PrefixGenerator(backbone, chosen, prefix, {"dev_loss": loss})
    said = "not measured; run: pip install 'robust-prefix[generation]'"
    if chosen.classes_of is not None:
        said = "not measured; a class can be written of in any way"
    elif can_measure():
        bleu = generator.measure(pairs[measured])
        generator.measurements["bleu"] = {"split": measured, **bleu.to_dict()}
        said = f"{bleu} on {measured}"
    generator.save_pretrained(out)
    shown = f"{out}: dev loss {loss:.3f} nats a token; BLEU {said}"
    Console(stderr=True).print(shown, markup=False)
    if json:
        settings = dict(prefix.config)
        print_json({"out": str(out), **generator.measurements, "settings": settings})
