"""``robust-prefix attack``: attack a run, undefended and defended, beside the control."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robust_prefix.cli.common import (
    DataDirOption,
    DefenseOption,
    Device,
    DeviceOption,
    Dtype,
    DtypeOption,
    JsonOption,
    RunArgument,
    SeedOption,
    command,
)
from robust_prefix.cli.encoder import find_encoder
from robust_prefix.cli.output import results_folder, show_contributions, show_summary


@command
def attack(
    run: RunArgument,
    attack: Annotated[
        str,
        typer.Option(
            help="Name and settings, see robust-prefix list attacks; or file:PATH, a CSV of "
            "original, adversarial, label."
        ),
    ] = "pwws",
    defense: DefenseOption = "default",
    protocol: Annotated[
        str | None,
        typer.Option(
            help="replay; direct; adaptive, which also sees what the defence hides; or worst: an "
            "example holds only if it holds in all. By default worst; of file:PATH replay."
        ),
    ] = None,
    num_examples: Annotated[
        int, typer.Option(help="Texts drawn from the test split, or from those of file:PATH.")
    ] = 100,
    control_seeds: Annotated[
        int,
        typer.Option(
            min=0,
            help="Random controls beside a defence that tunes a prefix, scores words or "
            "reads them as others.",
        ),
    ] = 1,
    leave_one_out: Annotated[
        bool,
        typer.Option(
            "--leave-one-out",
            help="Attack the composition without each of its parts, too, and tell what each adds.",
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Where results go; named after the settings by default.")
    ] = None,
    data_dir: DataDirOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    json: JsonOption = False,
) -> None:
    """Attack a run; write results.csv, summary.json and report.html. Resumes a killed run."""
    from attacks import build_attack
    from robust_prefix.classifier import PrefixClassifier
    from robust_prefix.defenses import NoDefense
    from robust_prefix.errors import ConfigError
    from robust_prefix.evaluation.ablation import without_each
    from robust_prefix.evaluation.bench import Bench, run_bench
    from robust_prefix.evaluation.protocols import RecordedAttack
    from robust_prefix.evaluation.sampling import attacked_rows
    from robust_prefix.runs import Run

    task = Run.load(run, data_dir).task
    built = build_attack(attack, task.columns, data_dir)
    rows = attacked_rows(task, built)
    classifier = PrefixClassifier.from_pretrained(
        run, defense, device=device.value, dtype=dtype.value, data_dir=data_dir
    )
    tested = classifier.defense
    if leave_one_out and isinstance(tested, NoDefense):
        raise ConfigError(
            "expected a defence whose parts can be left out, got none; name one with --defense"
        )
    recorded = isinstance(built, RecordedAttack)
    protocol = protocol or ("replay" if recorded else "worst")
    if out is None:
        which = classifier.model.prefix.fingerprint[:8]
        name = f"{task.name}-{which}-{attack}-{tested.spec}-{protocol}-{num_examples}-seed{seed}"
        name += "-leave-one-out" if leave_one_out else ""
        out = results_folder(name)
    left = without_each(tested.spec, classifier.build_defense) if leave_one_out else []
    bench = Bench.prepare(
        classifier,
        built,
        rows,
        defenses=[tested, *(each.defense for each in left if each.defense is not None)],
        protocols=[protocol],
        num_examples=num_examples,
        control_seeds=control_seeds,
        seed=seed,
    )
    results = run_bench(bench, out, encoder=find_encoder(data_dir))
    if leave_one_out:
        show_contributions(results, tested.spec, left, out, json)
    show_summary(results.summary, out, json)
