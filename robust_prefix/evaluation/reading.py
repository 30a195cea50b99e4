"""A summary in plain words, for the report and the terminal."""

from __future__ import annotations

from dataclasses import dataclass

from robust_prefix.evaluation.statistics import Estimate
from robust_prefix.evaluation.summary import SIGNIFICANCE, Summary, SummaryRow, short_name

_SITUATIONS = {
    "replay": "Shown the adversaries that were crafted on the undefended model,",
    "direct": "Attacked itself,",
    "worst": "Counting only texts that survive both the replay and the direct attack,",
}

# by the words a flag begins with, see summary.py
_EXPLANATIONS = {
    "dynamic": "It adapts itself to each text, so an adversary made for another model says little "
    "about it. Only the direct attack counts.",
    "small n": "The intervals are wide; a difference of a few points means nothing.",
    "incomplete": "The run stopped before its end; the same command resumes it.",
    "replay better than direct": "It breaks texts made for another model, not an attacker who can "
    "ask it. Read the direct row.",
    "verification failed": "The attack claimed success, but the model was right when asked about "
    "the reported text once more. Counted as held.",
    "no better than the equal-norm control": "What it gains, random noise of the same size gains "
    "too: the gain is not due to what was tuned.",
    "worse than the equal-norm control": "Random noise of the same size holds more often.",
    "no equal-norm control": "Without it a gain may be no more than that of random noise.",
    "randomized": "Repeat the run with other seeds; an attacker may simply ask again.",
}
_CRASHED = (
    "A crashed example counts as not held and is left out of the success rate; its traceback is "
    "in the run's database."
)


def percent(value: float | None) -> str:
    """``0.133`` as ``13.3%``; a dash where there was nothing to count."""
    return "–" if value is None else f"{100 * value:.1f}%"


def interval(estimate: Estimate) -> str:
    """``6.9–24.2``, in percent; empty where there was nothing to count."""
    if estimate.value is None:
        return ""
    return f"{100 * estimate.low:.1f}–{100 * estimate.high:.1f}"


def passes(row: SummaryRow) -> str:
    """Forward and backward passes a prediction: ``1.0`` or ``3.2 + 2.0``."""
    if row.forward_passes is None:
        return "–"
    backward = f" + {row.backward_passes:.1f}" if row.backward_passes else ""
    return f"{row.forward_passes:.1f}{backward}"


def queries(row: SummaryRow) -> str:
    """Mean queries an attacked example; a dash for a replay, which asks nothing."""
    value = row.queries_mean and row.queries_mean.value
    return f"{value:.0f}" if value else "–"


@dataclass(frozen=True)
class FlagNote:
    """A flag, the rows it was raised for and what it means."""

    flag: str
    about: tuple[str, ...]
    meaning: str


def flag_notes(summary: Summary) -> list[FlagNote]:
    """Each flag once, in order of appearance."""
    about: dict[str, dict[str, list[str]]] = {}
    for row in summary.rows:
        for flag in row.flags:
            about.setdefault(flag, {}).setdefault(row.name, []).append(row.protocol)
    return [
        FlagNote(
            flag,
            tuple(f"{name}: {', '.join(protocols)}" for name, protocols in names.items()),
            _explain(flag),
        )
        for flag, names in about.items()
    ]


def _explain(flag: str) -> str:
    for beginning, words in _EXPLANATIONS.items():
        if flag.startswith(beginning):
            return words
    return _CRASHED if flag.split()[-1] in ("error", "errors") else ""


def read(summary: Summary) -> list[str]:
    """The result in a few sentences, the undefended model first."""
    attack = short_name(summary.manifest.attack)
    sentences = []
    undefended = summary.role("undefended", "direct")
    if undefended is not None:
        sentences.append(
            f"Without a defence, {attack} brings accuracy from "
            f"{percent(undefended.clean_accuracy.value)} down to "
            f"{percent(undefended.robust_accuracy.value)} ({undefended.n} texts)."
        )
    for protocol in summary.protocols:
        for row in summary.at(protocol):
            if row.role == "defense":
                sentences.append(_compare(row, summary.role("control", protocol)))
    for row in summary.at(summary.protocols[-1]):
        if row.role == "defense" and undefended is not None:
            sentences.append(
                f"On clean text {row.name} is right on {percent(row.clean_accuracy.value)}, "
                f"the undefended model on {percent(undefended.clean_accuracy.value)}."
            )
    return sentences


def _compare(row: SummaryRow, control: SummaryRow | None) -> str:
    sentence = (
        f"{_SITUATIONS[row.protocol]} {row.name} holds on {percent(row.robust_accuracy.value)} "
        f"(95% interval {interval(row.robust_accuracy)})"
    )
    if control is None or row.p_value_control is None:
        return f"{sentence}."
    verdict = (
        "a difference that may be chance"
        if row.p_value_control > SIGNIFICANCE
        else "a difference that is hardly chance"
    )
    return (
        f"{sentence}; noise of the same norm holds on {percent(control.robust_accuracy.value)}, "
        f"{verdict} (p = {row.p_value_control:.2g})."
    )
