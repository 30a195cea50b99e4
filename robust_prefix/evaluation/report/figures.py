"""Numbers to coordinates: query-budget curves, and replay against direct.

Coordinates are in percent of the figure, written with fixed digits, so that a figure stretches
with the page and equal runs give equal bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from robust_prefix.evaluation.curves import QueryCurve, round_budgets
from robust_prefix.evaluation.formats import percent
from robust_prefix.evaluation.records import Role
from robust_prefix.evaluation.summary import SummaryRow

_CLOSE = 9.0  # percent of the width; labels nearer than that would overlap


@dataclass(frozen=True)
class Tick:
    """A number at an axis."""

    place: str
    label: str


@dataclass(frozen=True)
class Line:
    """The curve of one system.

    Attributes:
        path: SVG path of the steps, in a square of 100 by 100 with the origin at the top left.
        band: SVG path of the interval's area; empty where there is none.
        fall: from where to where, in words.
        words: the curve for those who do not see it.
    """

    role: Role
    name: str
    path: str
    band: str
    fall: str
    words: str


@dataclass(frozen=True)
class CurvePanel:
    """Curves that share their axes, and the ticks of the horizontal one."""

    title: str
    ticks: list[Tick]
    lines: list[Line]


@dataclass(frozen=True)
class Point:
    """One system: robust accuracy under replay, and under the direct attack.

    Attributes:
        x, y: the place; the vertical axis points down, as SVG's does.
        across, along: the ends of the horizontal and of the vertical interval.
    """

    number: int
    role: Role
    name: str
    x: str
    y: str
    across: tuple[str, str]
    along: tuple[str, str]
    words: str


def curve_panel(title: str, curves: Sequence[tuple[Role, str, QueryCurve]]) -> CurvePanel:
    """The curves of systems, each given as its role and its name, over a logarithm of queries.

    Bands are drawn for the defence alone, or for the only curve: several would hide one another.
    """
    most = max((curve.most for _, _, curve in curves), default=0)

    def x(queries: float) -> float:
        return 100 * math.log1p(queries) / math.log1p(most) if most else 0.0

    lines = []
    for role, name, curve in curves:
        drawn = role == "defense" or len(curves) == 1
        words = ", ".join(f"{percent(curve.at(at))} at {at}" for at in _told(most))
        steps = [(x(q), held / curve.n) for q, held in zip(curve.queries, curve.held, strict=True)]
        band = [(x(q), low, high) for q, low, high in curve.band] if drawn else []
        band += [(100.0, *band[-1][1:])] if band else []  # an attack that gave up stays so
        fall = f"{percent(curve.at(0))} to {percent(curve.at(curve.most))}"
        lines.append(Line(role, name, _steps(steps), _area(band), fall, words))
    return CurvePanel(title, _ticks({budget: x(budget) for budget in round_budgets(most)}), lines)


def _ticks(places: Mapping[int, float]) -> list[Tick]:
    """Those that leave one another room; the last is always among them."""
    *others, last = places
    kept: list[int] = []
    for budget in others:
        after = places[budget] - places[kept[-1]] if kept else _CLOSE
        if after >= _CLOSE and places[last] - places[budget] >= _CLOSE:
            kept.append(budget)
    return [Tick(_number(places[budget]), f"{budget:,}") for budget in (*kept, last)]


def scatter_points(pairs: Sequence[tuple[str, SummaryRow, SummaryRow]]) -> list[Point]:
    """A point for each name with its row at replay and its row at direct."""
    return [
        _point(number, name, replay, direct)
        for number, (name, replay, direct) in enumerate(pairs, start=1)
    ]


def share(value: float | None) -> str:
    """A proportion as a coordinate in percent, with fixed digits."""
    return _number(100 * (value or 0))


def _point(number: int, name: str, replay: SummaryRow, direct: SummaryRow) -> Point:
    across, along = replay.robust_accuracy, direct.robust_accuracy
    return Point(
        number=number,
        role=direct.role,
        name=name,
        x=share(across.value),
        y=_down(along.value),
        across=(share(across.low), share(across.high)),
        along=(_down(along.low), _down(along.high)),
        words=f"{percent(across.value)} replayed, {percent(along.value)} attacked directly",
    )


def _told(most: int) -> list[int]:
    """The budgets to say in words: none, a tenth, and all."""
    return sorted({0, most // 10, most})


def _steps(points: Sequence[tuple[float, float]]) -> str:
    (x, y), *rest = points
    path = [f"M{_number(x)} {_down(y)}"]
    path += [f"H{_number(x)}V{_down(y)}" for x, y in rest]
    return "".join([*path, "H100"])


def _area(band: Sequence[tuple[float, float, float]]) -> str:
    if not band:
        return ""
    there = [f"{_number(x)} {_down(high)}" for x, _, high in band]
    back = [f"{_number(x)} {_down(low)}" for x, low, _ in reversed(band)]
    return f"M{'L'.join([*there, *back])}Z"


def _down(value: float | None) -> str:
    return _number(100 * (1 - (value or 0)))


def _number(value: float) -> str:
    return f"{value:.2f}"
