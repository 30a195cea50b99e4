"""Numbers as a reader is shown them, wherever that is."""

from __future__ import annotations

from robust_prefix.evaluation.statistics import Estimate
from robust_prefix.evaluation.summary import SummaryRow


def percent(value: float | None) -> str:
    """``0.133`` as ``13.3%``; a dash where there was nothing to count."""
    return "-" if value is None else f"{100 * value:.1f}%"


def interval(estimate: Estimate) -> str:
    """``6.9 to 24.2``, in percent; empty where there was nothing to count."""
    if estimate.value is None:
        return ""
    return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"


def passes(row: SummaryRow) -> str:
    """Forward and backward passes a prediction: ``1.0`` or ``3.2 + 2.0``."""
    if row.forward_passes is None:
        return "-"
    backward = f" + {row.backward_passes:.1f}" if row.backward_passes else ""
    return f"{row.forward_passes:.1f}{backward}"


def queries(row: SummaryRow) -> str:
    """Mean queries an attacked example; a dash for a replay, which asks nothing."""
    value = row.queries_mean and row.queries_mean.value
    return f"{value:.0f}" if value else "-"


def mean(estimate: Estimate | None, digits: int = 0) -> str:
    """A mean with fixed digits; a dash where there is none."""
    return "-" if estimate is None or estimate.value is None else f"{estimate.value:.{digits}f}"


def factor(value: float | None) -> str:
    """``5.2x``, ``3e12x``: how many times as much; a dash where that is unknown."""
    if value is None:
        return "-"
    if value >= 10_000:  # look-alike characters have perplexities that nobody reads in full
        return f"{value:.0e}x".replace("e+0", "e").replace("e+", "e")
    return f"{value:.1f}x" if value < 100 else f"{value:.0f}x"


def points(difference: float | None) -> str:
    """A difference of proportions as ``+3.0``, in points."""
    return "-" if difference is None else f"{100 * difference:+.1f}"


def value(estimate: Estimate | None) -> float | None:
    """The value of an estimate, if there is one."""
    return None if estimate is None else estimate.value
