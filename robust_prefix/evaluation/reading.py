"""A summary in plain words, for the report and the terminal."""

from __future__ import annotations

from dataclasses import dataclass

from robust_prefix.evaluation.flags import SIGNIFICANCE
from robust_prefix.evaluation.statistics import Estimate
from robust_prefix.evaluation.summary import Summary, SummaryRow, short_name

_SITUATIONS = {
    "replay": "Shown the adversaries that were crafted on the undefended model,",
    "direct": "Attacked itself,",
    "worst": "Counting only texts that survive both the replay and the direct attack,",
}

# by the words a flag begins with, see flags.py
_EXPLANATIONS = {
    "dynamic": "It adapts itself to each text, so an adversary made for another model says little "
    "about it. Only the direct attack counts.",
    "small n": "The intervals are wide; a difference of a few points means nothing.",
    "incomplete": "The run stopped before its end; the same command resumes it.",
    "replay better than direct": "It breaks texts made for another model, not an attacker who can "
    "ask it. Read the direct row.",
    "verification failed": "The attack claimed success, but the model was right when asked about "
    "the reported text once more. Not counted as held.",
    "no better than the equal-norm control": "What it gains, random noise of the same size gains "
    "too: the gain is not due to what was tuned.",
    "worse than the equal-norm control": "Random noise of the same size holds more often.",
    "no equal-norm control": "Without it a gain may be no more than that of random noise.",
    "substitute for": "The attack ran with another word list or encoder than its paper's.",
    "randomized": "Repeat the run with other seeds; an attacker may simply ask again.",
}
_CRASHED = (
    "A crashed example counts as not held and is left out of the success rate; its traceback is "
    "in the run's database."
)


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


@dataclass(frozen=True)
class FlagNote:
    """A flag, the rows it was raised for (none named: every row) and what it means."""

    flag: str
    about: tuple[str, ...]
    meaning: str


def flag_notes(summary: Summary) -> list[FlagNote]:
    """Each flag once, in order of appearance."""
    about: dict[str, dict[str, list[str]]] = {}
    for row in summary.rows:
        for flag in row.flags:
            about.setdefault(flag, {}).setdefault(row.name, []).append(row.protocol)
    notes = []
    for flag, names in about.items():
        everywhere = sum(map(len, names.values())) == len(summary.rows)
        rows = () if everywhere else tuple(_where(summary, *item) for item in names.items())
        notes.append(FlagNote(flag, rows, _explain(flag)))
    return notes


def _where(summary: Summary, name: str, protocols: list[str]) -> str:
    """``name`` alone where all its rows are meant."""
    rows = sum(row.name == name for row in summary.rows)
    return name if rows == len(protocols) else f"{name}: {', '.join(protocols)}"


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


def verdict(summary: Summary) -> str:
    """The result in one sentence: the defence under test at the protocol of the run."""
    row = summary.role("defense", summary.manifest.protocol)
    if row is None:
        return ""
    control = summary.role("control", row.protocol)
    if row.dynamic and row.protocol == "replay":
        return (
            f"{row.name} adapts itself at inference and was only shown replayed texts: "
            "that is no evidence. Attack it directly."
        )
    if control is not None and row.p_value_control is not None:
        rival, p_value = control, row.p_value_control
        words = "random noise of the same norm"
    else:
        undefended = summary.role("undefended", row.protocol)
        if undefended is None or row.p_value_undefended is None:
            return ""
        rival, p_value, words = undefended, row.p_value_undefended, "no defence at all"
    if p_value > SIGNIFICANCE:
        return f"{row.name} cannot be told apart from {words}."
    better = (row.robust_accuracy.value or 0) > (rival.robust_accuracy.value or 0)
    return f"{row.name} holds {'more' if better else 'less'} often than {words}."


def _compare(row: SummaryRow, control: SummaryRow | None) -> str:
    sentence = (
        f"{_SITUATIONS[row.protocol]} {row.name} holds on {percent(row.robust_accuracy.value)} "
        f"(95% interval {interval(row.robust_accuracy)})"
    )
    if control is not None and row.p_value_control is not None:
        rival = f"noise of the same norm holds on {percent(control.robust_accuracy.value)}"
        p_value = row.p_value_control
    elif row.p_value_undefended is not None:
        rival, p_value = "against the undefended model it is", row.p_value_undefended
    else:
        return f"{sentence}."
    chance = "may be chance" if p_value > SIGNIFICANCE else "is hardly chance"
    joint = ", a" if control is not None and row.p_value_control is not None else " a"
    return f"{sentence}; {rival}{joint} difference that {chance} (p = {p_value:.2g})."
