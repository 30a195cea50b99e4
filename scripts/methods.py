"""Every method at equal budget, in one table: accuracy, under attack too, parameters, time.

    python scripts/methods.py --data-dir DATA --out results/methods
    python scripts/methods.py --data-dir DATA --model minilm-l6 --task TASK.toml \
        --methods p-tuning-v2 prefix-tuning --out results/encoder

Each method is trained on the same texts in the same order for as many epochs, at its own learning
rate, and attacked undefended and directly. A step's time is the median ratio to the first method's
on the same texts, in turn, in one process (``--time-rounds 0`` leaves it out). Writes
``methods.csv``, ``methods.json`` with every setting, and a figure; the runs are kept under ``runs``
and the attacks under ``attacks``, from which a stopped call goes on. ``--quick`` goes the same way
on little. Needs the extra ``attacks``.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robust_prefix.cli.common import quiet_libraries
from robust_prefix.errors import RobustPrefixError
from robust_prefix.files import atomic_path, read_json, write_json, write_text

if TYPE_CHECKING:
    from robust_prefix.backbones import Backbone
    from robust_prefix.runs import Run
    from robust_prefix.tasks import Task

METHODS = (
    "prefix-tuning",
    "prefix-tuning(reparameterization=mlp)",
    "gated-prefix",
    "prompt-tuning(init=labels)",
    "p-tuning(init=labels)",
    "conv-prompt",
    "adapters",
    "fine-tuning",
    "autoprompt",
    "manual-prompt",
)
TIMED_EXAMPLES = 64

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, measure, attack, draw; 0, or 2 after one line about bad input."""
    options = _parse(arguments)
    quiet_libraries()
    try:
        rows = _measure(options)
        # Without the folders: where they are says nothing about the numbers.
        settings = {
            name: value for name, value in vars(options).items() if not isinstance(value, Path)
        }
        write_json(options.out / "methods.json", {"settings": settings, "rows": rows})
        write_text(options.out / "methods.csv", _csv(rows))
        _draw(options, rows)
    except RobustPrefixError as error:
        print(f"methods: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    _print(options, rows)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--methods", nargs="+", default=METHODS, help="names, with settings")
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-examples", type=int, default=0, help="training rows; 0: all")
    parser.add_argument("--attack", default="pwws", help="name, with settings; none")
    parser.add_argument("--num-examples", type=int, default=100, help="attacked sentences")
    parser.add_argument("--time-rounds", type=int, default=5, help="of a few steps; 0: no time")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("ROBUST_PREFIX_DATA"))
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="two methods, 64 rows, 2 attacked")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    if options.quick:
        options.methods, options.max_examples = options.methods[:2], 64
        options.num_examples, options.time_rounds = 2, min(options.time_rounds, 1)
    return options


def _measure(options: argparse.Namespace) -> list[Row]:
    from robust_prefix import load_backbone, load_task
    from robust_prefix.prefixes import build_method

    task = load_task(options.task, options.data_dir)
    backbone = load_backbone(options.model, options.device, options.dtype)
    methods = {spec: build_method(spec) for spec in options.methods}  # a wrong one is known at once
    rows = []
    for spec, method in methods.items():
        run = _trained(options, backbone, task, spec, method.config)
        clean, sizes = run.measurements["clean_accuracy"], run.measurements["parameters"]
        row = {
            "method": spec,
            "parameters": sizes["trainable"],
            "percent": round(sizes["percent"], 4),
            "parameters_in_training": sizes["during_training"],
            "dev_accuracy": round(run.measurements["dev_accuracy"], 4),
            **_rate("accuracy", clean["value"], clean["interval"], clean["n"]),
            **_attacked(options, backbone, run, spec),
            "seed": options.seed,
        }
        rows.append(row)
        print("  ".join(f"{name} {value}" for name, value in row.items()), file=sys.stderr)
    _add_times(options, backbone, task, {s: m.config for s, m in methods.items()}, rows)
    return rows


def _trained(
    options: argparse.Namespace, backbone: Backbone, task: Task, spec: str, config: Any
) -> Run:
    from robust_prefix.configs import TrainingConfig
    from robust_prefix.evaluation.accuracy import measured_run
    from robust_prefix.runs import RUN_FILE, Run
    from robust_prefix.specs import build_config
    from robust_prefix.training import train_prefix

    names = ("epochs", "batch_size", "max_examples")
    values = {name: getattr(options, name) for name in names}
    training = build_config(TrainingConfig, values, "methods")
    folder = options.out / "runs" / _file_name(spec)
    prefix = train_prefix(
        backbone, task, prefix=config, training=training, seed=options.seed, out=folder
    )
    known = read_json(folder / RUN_FILE) if (folder / RUN_FILE).is_file() else {}
    # another one's was trained there with other settings
    if known.get("prefix_fingerprint") == prefix.fingerprint:
        return Run.load(str(folder), options.data_dir)
    run = measured_run(backbone, task, prefix, max_examples=64 if options.quick else 0)
    run.save(folder)
    return run


def _attacked(options: argparse.Namespace, backbone: Backbone, run: Run, spec: str) -> Row:
    """Robust accuracy of the undefended classifier under the attack."""
    if options.attack == "none":
        return {}
    from attacks import build_attack
    from robust_prefix import PrefixClassifier
    from robust_prefix.data import load_split
    from robust_prefix.defenses import NoDefense
    from robust_prefix.evaluation.bench import run_attack

    summary = run_attack(
        PrefixClassifier(backbone, run.task, run.prefix),
        build_attack(options.attack, run.task.columns, options.data_dir),
        load_split(run.task, "test"),
        defense=NoDefense(),
        protocol="direct",
        num_examples=options.num_examples,
        seed=options.seed,
        out=options.out / "attacks" / _file_name(spec),
    )
    row = summary.row("none", "direct")
    return _rate("robust", row.robust_accuracy.value, row.robust_accuracy.interval, row.n)


def _add_times(
    options: argparse.Namespace,
    backbone: Backbone,
    task: Task,
    configs: dict[str, Any],
    rows: list[Row],
) -> None:
    """The time of a training step beside the first method's, round by round."""
    from robust_prefix.prefixes import method_of
    from robust_prefix.prefixes.searched import Searched
    from timing.interleave import interleave
    from timing.material import load_material
    from timing.train_speed import epoch_of_ours

    if not options.time_rounds:
        return
    material = load_material(task, "train", options.seed)
    count = min(TIMED_EXAMPLES, len(material.texts))

    def steps(config: Any, number: int) -> float:
        texts = material.window(number, count)
        return epoch_of_ours(backbone, task, config, texts, options.batch_size, number)

    # What is searched takes no steps.
    timed = {s: c for s, c in configs.items() if not isinstance(method_of(c), Searched)}
    if not timed:
        return
    timings = interleave(
        {spec: partial(steps, config) for spec, config in timed.items()},
        options.time_rounds,
        options.seed,
    )
    first = next(iter(timed))
    for row in rows:
        if row["method"] not in timed:
            continue
        spread = timings.ratio(row["method"], first)
        row |= {f"step_time_{name}": round(getattr(spread, name), 3) for name in _SPREAD}


_SPREAD = ("median", "low", "high")


def _rate(name: str, value: float, interval: Sequence[float], n: int) -> Row:
    low, high = interval
    return {
        name: round(value, 4),
        f"{name}_low": round(low, 4),
        f"{name}_high": round(high, 4),
        f"{name}_n": n,
    }


def _file_name(spec: str) -> str:
    """A folder for a method with its settings."""
    return "".join(letter if letter.isalnum() or letter in "-=.," else "_" for letter in spec)


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _draw(options: argparse.Namespace, rows: Sequence[Row]) -> None:
    """A line a method: its accuracy on clean text and under the attack, with intervals."""
    from matplotlib.figure import Figure

    from timing.figures import COLORS, MARKERS

    figure = Figure(figsize=(7.2, 1.4 + 0.42 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    shown = {"accuracy": "clean", "robust": f"under {options.attack}, direct"}
    for number, (name, label) in enumerate(shown.items()):
        of = [(place, row) for place, row in enumerate(rows) if name in row]
        if of:
            values = [100 * row[name] for _, row in of]
            down = [100 * (row[name] - row[f"{name}_low"]) for _, row in of]
            up = [100 * (row[f"{name}_high"] - row[name]) for _, row in of]
            axes.errorbar(
                values,
                [place - 0.1 + 0.2 * number for place, _ in of],
                xerr=[down, up],
                fmt=MARKERS[number],
                color=COLORS[number],
                capsize=3,
                elinewidth=1,
                label=f"{label}, n={of[0][1][f'{name}_n']:,}",
            )
    labels = [f"{row['method']}\n{row['parameters']:,} parameters" for row in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 101)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("accuracy in %, 95% intervals")
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    task, model = (Path(name).stem for name in (options.task, options.model))
    axes.set_title(f"{task}, {model}, epochs: {options.epochs:g}, seed {options.seed}", fontsize=10)
    for kind in ("png", "svg"):
        with atomic_path(options.out / f"methods.{kind}") as path:
            figure.savefig(path, format=kind, dpi=150)


def _print(options: argparse.Namespace, rows: Sequence[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{options.task} on {options.model}, seed {options.seed}")
    for name in ("method", "parameters", "% of model", "accuracy", "under attack", "step time"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for row in rows:
        table.add_row(
            row["method"],
            f"{row['parameters']:,}",
            f"{row['percent']:.3f}",
            _shown(row, "accuracy"),
            _shown(row, "robust"),
            f"{row['step_time_median']:.2f}" if "step_time_median" in row else "-",
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _shown(row: Row, name: str) -> str:
    if name not in row:
        return "-"
    low, high = (100 * row[f"{name}_{end}"] for end in ("low", "high"))
    return f"{100 * row[name]:.1f} [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    sys.exit(main())
