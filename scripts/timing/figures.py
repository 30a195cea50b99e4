"""The measurements as pictures, each as PNG and as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogFormatterSciNotation,
    LogLocator,
    NullLocator,
)

from robust_prefix.files import atomic_path
from timing import defended, growth, queries, subspace_fit, train_speed
from timing.interleave import Spread
from timing.results import Row
from timing.subspace_fit import Angles

# Okabe & Ito: told apart with any kind of colour vision, and in grey with the markers below.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
SHOWN = {defended.PLAIN: "none (plain pass)"}
MARKERS = ("o", "s", "^", "D", "v")


def draw_figures(rows: Sequence[Row], angles: Sequence[Angles], out: Path) -> list[Path]:
    """Draw what the rows tell; a part that was not measured has no figure.

    Args:
        angles: see ``timing.subspace_fit``.

    Raises:
        StorageError: writing failed.
    """
    drawn: dict[str, Callable[[list[Row]], Figure]] = {
        defended.PART: _defense,
        queries.PART: lambda of: _rates(of, "queries a second"),
        train_speed.PART: lambda of: _rates(of, "training examples a second"),
        subspace_fit.PART: lambda of: _subspaces(of, angles),
        growth.PART: _growth,
    }
    paths = []
    for part, draw in drawn.items():
        chosen = [row for row in rows if row.part.partition(":")[0] == part]
        if chosen:
            figure = draw(chosen)
            for kind in ("png", "svg"):
                with atomic_path(out / f"{part}.{kind}") as path:
                    figure.savefig(path, format=kind, dpi=150, bbox_inches="tight")
                paths.append(out / f"{part}.{kind}")
    return paths


def _defense(rows: list[Row]) -> Figure:
    """Ratios to a plain pass: a line a contestant, a mark a batch size."""
    names = list(dict.fromkeys(row.contestant for row in rows))[::-1]
    sizes = list(dict.fromkeys(row.setting["batch"] for row in rows))
    figure, axes = _figure(8, 0.7 + 0.6 * len(names))
    for place, size in enumerate(sizes):
        offset = 0.22 * ((len(sizes) - 1) / 2 - place)
        of_size = {row.contestant: row.ratio for row in rows if row.setting["batch"] == size}
        _marks(axes, of_size, names, offset, place, f"batch {size}")
    axes.axvline(1, color="0.6", linewidth=1, zorder=0)
    _categories(axes, names)
    _log(axes, "x", "time, as a multiple of a plain pass")
    _legend(figure)
    return figure


def _rates(rows: list[Row], label: str) -> Figure:
    """Items a second: a line and a mark a contestant."""
    names = [row.contestant for row in rows][::-1]
    figure, axes = _figure(8, 0.7 + 0.5 * len(names))
    rates = {
        row.contestant: Spread.of([n / s for n, s in zip(row.items, row.seconds, strict=True)])
        for row in rows
    }
    _marks(axes, rates, names, 0, 0, "")
    _categories(axes, names)
    medians = [spread.median for spread in rates.values()]
    if max(medians) > 5 * min(medians):
        _log(axes, "x", label)
    else:
        axes.set_xlim(0, 1.15 * max(spread.p90 for spread in rates.values()))
        axes.set_xlabel(label)
    return figure


def _subspaces(rows: list[Row], angles: Sequence[Angles]) -> Figure:
    """Peak memory, time and error over the number of rows."""
    figure, *panels = _figure(11, 3.6, columns=3)
    for place, name in enumerate(dict.fromkeys(row.contestant for row in rows)):
        of = [row for row in rows if row.contestant == name]
        counts = [row.setting["rows"] for row in of]
        _line(panels[0], counts, [(row.peak or 0) / 2**20 for row in of], place, name)
        _line(panels[1], counts, [row.timings.spread("own").median for row in of], place, name)
        _line(panels[2], counts, [each[name] for each in angles], place, name)
    labels = ("peak memory in MiB", "seconds", "angle to the exact subspace")
    for axes, label in zip(panels, labels, strict=True):
        _log(axes, "x", "rows")
        axes.xaxis.set_major_locator(FixedLocator(sorted({row.setting["rows"] for row in rows})))
        _log(axes, "y", label)
    panels[2].yaxis.set_major_formatter(LogFormatterSciNotation())
    _legend(figure, panels[0])
    return figure


def _growth(rows: list[Row]) -> Figure:
    """Milliseconds a text over each axis."""
    parts = list(dict.fromkeys(row.part for row in rows))
    figure, *panels = _figure(3.1 * len(parts), 3.4, columns=len(parts), share=True)
    labels = {
        "tokens": "tokens a text",
        "prefix": "length of the prefix",
        "layers": "states in the loss",
        "batch": "texts a batch",
    }
    for axes, part in zip(panels, parts, strict=True):
        axis = part.partition(": ")[2]
        for place, name in enumerate(dict.fromkeys(row.contestant for row in rows)):
            of = [row for row in rows if row.part == part and row.contestant == name]
            times = [1000 * row.timings.spread("own").median / row.items[0] for row in of]
            _line(axes, [row.setting[axis] for row in of], times, place, name)
        _log(axes, "y", "milliseconds a text" if axes is panels[0] else "")
        if axis == "layers":
            axes.set_xlabel(labels[axis])
        else:
            _log(axes, "x", labels[axis], base=2)
        values = {row.setting[axis] for row in rows if row.part == part}
        axes.xaxis.set_major_locator(FixedLocator(sorted(values)))
    _legend(figure, panels[0])
    return figure


def _figure(width: float, height: float, columns: int = 1, share: bool = False) -> Any:
    """A figure followed by its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False, sharey=share)[0]
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(which="major", color="0.9", linewidth=0.8)
        each.set_axisbelow(True)
    return figure, *axes


def _marks(
    axes: Axes, of: dict[str, Spread], names: list[str], offset: float, style: int, label: str
) -> None:
    """A mark at the median, a line from the tenth to the ninetieth percentile, and the number."""
    for name, spread in of.items():
        y = names.index(name) + offset
        axes.plot([spread.p10, spread.p90], [y, y], color=COLORS[style], linewidth=2, alpha=0.5)
        axes.plot(
            spread.median,
            y,
            MARKERS[style],
            color=COLORS[style],
            markersize=6,
            label=label if name == names[-1] else "",
        )
        axes.annotate(
            number(spread.median),
            (spread.p90, y),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )


def number(value: float) -> str:
    """Three digits: 1.00, 21.3, 1,234."""
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


def _line(axes: Axes, x: Sequence[float], y: Sequence[float], style: int, label: str) -> None:
    axes.plot(
        x,
        y,
        marker=MARKERS[style],
        color=COLORS[style],
        markersize=5,
        label=SHOWN.get(label, label),
    )


def _categories(axes: Axes, names: list[str]) -> None:
    axes.margins(x=0.12)  # room for the numbers beside the marks
    axes.set_yticks(range(len(names)), [SHOWN.get(name, name) for name in names])
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(axis="y", visible=False)


def _log(axes: Axes, which: str, label: str, base: int = 10) -> None:
    """A logarithmic axis with plain numbers."""
    scale, axis = (axes.set_xscale, axes.xaxis) if which == "x" else (axes.set_yscale, axes.yaxis)
    scale("log", base=base)
    low, high = axis.get_view_interval()
    subs = (1.0, 2.0, 5.0) if base == 10 and high / low < 300 else (1.0,)
    axis.set_major_locator(LogLocator(base=base, subs=subs, numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_label_text(label)


def _legend(figure: Figure, axes: Axes | None = None) -> None:
    handles, labels = (axes or figure.axes[0]).get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, fontsize=9
    )
