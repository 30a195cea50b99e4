"""Robust accuracy against the number of queries an attacker is allowed.

The attack ran once with its full budget. Had it been allowed ``q`` queries, an example that fell
at its ``k``-th would still have held for ``q < k``: so one run gives the whole curve, as long as
the search does not plan by its budget; one that does needs a run at each.
"""

from __future__ import annotations

import bisect
import collections
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from robust_prefix.evaluation.records import Record
from robust_prefix.evaluation.statistics import wilson


@dataclass(frozen=True)
class QueryCurve:
    """How many of ``n`` attacked texts hold at each query budget: a step function, falling.

    Attributes:
        n: records of direct attacks, those that were wrong before or crashed included; each
            example counts once for each seed of a control.
        examples: how many different examples these are.
        queries: budgets at which ``held`` changes, ascending; the first is 0.
        held: how many hold from that budget on.
        most: the most queries that any example took, held or not: the curve is known so far.
    """

    n: int
    examples: int
    queries: tuple[int, ...]
    held: tuple[int, ...]
    most: int

    def at(self, budget: int) -> float:
        """Robust accuracy at a budget."""
        return self._held(budget) / self.n

    @property
    def band(self) -> list[tuple[int, float, float]]:
        """Budget and the 95% Wilson interval there, at round budgets.

        Empty where examples count for several seeds: these are not independent.
        """
        if self.n != self.examples:
            return []
        found = [
            (budget, wilson(self._held(budget), self.n)) for budget in round_budgets(self.most)
        ]
        return [(budget, at.low, at.high) for budget, at in found]

    def to_dict(self) -> dict[str, Any]:
        """JSON values, rounded, the same for equal runs."""
        return {
            "n": self.n,
            "queries": list(self.queries),
            "held": list(self.held),
            "most": self.most,
            "band": [[budget, round(low, 4), round(high, 4)] for budget, low, high in self.band],
        }

    def _held(self, budget: int) -> int:
        return self.held[bisect.bisect_right(self.queries, budget) - 1]


def query_curve(records: Iterable[Record]) -> QueryCurve | None:
    """The curve of one system.

    Args:
        records: of that system; replayed ones ask nothing and are left out.

    Returns:
        None where it was not attacked directly.
    """
    direct = [record for record in records if record.protocol != "replay"]
    if not direct:
        return None
    # what was wrong before or crashed holds at no budget; a claim that failed verification fell
    standing = [record for record in direct if record.attacked]
    fell = collections.Counter(record.queries for record in standing if not record.held)
    budgets = sorted({0, *fell})
    lost = itertools.accumulate(fell[budget] for budget in budgets)
    return QueryCurve(
        n=len(direct),
        examples=len({record.example for record in direct}),
        queries=tuple(budgets),
        held=tuple(len(standing) - gone for gone in lost),
        most=max((record.queries for record in standing), default=0),
    )


def round_budgets(most: int) -> list[int]:
    """0, then 1, 2, 5, 10, 20, 50 and so on below ``most``, and ``most`` itself."""
    series = (digit * 10**power for power in itertools.count() for digit in (1, 2, 5))
    return sorted({0, *itertools.takewhile(lambda budget: budget < most, series), most})
