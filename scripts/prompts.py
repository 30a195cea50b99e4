"""Questions about prompts, each a table and a figure: how many tokens, where, and which words.

    python scripts/prompts.py length --data-dir DATA --out results/prompt-length
    python scripts/prompts.py position --data-dir DATA --out results/prompt-position
    python scripts/prompts.py sensitivity --data-dir DATA --out results/prompt-words

``length``: dev accuracy by length for each method, by short trainings as ``--length auto`` makes
them. ``position``: test accuracy of P-tuning with equally many virtual tokens before, between and
behind the texts of the prompt (Liu et al. 2021, section 3.2). Both resume. ``sensitivity``: dev
accuracy with one word of the template changed, each in turn, zero-shot or behind the prefix of
``--run``; the words of a run's hard prompt are part of its template. All write a CSV, a JSON file
with every setting, and the figure as PNG and SVG. ``--quick`` goes the same way on little. Needs
matplotlib, which the extra ``attacks`` brings.
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
from robust_prefix.errors import ResourceError, RobustPrefixError
from robust_prefix.files import atomic_path, write_json, write_text

METHODS = ("prefix-tuning", "prompt-tuning", "p-tuning")
COLUMNS = ("method", "place", "length", "split", "accuracy", "low", "high", "n", "parameters")
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, measure and draw; 0, or 2 after one line about bad input."""
    options = _parse(arguments)
    quiet_libraries()
    try:
        rows = QUESTIONS[options.question](options)
        # Without the folders: where they are says nothing about the numbers.
        settings = {
            name: value for name, value in vars(options).items() if not isinstance(value, Path)
        }
        write_json(options.out / f"{options.question}.json", {"settings": settings, "rows": rows})
        write_text(options.out / f"{options.question}.csv", _csv(rows))
        _draw_words(options, rows) if options.question == "sensitivity" else _draw(options, rows)
    except RobustPrefixError as error:
        print(f"prompts: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    for row in rows:
        print(
            "  ".join(
                f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()
            )
        )
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("question", choices=tuple(QUESTIONS))
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--model", help="smollm2-135m, or that of --run")
    parser.add_argument("--methods", nargs="+", default=METHODS, help="of length: names, settings")
    parser.add_argument("--lengths", nargs="+", type=int, help="of length; 1 2 5 10 20 50")
    parser.add_argument("--tokens", type=int, default=12, help="of position: virtual tokens")
    parser.add_argument("--method", default="p-tuning", help="of position: name, settings")
    parser.add_argument("--template", help="of sensitivity; the task's or the run's own")
    parser.add_argument("--run", help="of sensitivity: a run directory or zoo:NAME; zero-shot")
    parser.add_argument(
        "--examples", type=int, default=200, help="of sensitivity: dev rows; 0: all"
    )
    parser.add_argument("--near", type=int, default=2, help="of sensitivity: synonyms, near words")
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
    if not options.run:
        options.model = options.model or "smollm2-135m"
    if options.quick:
        options.max_examples, options.methods = 64, options.methods[:2]
        options.examples, options.near = 16, 1
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


def _sensitivity(options: argparse.Namespace) -> list[Row]:
    from robust_prefix import load_backbone, load_task
    from robust_prefix.data import load_split
    from robust_prefix.evaluation.sensitivity import sensitivity
    from robust_prefix.runs import Run

    task, prefix = load_task(options.task, options.data_dir), None
    if options.run:
        run = Run.load(options.run, options.data_dir)
        task, prefix = run.task, run.prefix
        options.model = options.model or prefix.base_model
        if "written" in prefix.config:
            task, prefix = dataclasses.replace(task, template=prefix.config["written"]), None
    if options.template:
        task = dataclasses.replace(task, template=options.template)
    options.template = task.template
    rows = load_split(task, "dev")
    if options.examples:
        rows = rows.select(range(min(options.examples, len(rows))))
    effects = sensitivity(
        load_backbone(options.model, options.device, options.dtype),
        task,
        rows,
        prefix=prefix,
        substitutes=_substitutes(options),
        count=options.near,
    )
    return [effect.to_dict() for effect in effects]


def _substitutes(options: argparse.Namespace) -> Any:
    """Synonyms from the word lists of the attacks, where they are here."""
    from attacks.lexicon import synonyms

    try:
        return synonyms(options.data_dir)
    except ResourceError as error:
        print(f"prompts: without synonyms: {error}", file=sys.stderr)
        return None


QUESTIONS = {"length": _lengths, "position": _positions, "sensitivity": _sensitivity}


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
    _save(options, figure)


def _draw_words(options: argparse.Namespace, rows: Sequence[Row]) -> None:
    """Each word in a line: a mark for what stands there instead, and the change that matters most.

    Behind all the accuracy of the template as it is, with its interval. A mark is filled where the
    paired difference to it is hardly chance.
    """
    from matplotlib.figure import Figure

    from robust_prefix.evaluation.flags import SIGNIFICANCE
    from robust_prefix.evaluation.sensitivity import KINDS
    from timing.figures import COLORS, MARKERS

    before, *changed = rows
    places = sorted({row["place"] for row in changed})
    kinds = [kind for kind in KINDS if any(row["kind"] == kind for row in changed)]
    figure = Figure(figsize=(8, 1.6 + 0.5 * len(places)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvspan(100 * before["low"], 100 * before["high"], color="0.93", zorder=0)
    axes.axvline(100 * before["accuracy"], color="0.4", linewidth=1, zorder=1)
    for number, kind in enumerate(kinds):
        of_kind = [row for row in changed if row["kind"] == kind]
        apart = 0.6 * (
            number / max(1, len(kinds) - 1) - 0.5
        )  # so that kinds do not hide each other
        values, reach = _bars(of_kind)
        heights = [places.index(row["place"]) + apart for row in of_kind]
        style = {"color": (*COLORS, "0.2")[number], "markersize": 5}
        marker = (*MARKERS, "P")[number]
        axes.errorbar(
            *(values, heights),
            xerr=reach,
            fmt=marker,
            markerfacecolor="white",
            ecolor="0.8",
            elinewidth=0.7,
            label=kind,
            **style,
        )
        sure = [row["p"] <= SIGNIFICANCE for row in of_kind]
        axes.plot(
            [value for value, is_sure in zip(values, sure, strict=True) if is_sure],
            [height for height, is_sure in zip(heights, sure, strict=True) if is_sure],
            marker,
            **style,
        )
    axes.set_yticks(range(len(places)), [_word_at(changed, place) for place in places])
    axes.set_ylim(len(places) - 0.5, -0.5)
    most = axes.secondary_yaxis("right")
    most.set_yticks(range(len(places)), [_most(changed, place) for place in places])
    most.set_ylabel("largest change, in points")
    axes.set_xlabel(
        f"dev accuracy in %, n={before['n']:,}, 95% intervals; line: the template as it is;\n"
        f"filled: the paired difference is hardly chance (p at most {SIGNIFICANCE})"
    )
    axes.set_title(
        f"{textwrap.shorten(repr(options.template), 70)}\n"
        f"{Path(options.model).name}, {options.run or 'zero-shot'}",
        fontsize=10,
    )
    figure.legend(loc="outside lower center", ncols=len(kinds), frameon=False)
    _save(options, figure)


def _word_at(rows: Sequence[Row], place: int) -> str:
    return next(str(row["word"]) for row in rows if row["place"] == place)


def _most(rows: Sequence[Row], place: int) -> str:
    """What moves the accuracy most at a place, and by how much."""
    row = max(
        (row for row in rows if row["place"] == place), key=lambda row: abs(row["difference"])
    )
    what = repr(row["replacement"]) if row["replacement"] else row["kind"]
    return f"{what} {100 * row['difference']:+.1f}"


def _save(options: argparse.Namespace, figure: Any) -> None:
    for kind in ("png", "svg"):
        with atomic_path(options.out / f"{options.question}.{kind}") as path:
            figure.savefig(path, format=kind, dpi=150)


def _bars(rows: Sequence[Row]) -> tuple[list[float], list[list[float]]]:
    """Accuracies in percent and how far their intervals reach down and up."""
    values = [100 * row["accuracy"] for row in rows]
    down = [100 * (row["accuracy"] - row["low"]) for row in rows]
    up = [100 * (row["high"] - row["accuracy"]) for row in rows]
    return values, [down, up]


if __name__ == "__main__":
    sys.exit(main())
