"""``robust-prefix detect``: how well a run's detectors tell adversaries from clean text."""

from __future__ import annotations

import sys
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
    SeedOption,
    command,
)
from robust_prefix.cli.output import print_json, results_folder


@command
def detect(
    run: RunArgument,
    attacks: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder that attack or benchmark wrote, on this run; against none the attacker "
            "knows of no detector, against detect of that one. May be given several times."
        ),
    ] = None,
    num_examples: Annotated[
        int, typer.Option(help="Clean texts drawn from the test split; 0: all.")
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Where results go; named after the settings by default.")
    ] = None,
    data_dir: DataDirOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    json: JsonOption = False,
) -> None:
    """Hold detectors against clean text and adversaries of attacks; write detection.json.

    Thresholds are those of fit-detectors for false-positive rates of 1% and 5%.
    """
    from robust_prefix.classifier import PrefixClassifier
    from robust_prefix.data import load_split
    from robust_prefix.errors import ArtifactError
    from robust_prefix.evaluation.bench import DATABASE
    from robust_prefix.evaluation.detected import (
        adversaries_in,
        detection_summary,
        detection_tables,
        measure_detection,
    )
    from robust_prefix.evaluation.sampling import sample_examples
    from robust_prefix.evaluation.store import RecordStore
    from robust_prefix.files import check_same, write_json
    from robust_prefix.runs import Run

    loaded = Run.load(run, data_dir)
    if loaded.detectors is None:
        raise ArtifactError(
            f"expected fitted detectors in {run}, got none; run robust-prefix fit-detectors on it"
        )
    rows = load_split(loaded.task, "test")
    examples = sample_examples(loaded.task, rows, num_examples or len(rows), seed)
    records = []
    for folder in attacks or ():
        with RecordStore(folder / DATABASE) as store:
            mine = [r for r in store.records() if r.prefix == loaded.prefix.fingerprint]
        if not mine:
            raise ArtifactError(f"expected attacks on {run} in {folder}, got those on other runs")
        records += mine
    classifier = PrefixClassifier.from_pretrained(
        run, "none", device=device.value, dtype=dtype.value, data_dir=data_dir
    )
    if out is None:
        name = f"{loaded.task.name}-detect-{len(examples)}-seed{seed}"
        out = results_folder("-against-".join([name, *(folder.name for folder in attacks or ())]))
    about = {
        "task": loaded.task.name,
        "task_fingerprint": loaded.task.fingerprint,
        "model": classifier.model.backbone.name,
        "prefix": loaded.prefix.fingerprint,
        "detectors": dict(loaded.detectors.config),
        "dtype": str(classifier.model.backbone.dtype).removeprefix("torch."),
        "seed": seed,
        "n": len(examples),
        "held_against": [str(folder) for folder in attacks or ()],
    }
    check_same(out / "detection.json", about)
    clean, against = measure_detection(
        classifier.model, loaded.detectors, examples, adversaries_in(records)
    )
    summary = {**about, **detection_summary(clean, against)}
    write_json(out / "detection.json", summary)
    Console(stderr=json).print(detection_tables(clean, against))
    if attacks and not against:
        told = ", ".join(map(str, attacks))
        print(f"no adversary in {told} fooled what it attacked: nothing to detect", file=sys.stderr)
    print(f"detection: {out / 'detection.json'}", file=sys.stderr)
    if json:
        print_json(summary)
