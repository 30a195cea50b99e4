"""The measurements as printed tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from timing.goals import Goal
from timing.results import Row
from timing.subspace_fit import METHODS, Angles


def print_rows(rows: Sequence[Row], console: Console) -> None:
    """One table a part."""
    for part in dict.fromkeys(row.part for row in rows):
        of = [row for row in rows if row.part == part]
        with_peak = any(row.peak is not None for row in of)
        table = Table(title=part, title_justify="left")
        for name in ("setting", "contestant", "ratio", "10th-90th", "95%", "seconds", "a second"):
            table.add_column(name, justify="left" if name in ("setting", "contestant") else "right")
        if with_peak:
            table.add_column("peak MiB", justify="right")
        for row in of:
            ratio = row.ratio
            cells = [
                _setting(row),
                row.contestant,
                f"{ratio.median:.2f}",
                f"{ratio.p10:.2f}-{ratio.p90:.2f}",
                f"{ratio.low:.2f}-{ratio.high:.2f}",
                f"{row.timings.spread('own').median:.3g}",
                f"{row.per_second:.3g}",
            ]
            if with_peak:
                cells.append("" if row.peak is None else f"{row.peak / 2**20:.1f}")
            table.add_row(*cells)
        console.print(table)


def _setting(row: Row) -> str:
    """What was held fixed; of an axis along which a part grows, its value alone."""
    axis = row.part.partition(": ")[2]
    return " ".join(f"{name}={value}" for name, value in row.setting.items() if axis in ("", name))


def print_angles(angles: Sequence[Angles], console: Console) -> None:
    """How far each method's subspace is from the exact one; see ``timing.subspace_fit``."""
    if not angles:
        return
    table = Table(title="largest angle to the exact subspace, radians", title_justify="left")
    table.add_column("contestant")
    for each in angles:
        table.add_column(f"{each['rows']:,} rows", justify="right")
    for method in METHODS:
        table.add_row(method, *(f"{each[method]:.1e}" for each in angles))
    console.print(table)


def print_accuracy(lines: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Accuracy at equal steps; see ``timing.accuracy``."""
    if not lines:
        return
    table = Table(title="accuracy at equal steps", title_justify="left")
    for name in ("contestant", "steps", "accuracy", "95%", "n"):
        table.add_column(name, justify="left" if name == "contestant" else "right")
    for line in lines:
        found = line["accuracy"]
        table.add_row(
            line["contestant"],
            str(line["steps"]),
            f"{found['value']:.1%}",
            f"{found['low']:.1%}-{found['high']:.1%}",
            str(line["n"]),
        )
    console.print(table)


def print_goals(goals: Sequence[Goal], console: Console) -> None:
    """What was to be reached, and whether it was."""
    table = Table(title="goals", title_justify="left")
    for name in ("what", "measured", "95%", "goal", "met"):
        table.add_column(name, justify="left" if name == "what" else "right")
    for goal in goals:
        sign = "at least" if goal.at_least else "at most"
        interval = f"{goal.low:.3g}-{goal.high:.3g}" if goal.low != goal.high else ""
        table.add_row(
            goal.name,
            f"{goal.value:.3g}",
            interval,
            f"{sign} {goal.bound:g}",
            "yes" if goal.met else "no",
        )
    console.print(table)
