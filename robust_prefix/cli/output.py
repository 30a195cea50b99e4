"""What commands say: JSON lines and the table of a run on stdout, where files are on stderr."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from robust_prefix.evaluation.ablation import Remainder
    from robust_prefix.evaluation.compare import Comparison
    from robust_prefix.evaluation.results import Results
    from robust_prefix.evaluation.summary import Summary


_LONGEST = 200  # bytes of a file's name that most systems allow are 255


def results_folder(name: str) -> Path:
    """Where results go by default: named after the settings, as far as a file's name may go."""
    found = re.sub(r"[^\w.=-]+", "-", name)
    if len(found.encode()) > _LONGEST:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        found = f"{found.encode()[:_LONGEST].decode(errors='ignore')}-{digest}"
    return Path("results") / found


def print_json(value: Any) -> None:
    """One line of JSON on stdout, at once; where stdout takes no UTF-8, in ASCII alone."""
    plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    sys.stdout.write(json.dumps(value, ensure_ascii=plain) + "\n")
    sys.stdout.flush()


def show_summary(summary: Summary, folder: Path, as_json: bool) -> None:
    """The table of a run; with ``as_json`` its headline as the one line on stdout instead."""
    from robust_prefix.evaluation.tables import print_summary

    print_summary(summary, Console(stderr=as_json))
    print(f"report: {folder / 'report.html'}", file=sys.stderr)
    if as_json:
        print_json(summary.headline)


def show_contributions(
    results: Results, full: str, left: Sequence[Remainder], folder: Path, as_json: bool
) -> None:
    """The table of what each part of a composition adds, and the same as ``leave-one-out.json``."""
    from robust_prefix.evaluation.ablation import contributions, contributions_table
    from robust_prefix.files import write_json

    found = contributions(results, full, left)
    path = folder / "leave-one-out.json"
    manifest = results.manifest
    about = {"defense": full, "attack": manifest.attack, "protocol": manifest.protocol}
    write_json(path, {**about, "n": manifest.n, "parts": [each.to_dict() for each in found]})
    Console(stderr=as_json).print(contributions_table(results, full, found))
    print(f"leave-one-out: {path}", file=sys.stderr)


def show_results(
    runs: Sequence[Results],
    missing: Mapping[str, str],
    folder: Path,
    as_json: bool,
    examples: int = 0,
) -> None:
    """The table of one cell, or of a matrix of several; with ``as_json`` one line on stdout.

    Args:
        missing: by the name of a cell, why it has no records, or not all.
        examples: how many adversaries of each cell to show below.
    """
    from robust_prefix.evaluation.tables import examples_shown, matrix_table, summary_table

    console = Console(stderr=as_json)
    several = len(runs) > 1 or bool(missing)
    console.print(matrix_table(runs, missing) if several else summary_table(runs[0].summary))
    for run in runs if examples else ():
        console.print(Text.assemble("\n", ("Examples", "bold"), f" of {run.manifest.attack}\n"))
        console.print(examples_shown(run, examples))
    print(f"report: {folder / 'report.html'}", file=sys.stderr)
    if as_json:
        headlines = [run.summary.headline for run in runs]
        print_json({"runs": headlines, "missing": missing} if several else headlines[0])


def show_comparison(comparison: Comparison, folder: Path, as_json: bool) -> None:
    """The table of two evaluations; with ``as_json`` all of it as the one line on stdout."""
    from robust_prefix.evaluation.tables import comparison_table

    Console(stderr=as_json).print(comparison_table(comparison))
    print(f"comparison: {folder / 'comparison.md'}", file=sys.stderr)
    if as_json:
        print_json(comparison.to_dict())
