"""How fast this project is, beside what else there is, measured in one process.

    python scripts/speed.py --data-dir DATA --out results/speed

(a) a defended answer: plain, ours in each mode, the published program taken literally;
(b) queries a second: an attack's candidates asked of TextAttack's wrapper and of ours;
(c) training examples a second: ours, and Hugging Face PEFT under ``transformers.Trainer``;
(d) the subspace fit: time and peak memory, ours and scikit-learn's;
(e) how a plain and a defended answer grow with text, prefix, layers in the loss and batch.

Writes ``speed.json`` with every round, ``speed.csv`` and figures. Ratios are taken within a round,
in which the contestants follow each other in random order. (b) and (c) need the extras ``attacks``
and ``peft``. ``--quick`` goes the same way in a few minutes, on little, to see that it works.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from robust_prefix.errors import ConfigError, ResourceError, RobustPrefixError

if TYPE_CHECKING:
    from timing.results import Row

PARTS = "abcde"
PACKAGES = {"b": ("textattack", "peft"), "c": ("peft",)}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 0, or 2 after one line about bad input."""
    from robust_prefix.cli.common import quiet_libraries

    quiet_libraries()
    try:
        options = _parse(arguments)
        _measure(options)
    except RobustPrefixError as error:
        print(f"speed: {' '.join(str(error).split())}", file=sys.stderr)
    except KeyboardInterrupt:
        print("speed: stopped by Ctrl-C; the parts that were finished are written", file=sys.stderr)
    else:
        return 0
    return 2


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    lines = (__doc__ or "").splitlines()
    parser = Parser(description=lines[0])
    parser.add_argument("--run", default="zoo:sst2-smollm2-135m", help="run directory or zoo:NAME")
    parser.add_argument(
        "--data-dir", type=Path, default=os.environ.get("ROBUST_PREFIX_DATA") or None
    )
    parser.add_argument("--out", type=Path, default=Path("results/speed"))
    parser.add_argument("--only", default=",".join(PARTS), help="parts, such as a,d")
    parser.add_argument("--repeats", type=int, help="rounds of every part")
    parser.add_argument("--threads", type=int, help="of the CPU; those torch chooses by default")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="little of everything")
    parser.add_argument(
        "--accuracy", action="store_true", help="with (c): train both and compare accuracy, too"
    )
    options = parser.parse_args(arguments)
    options.only = [part for part in options.only.replace(" ", "").split(",") if part]
    unknown = [part for part in options.only if part not in PARTS or len(part) > 1]
    if unknown or not options.only:
        raise ConfigError(f"expected --only with parts of {','.join(PARTS)}, got {unknown}")
    for name in ("repeats", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"expected --{name} of at least 1, got {value}")
    for part in options.only:
        for package in PACKAGES.get(part, ()):
            if importlib.util.find_spec(package) is None:
                raise ResourceError(
                    f"expected the package {package} for part {part}, got none; run: "
                    'pip install "robust-prefix[attacks,peft]" or leave the part out of --only'
                )
    return options


def _measure(options: argparse.Namespace) -> None:
    import torch
    from rich.console import Console

    from robust_prefix.classifier import PrefixClassifier
    from timing.defended import fitted
    from timing.figures import draw_figures
    from timing.goals import goals
    from timing.machine import describe_machine
    from timing.material import load_material
    from timing.parts import Parts
    from timing.results import write_results
    from timing.scale import FULL, QUICK
    from timing.tables import print_accuracy, print_angles, print_goals, print_rows

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    classifier = PrefixClassifier.from_pretrained(
        options.run,
        "none",
        device=options.device,
        dtype=options.dtype,
        data_dir=options.data_dir,
    )
    fitted(classifier)
    backbone = classifier.model.backbone
    test = load_material(classifier.task, "test", options.seed)
    parts = Parts(options, QUICK if options.quick else FULL, classifier, test)
    document: dict[str, Any] = {
        # Without the folders: where they are says nothing about the numbers.
        "options": {
            name: value for name, value in vars(options).items() if not isinstance(value, Path)
        },
        "machine": describe_machine(backbone.device, backbone.dtype),
        "model": backbone.name,
        "prefix_length": classifier.model.prefix.length,
        "texts": test.source,
    }
    rows: list[Row] = []
    for part in options.only:
        found, more = parts.part(part)
        rows += found
        document |= more
        reached = goals(rows, document.get("differences", {}), document.get("angles", ()))
        document["goals"] = [dataclasses.asdict(goal) | {"met": goal.met} for goal in reached]
        write_results(options.out, document, rows)  # what is done stays, whatever comes next
    draw_figures(rows, document.get("angles", ()), options.out)
    console = Console(width=None if sys.stdout.isatty() else 120)
    print_rows(rows, console)
    print_angles(document.get("angles", ()), console)
    print_accuracy(document.get("accuracy", ()), console)
    print_goals(reached, console)
    console.print(f"{test.source}; written to {options.out}")


if __name__ == "__main__":
    sys.exit(main())
