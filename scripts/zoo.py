"""Make a zoo entry: train, fit, attack, and write the card from what was measured.

    python scripts/zoo.py --data-dir DATA --out robust_prefix/zoo/sst2-smollm2-135m

Takes about an hour on two cores; each part is resumable and is skipped where it is done. With
``--run`` a run that is trained and fitted already is attacked behind ``--defense`` and packed:

    python scripts/zoo.py --data-dir DATA --run runs/robust --defense default --num-examples 200 \
        --attacks pwws viper --out robust_prefix/zoo/robust-sst2-smollm2-135m

``--quick`` goes the same way in a minute, on little data, to see that it works.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attacks import build_attack
from robust_prefix import (
    PrefixClassifier,
    SubspaceConfig,
    TrainingConfig,
    fit_subspaces,
    load_backbone,
    load_task,
    train_prefix,
)
from robust_prefix.data import load_split
from robust_prefix.evaluation.accuracy import describe, measured_run
from robust_prefix.evaluation.bench import run_attack
from robust_prefix.evaluation.summary import SummaryRow
from robust_prefix.files import write_text
from robust_prefix.runs import RUN_FILE, Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--attacks", nargs="+", default=["pwws", "deepwordbug"])
    parser.add_argument("--defense", default="robust-prefix", help="default is the run's own")
    parser.add_argument("--num-examples", type=int, default=100)
    parser.add_argument("--control-seeds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument(
        "--run", type=Path, default=Path("runs/sst2"), help="trained here, or to be"
    )
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)

    limit = 64 if arguments.quick else 0
    count = 3 if arguments.quick else arguments.num_examples
    if (arguments.run / RUN_FILE).is_file():
        run = Run.load(arguments.run, arguments.data_dir)
        task = run.task
        backbone = load_backbone(run.prefix.base_model, dtype=arguments.dtype)
    else:
        task = load_task(arguments.task, arguments.data_dir)
        backbone = load_backbone(arguments.model, dtype=arguments.dtype)
        run = _trained(arguments, task, backbone, limit)
    spec = run.defense if arguments.defense == "default" else arguments.defense
    if run.subspaces is None and "robust-prefix" in spec:
        config = SubspaceConfig(max_examples=limit)
        spaces = fit_subspaces(backbone, run.prefix, task, config=config)
        run = dataclasses.replace(run, subspaces=spaces)
        run.save(arguments.run)

    classifier = PrefixClassifier(backbone, task, run.prefix, fitted=run.fitted)
    defense = classifier.build_defense(spec)
    measurements = run.measurements
    if spec == run.defense != "none":  # fitting after training changed what it says of clean text
        measurements = measured_run(backbone, task, run.prefix, limit, defense).measurements
    rows: list[dict[str, Any]] = []
    for name in arguments.attacks[: 1 if arguments.quick else None]:
        summary = run_attack(
            classifier,
            build_attack(name, task.columns, arguments.data_dir),
            load_split(task, "test"),
            defense=defense,
            protocol="worst",
            num_examples=count,
            seed=arguments.seed,
            out=arguments.results / f"{task.name}-{name}-worst-{count}-seed{arguments.seed}",
            control_seeds=arguments.control_seeds,
        )
        rows += [_attack_row(name, row) for row in summary.rows]
    entry = dataclasses.replace(run, measurements={**measurements, "attacks": rows})
    entry.save(arguments.out)
    write_text(arguments.out / "CARD.md", card(entry))


def _trained(arguments: argparse.Namespace, task: Any, backbone: Any, limit: int) -> Run:
    config = TrainingConfig(max_examples=limit, epochs=1) if limit else TrainingConfig()
    prefix = train_prefix(backbone, task, training=config, seed=arguments.seed, out=arguments.run)
    run = measured_run(backbone, task, prefix, max_examples=limit)
    run.save(arguments.run)
    return run


def _attack_row(attack: str, row: SummaryRow) -> dict[str, Any]:
    values = row.to_dict()
    kept = ("role", "defense", "protocol", "n", "clean_accuracy", "robust_accuracy")
    return {"attack": attack, **{key: values[key] for key in kept if key in values}} | {
        "robust_accuracy_interval": values["robust_accuracy_interval"]
    }


def card(run: Run) -> str:
    """The card in Markdown, every number from the run."""
    clean = run.measurements["clean_accuracy"]
    settings = run.prefix.config
    lines = [
        f"# {run.task.name} on {run.prefix.base_model}",
        "",
        f"- data: {run.task.name}, {settings['train_examples']} training examples; "
        f"{_chosen(settings)}",
        f"- clean accuracy: {describe(clean)} on {clean['split']}, argmax over the label words"
        f"{'' if run.defense == 'none' else ', behind the default defence'}",
        f"- {run.prefix.method}: {settings['prefix']}",
        f"- training{' of the first' if 'averaged' in settings else ''}: {settings['training']}, "
        f"{settings['dtype']}",
        *([f"- before: {settings['note']}"] if "note" in settings else []),
        f"- parameters: {run.measurements['parameters']['trainable']:,} "
        f"({run.measurements['parameters']['percent']:.3f}% of the frozen model's)",
        *_fitted(run),
        "",
        "| attack | system | protocol | accuracy under attack [95%] | clean | n |",
        "|---|---|---|---|---|---|",
    ]
    for row in run.measurements.get("attacks", []):
        low, high = row["robust_accuracy_interval"]
        lines.append(
            f"| {row['attack']} | {row['defense']} | {row['protocol']} | "
            f"{row['robust_accuracy']:.1%} [{low:.1%}, {high:.1%}] | "
            f"{row['clean_accuracy']:.1%} | {row['n']} |"
        )
    lines += [
        "",
        "`replay` shows adversaries crafted on the undefended model; `direct` attacks the defended "
        "one; `adaptive` does so, too, and sees the scores that it hides behind a bound; `worst` "
        "counts an example as held only if it survives all of these."
        f"{_control(run)}",
        "",
    ]
    return "\n".join(lines)


def _control(run: Run) -> str:
    """What the control is, where there is one."""
    attacks = run.measurements.get("attacks", [])
    if not any("random-prefix" in row["defense"] for row in attacks):
        return ""
    return (
        " `random-prefix` is the control: noise of the same norm where the defence puts its tuned "
        "prefix."
    )


def _chosen(settings: Mapping[str, Any]) -> str:
    """Which state was kept, or what was averaged."""
    if "averaged" in settings:
        parts = settings["averaged"]
        shares = " and ".join(f"{part['share']:.2g} of {part['prefix']}" for part in parts)
        return f"the average, {shares}"
    # against an adversary clean dev text would choose the state that has seen least of it
    alone = settings["training"].get("adversary", "none") == "none"
    kept = "dev chose the state kept" if alone else "the last state was kept"
    found = f"{settings['dev_accuracy']:.1%} on {settings['dev_examples']} of dev"
    return f"seed {settings['seed']}, {kept} ({found})"


def _fitted(run: Run) -> list[str]:
    """A line for each thing that the run has beside its prefix, and for its default defence."""
    lines = []
    if run.subspaces is not None:
        fit = run.subspaces.config
        lines.append(
            f"- subspaces: {fit.get('correct')} correctly classified of {fit.get('examples')} "
            f"training examples, threshold {fit.get('threshold')} of the {fit.get('criterion')}, "
            f"ranks {fit.get('ranks')}"
        )
    if run.words is not None:
        lines.append(f"- word scores: {len(run.words.words):,} words, {dict(run.words.config)}")
    if run.synonyms is not None:
        lines.append(
            f"- synonyms: {len(run.synonyms.representative):,} words are read as others, "
            f"{dict(run.synonyms.config)}; derived from WordNet 3.0 (Princeton University) and "
            "counter-fitted vectors (Mrksic et al. 2016)"
        )
    if run.vocabulary is not None:
        lines.append(f"- spelling: by {len(run.vocabulary.counts):,} words of the training texts")
    return [*lines, f"- default defence: {run.defense}"]


if __name__ == "__main__":
    main()
