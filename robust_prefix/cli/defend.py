"""``robust-prefix defend``: choose a run's default defence by measuring candidates on dev."""

from __future__ import annotations

import dataclasses
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
def defend(
    run: RunArgument,
    budget: Annotated[
        str, typer.Option(help="Passes a text, over those of the undefended classifier.")
    ] = "2x",
    max_clean_loss: Annotated[
        float, typer.Option(help="Accuracy on clean text that may be lost, 0 to 1.")
    ] = 0.03,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            help="What candidates have to hold against, pwws where not given; several times for "
            "several, of which the one counts that a candidate holds worst against."
        ),
    ] = None,
    num_examples: Annotated[int, typer.Option(help="Dev texts that are attacked.")] = 50,
    clean_examples: Annotated[
        int, typer.Option(min=0, help="First dev texts that accuracy is measured on; 0: all.")
    ] = 0,
    candidates: Annotated[
        str | None,
        typer.Option(
            help="Compositions with commas between them; by default those that the run is fitted "
            "for."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where results go; named after the settings by default.")
    ] = None,
    data_dir: DataDirOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    json: JsonOption = False,
) -> None:
    """Choose the run's default defence: what holds best on dev within a budget; write defend.json.

    Those within the budget and the loss on clean text are attacked, at the protocol worst. The
    chosen one is kept in the run. Resumes a killed run.
    """
    from attacks import build_attack
    from robust_prefix.classifier import PrefixClassifier
    from robust_prefix.data import load_split
    from robust_prefix.defenses import build_defense
    from robust_prefix.errors import ConfigError
    from robust_prefix.evaluation import defending
    from robust_prefix.evaluation.bench import Bench, run_bench, subspace_settings
    from robust_prefix.files import write_json
    from robust_prefix.runs import Run, run_folder

    limits = defending.limits(budget, max_clean_loss)
    loaded = Run.load_own(run, data_dir)
    built = [build_attack(each, loaded.task.columns, data_dir) for each in attack or ["pwws"]]
    names = [each.name for each in built]
    if len(set(names)) < len(names):
        raise ConfigError(f"expected each attack once, got {', '.join(names)}")
    rows = load_split(loaded.task, "dev")
    tested, left_out = defending.candidates(
        candidates, lambda spec: build_defense(spec, loaded.fitted)
    )
    classifier = PrefixClassifier.from_pretrained(
        run, "none", device=device.value, dtype=dtype.value, data_dir=data_dir
    )
    if out is None:
        name = f"{loaded.task.name}-defend-{'-'.join(names)}-{num_examples}-seed{seed}"
        out = results_folder(name)
    chosen_rows = rows.select(range(min(clean_examples or len(rows), len(rows))))
    about = {
        "prefix": loaded.prefix.fingerprint,
        "task_fingerprint": loaded.task.fingerprint,
        "n": len(chosen_rows),
        "dtype": str(classifier.model.backbone.dtype).removeprefix("torch."),
        **subspace_settings(tested.values()),
    }
    clean = defending.measure_clean(classifier, chosen_rows, tested, out / "clean.json", about)
    against = defending.objections(clean, limits)
    results = []
    for each in built:
        bench = Bench.prepare(
            classifier,
            each,
            rows,
            defenses=[defense for spec, defense in tested.items() if not against[spec]],
            protocols=["worst"],
            num_examples=num_examples,
            seed=seed,
            control_seeds=0,
        )
        results.append(run_bench(bench, out / each.name, check=False))
    choice = defending.choose(clean, limits, results)
    summary = {
        "task": loaded.task.name,
        "model": classifier.model.backbone.name,
        **about,
        **dataclasses.asdict(limits),
        "attacks": [each.spec for each in built],
        "protocol": "worst",
        "split": "dev",
        "num_examples": num_examples,
        "seed": seed,
        **choice.to_dict(),
        "left_out": left_out,
    }
    Run.change(run, defense=choice.chosen)
    write_json(run_folder(run) / "defend.json", summary)
    write_json(out / "defend.json", summary)
    console = Console(stderr=json)
    console.print(defending.choice_table(choice))
    for spec, reason in left_out.items():
        console.print(f"left out {spec}: {reason}", style="dim", markup=False)
    console.print(f"\ndefault defence of {run}: {choice.chosen}", markup=False, highlight=False)
    print(f"choice: {run_folder(run) / 'defend.json'}", file=sys.stderr)
    if json:
        print_json(summary)
