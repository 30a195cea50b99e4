"""Two questions about virtual tokens, each a table and a figure: how many, and where.

    python scripts/prompts.py length --data-dir DATA --out results/prompt-length
    python scripts/prompts.py position --data-dir DATA --out results/prompt-position

``length``: dev accuracy by length for each method, by short trainings as ``--length auto`` makes
them. ``position``: test accuracy of P-tuning with equally many virtual tokens before, between and
behind the texts of the prompt (Liu et al. 2021, section 3.2). Both resume, and write a CSV, a JSON
file with every setting, and the figure as PNG and SVG. ``--quick`` goes the same way on little.
Needs matplotlib, which the extra ``attacks`` brings.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from robust_prefix.cli.common import quiet_libraries
from robust_prefix.errors import RobustPrefixError
from robust_prefix.files import atomic_path, write_json, write_text

METHODS = ("prefix-tuning", "prompt-tuning", "p-tuning")
COLUMNS = ("method", "place", "length", "split", "accuracy", "low", "high", "n", "parameters")
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, measure and draw; 0, or 2 after one line about bad input."""
    options = _parse(arguments)
    quiet_libraries()
    try:
        rows = _lengths(options) if options.question == "length" else _positions(options)
        settings = {name: _plain(value) for name, value in vars(options).items()}
        write_json(options.out / f"{options.question}.json", {"settings": settings, "rows": rows})
        write_text(options.out / f"{options.question}.csv", _csv(rows))
        _draw(options, rows)
    except RobustPrefixError as error:
        print(f"prompts: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    for row in rows:
        print(
            "  ".join(f"{row[name]:.3f}" if name == "accuracy" else str(row[name]) for name in row)
        )
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("question", choices=("length", "position"))
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--methods", nargs="+", default=METHODS, help="of length: names, settings")
    parser.add_argument("--lengths", nargs="+", type=int, help="of length; 1 2 5 10 20 50")
    parser.add_argument("--tokens", type=int, default=12, help="of position: virtual tokens")
    parser.add_argument("--method", default="p-tuning", help="of position: name, settings")
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--learning-rate", type=float, help="each method's own by default")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-examples", type=int, default=0, help="training rows; 0: all")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("ROBUST_PREFIX_DATA"))
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="two of everything, 64 rows")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    if options.quick:
        options.max_examples, options.methods = 64, options.methods[:2]
    return options


def _setting(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Backbone, task and training settings."""
    from robust_prefix import load_backbone, load_task
    from robust_prefix.configs import TrainingConfig
    from robust_prefix.specs import build_config

    names = ("epochs", "learning_rate", "batch_size", "max_examples")
    values = {name: getattr(options, name) for name in names}
    training = build_config(TrainingConfig, values, "prompts")
    task = load_task(options.task, options.data_dir)
    return load_backbone(options.model, options.device, options.dtype), task, training


def _lengths(options: argparse.Namespace) -> list[Row]:
    from robust_prefix.evaluation.statistics import wilson
    from robust_prefix.lengths import GRID, choose_length
    from robust_prefix.prefixes import build_method

    backbone, task, training = _setting(options)
    grid = options.lengths or (GRID[:2] if options.quick else GRID)
    rows = []
    for spec in options.methods:
        curve = choose_length(
            backbone,
            task,
            prefix=build_method(spec).config,
            training=training,
            grid=grid,
            seed=options.seed,
            out=options.out / spec.replace("/", "_"),
        )
        for point in curve.points:
            right = round(point.dev_accuracy * point.dev_examples)
            low, high = wilson(right, point.dev_examples).interval
            values = (spec, "before", point.length, "dev", point.dev_accuracy, low, high)
            sizes = (point.dev_examples, point.parameters)
            chosen = {"chosen": point.length == curve.chosen}
            rows.append(dict(zip(COLUMNS, (*values, *sizes), strict=True)) | chosen)
    return rows


def _positions(options: argparse.Namespace) -> list[Row]:
    from robust_prefix.evaluation.accuracy import measured_run
    from robust_prefix.prefixes import build_method
    from robust_prefix.training import train_prefix

    backbone, task, training = _setting(options)
    config = build_method(options.method, length=0).config
    rows = []
    for place, template in list(templates(task, options.tokens))[: 2 if options.quick else None]:
        folder = options.out / place.replace(" ", "-")
        changed = dataclasses.replace(task, template=template)
        prefix = train_prefix(
            backbone, changed, prefix=config, training=training, seed=options.seed, out=folder
        )
        run = measured_run(backbone, changed, prefix, max_examples=64 if options.quick else 0)
        run.save(folder)
        found = run.measurements["clean_accuracy"]
        values = (options.method, place, options.tokens, found["split"], found["value"])
        sizes = (*found["interval"], found["n"], prefix.parameters)
        rows.append(dict(zip(COLUMNS, (*values, *sizes), strict=True)))
    return rows


def templates(task: Any, tokens: int) -> Iterator[tuple[str, str]]:
    """Places for ``tokens`` virtual tokens in the prompt of a task, by name."""
    last = f"{{{task.columns[-1]}}}"
    before, behind = task.template.split(last)
    third = tokens // 3
    rest = tokens - 2 * third

    def prompt(count: int) -> str:
        return f"{{prompt:{count}}}"

    yield "before", f"{prompt(tokens)}{task.template}"
    yield "behind the text", f"{before}{last}{prompt(tokens)}{behind}"
    yield "behind the question", f"{task.template}{prompt(tokens)}"
    everywhere = f"{prompt(rest)}{before}{last}{prompt(third)}{behind}{prompt(third)}"
    yield "everywhere", everywhere
    text = " ".join(f"{{{column}}}" for column in task.columns)
    yield "no words", f"{prompt(tokens - tokens // 2)}{text}{prompt(tokens // 2)}"


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _draw(options: argparse.Namespace, rows: Sequence[Row]) -> None:
    """Accuracy with its interval: a line a method over the length, or a mark a place."""
    from matplotlib.figure import Figure

    from timing.figures import COLORS, MARKERS

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.add_subplot()
    if options.question == "length":
        for number, method in enumerate(dict.fromkeys(row["method"] for row in rows)):
            of_method = [row for row in rows if row["method"] == method]
            lengths = [row["length"] for row in of_method]
            color, marker = (of[number % len(of)] for of in (COLORS, MARKERS))
            bars = _bars(of_method)
            axes.errorbar(lengths, *bars, label=method, capsize=3, color=color, marker=marker)
            chosen = [row for row in of_method if row["chosen"]]
            axes.plot(
                [row["length"] for row in chosen],
                [100 * row["accuracy"] for row in chosen],
                *("o",),
                markersize=13,
                markerfacecolor="none",
                color=color,
            )
        axes.set_xscale("log")
        axes.set_xticks(sorted({row["length"] for row in rows}))
        axes.set_xticklabels([str(value) for value in sorted({row["length"] for row in rows})])
        axes.minorticks_off()
        axes.set_xlabel("virtual tokens (circled: chosen by --length auto)")
        axes.legend(frameon=False)
    else:
        places = range(len(rows))
        axes.errorbar(places, *_bars(rows), fmt="o", capsize=3, color=COLORS[0])
        axes.set_xticks(list(places), [textwrap.fill(row["place"], 10) for row in rows])
        axes.set_xlabel(f"place of {options.tokens} virtual tokens, {options.method}")
    split, n = rows[0]["split"], rows[0]["n"]
    axes.set_ylabel(f"{split} accuracy in %, n={n:,}")
    model = Path(options.model).name
    axes.set_title(f"{options.task}, {model}, seed {options.seed}, 95% intervals")
    for kind in ("png", "svg"):
        with atomic_path(options.out / f"{options.question}.{kind}") as path:
            figure.savefig(path, format=kind, dpi=150)


def _bars(rows: Sequence[Row]) -> tuple[list[float], list[list[float]]]:
    """Accuracies in percent and how far their intervals reach down and up."""
    values = [100 * row["accuracy"] for row in rows]
    down = [100 * (row["accuracy"] - row["low"]) for row in rows]
    up = [100 * (row["high"] - row["accuracy"]) for row in rows]
    return values, [down, up]


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


if __name__ == "__main__":
    sys.exit(main())
