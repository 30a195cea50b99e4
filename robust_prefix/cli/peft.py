"""``robust-prefix import-peft`` and ``export-peft``: checkpoints of the library PEFT."""

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
    RunArgument,
    command,
)
from robust_prefix.cli.output import print_json


@command
def import_peft(
    checkpoint: Annotated[Path, typer.Argument(help="Folder with adapter_config.json.")],
    out: Annotated[Path, typer.Option(help="Run directory to write.")],
    task: Annotated[
        str, typer.Option(help="Task whose prompt it was trained on, or a path ending in .toml.")
    ] = "sst2",
    model: Annotated[
        str | None, typer.Option(help="The base model; the one the checkpoint names by default.")
    ] = None,
    data_dir: DataDirOption = None,
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    json: JsonOption = False,
) -> None:
    """Make a run of a PEFT checkpoint; its accuracy is measured where the task's data is."""
    from robust_prefix.backbones import load_backbone
    from robust_prefix.data import load_split
    from robust_prefix.errors import ConfigError, ResourceError
    from robust_prefix.evaluation.accuracy import describe, measured_run, parameter_counts
    from robust_prefix.prefixes import PrefixModel
    from robust_prefix.prefixes.peft import PeftCheckpoint
    from robust_prefix.runs import Run, check_free
    from robust_prefix.tasks import load_task

    check_free(out)
    read = PeftCheckpoint.read(checkpoint)
    if not (model or read.base_model):
        raise ConfigError(
            f"expected the base model of {checkpoint}, got none; name it with --model"
        )
    chosen = load_task(task, data_dir)
    backbone = load_backbone(model or read.base_model, device=device.value, dtype=dtype.value)
    prefix = read.prefix(backbone)
    PrefixModel(backbone, chosen, prefix)  # says what does not fit the task
    try:
        load_split(chosen, "test" if "test" in chosen.splits else "dev")
    except (ResourceError, ConfigError):  # a task may be known without its data
        run = Run(chosen, prefix, measurements={"parameters": parameter_counts(backbone, prefix)})
    else:
        run = measured_run(backbone, chosen, prefix)
    run.save(out)
    clean = run.measurements.get("clean_accuracy")
    measured = f"accuracy {describe(clean)} on {clean['split']}" if clean else "not measured"
    Console(stderr=True).print(f"{out}: {read.method}, {prefix.length} virtual tokens, {measured}")
    if json:
        print_json({"out": str(out), **run.measurements, "settings": dict(prefix.config)})


@command
def export_peft(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    json: JsonOption = False,
) -> None:
    """Write a run's prefix as a checkpoint that PeftModel.from_pretrained loads."""
    from robust_prefix.errors import ConfigError
    from robust_prefix.prefixes.peft import CONFIG_FILE, write_peft
    from robust_prefix.runs import Run

    if (out / CONFIG_FILE).exists():
        raise ConfigError(
            f"expected a folder without a checkpoint, got {out}, which holds one; give another "
            "--out, or remove it"
        )
    loaded = Run.load(run)
    config = write_peft(loaded.prefix, out)
    Console(stderr=True).print(
        f"{out}: {config['peft_type']}, {config['num_virtual_tokens']} virtual tokens; the prompt "
        f"to put the text into is {loaded.task.template!r}",
        markup=False,  # a template may have brackets
        soft_wrap=True,
    )
    if json:
        print_json({"out": str(out), "template": loaded.task.template, **config})
