"""What the project set out to reach, beside what was measured."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from timing import defended, queries, subspace_fit, train_speed
from timing.interleave import Spread, Timings
from timing.literal import Literal
from timing.results import Row, find


@dataclass(frozen=True)
class Goal:
    """A number with its bound.

    Attributes:
        name: what it is.
        value: as measured.
        low, high: its 95% interval; the value itself where there is none.
        bound: what it is to reach or to stay below.
        at_least: whether more is better.
    """

    name: str
    value: float
    low: float
    high: float
    bound: float
    at_least: bool

    @property
    def met(self) -> bool:
        """Whether the value keeps the bound."""
        return (operator.ge if self.at_least else operator.le)(self.value, self.bound)


def goals(
    rows: Sequence[Row],
    differences: Mapping[str, float],
    angles: Sequence[subspace_fit.Angles],
) -> list[Goal]:
    """Those of which the rows tell.

    Args:
        differences: of logits, by contestant; see ``timing.equality``.
        angles: see ``timing.subspace_fit``.
    """
    found = [
        *_defense(rows),
        *_faster(rows, queries.PART, queries.SHIPPED, queries.PLAIN, 10),
        *_faster(rows, queries.PART, queries.LONGEST, queries.PLAIN, 1.5),
        *_faster(rows, train_speed.PART, train_speed.PEFT, train_speed.OURS, 1.3),
        *_memory(rows),
    ]
    if differences:
        found.append(_at_most("largest difference of a logit", max(differences.values()), 1e-2))
    if angles:
        worst = max(each[subspace_fit.OURS] for each in angles)
        found.append(_at_most("largest angle to scikit-learn's subspace", worst, 1e-3))
    return found


def _defense(rows: Sequence[Row]) -> list[Goal]:
    found = []
    sizes = dict.fromkeys(row.setting["batch"] for row in rows if row.part == defended.PART)
    for size in sizes:
        named = {
            name: find(rows, defended.PART, name, batch=size)
            for name in (Literal.name, defended.PAPER, defended.GATED)
        }
        literal, paper, gated = named.values()
        if literal is None or paper is None or gated is None:
            continue
        slower = Timings({"theirs": literal.seconds, "ours": paper.seconds}).ratio("theirs", "ours")
        found.append(_ratio(f"literal over {defended.PAPER}, batch {size}", slower, 8, True))
        if size == max(sizes):
            found.append(_ratio(f"{defended.PAPER} over plain, batch {size}", paper.ratio, 2.2))
        found.append(_ratio(f"{defended.GATED} over plain, batch {size}", gated.ratio, 1.2))
    return found


def _faster(rows: Sequence[Row], part: str, theirs: str, ours: str, bound: float) -> list[Goal]:
    row = find(rows, part, theirs)
    return [] if row is None else [_ratio(f"{theirs} over {ours}", row.ratio, bound, True)]


def _memory(rows: Sequence[Row]) -> list[Goal]:
    """How the peak of our fit grows from the second largest number of rows to the largest."""
    ours = [row for row in rows if row.contestant == subspace_fit.OURS and row.peak]
    if len(ours) < 2:
        return []
    fewer, most = sorted(ours, key=lambda row: row.setting["rows"])[-2:]
    name = f"peak at {most.setting['rows']:,} rows over that at {fewer.setting['rows']:,}"
    return [_at_most(name, (most.peak or 0) / (fewer.peak or 1), 1.1)]


def _ratio(name: str, spread: Spread, bound: float, at_least: bool = False) -> Goal:
    return Goal(name, spread.median, spread.low, spread.high, bound, at_least)


def _at_most(name: str, value: float, bound: float) -> Goal:
    return Goal(name, value, value, value, bound, at_least=False)
