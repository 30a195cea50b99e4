"""A summary in plain words, for the report and the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from robust_prefix.evaluation.flags import SIGNIFICANCE
from robust_prefix.evaluation.formats import factor, interval, mean, percent
from robust_prefix.evaluation.matrix import build_matrix
from robust_prefix.evaluation.meanings import meaning
from robust_prefix.evaluation.records import RECORDED
from robust_prefix.evaluation.summary import Summary, SummaryRow, short_name
from robust_prefix.specs import parse_composition

if TYPE_CHECKING:
    from robust_prefix.evaluation.results import Results

_SITUATIONS = {
    "recorded": "Shown the recorded adversaries,",
    "replay": "Shown the adversaries that were crafted on the undefended model,",
    "direct": "Attacked itself,",
    "adaptive": "Attacked by one who also sees the scores that it hides,",
    "worst": "Counting only texts that survive every one of these attacks,",
}


# by the defence that has them
_DEALT = {"word-scores": "word scores", "synonyms": "readings of words"}


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
        notes.append(FlagNote(flag, rows, meaning(flag)))
    return notes


def shared_notes(runs: Sequence[Results]) -> list[FlagNote]:
    """The flags of several cells, one for each meaning, with the cells they were raised in."""
    found: dict[str, dict[str, set[str]]] = {}
    cells = build_matrix(runs).cells
    for run, cell in zip(runs, cells, strict=True):
        for note in flag_notes(run.summary):
            by_cell = found.setdefault(note.meaning or note.flag, {})
            by_cell.setdefault(note.flag, set()).add(cell)
    notes = []
    for words, flags in found.items():
        first, *others = flags
        raised = set().union(*flags.values())
        about = () if len(raised) == len(runs) else tuple(c for c in cells if c in raised)
        more = " and the like" if others else ""
        notes.append(FlagNote(f"{first}{more}", about, words if words != first else ""))
    return notes


def _where(summary: Summary, name: str, protocols: list[str]) -> str:
    """``name`` alone where all its rows are meant."""
    rows = sum(row.name == name for row in summary.rows)
    return name if rows == len(protocols) else f"{name}: {', '.join(protocols)}"


def read(summary: Summary) -> list[str]:
    """The result in a few sentences, the undefended model first."""
    attack = short_name(summary.manifest.attack)
    sentences = []
    undefended = summary.role("undefended", "direct")
    if undefended is not None:
        sentences.append(_undefended(summary, undefended, attack))
    # of several defences the tables say the rest
    several = len({row.defense for row in summary.rows if row.role == "defense"}) > 1
    for protocol in summary.protocols[-1:] if several else summary.protocols:
        for row in summary.at(protocol):
            if row.role == "defense":
                sentences.append(_compare(summary, row))
    for row in summary.at(summary.protocols[-1]):
        if row.role == "defense" and undefended is not None:
            sentences.append(
                f"On clean text {row.name} is right on {percent(row.clean_accuracy.value)}, "
                f"the undefended model on {percent(undefended.clean_accuracy.value)}."
            )
        if row.abstention_rate.value or row.refused_adversaries:
            sentences.append(
                f"{row.name} refuses to answer {percent(row.abstention_rate.value)} of the clean "
                f"texts, which counts as wrong, and {row.refused_adversaries} adversaries that "
                "it was shown, which counts as held."
            )
    return [*sentences, *_costs(summary)]


def _undefended(summary: Summary, row: SummaryRow, attack: str) -> str:
    """What the attack does where nothing stands in its way."""
    clean, robust = percent(row.clean_accuracy.value), percent(row.robust_accuracy.value)
    if summary.manifest.settings.get("goal") == "keep":
        return (
            f"Without a defence {clean} of {row.n} texts are classified right, and {attack} finds "
            f"nothing that keeps the answer in {robust}."
        )
    return (
        f"Without a defence, {attack} brings accuracy from {clean} down to {robust} "
        f"({row.n} texts)."
    )


def _costs(summary: Summary) -> Iterator[str]:
    """What the adversaries of the undefended model read like; what each defence costs."""
    for row in summary.at(summary.protocols[-1]):
        costs, quality = row.costs, row.costs.quality
        if row.role == "undefended" and quality.words_changed is not None:
            told = [f"change {percent(quality.words_changed.value)} of the words"]
            if quality.similarity is not None:
                told.append(f"keep a similarity of {mean(quality.similarity, 2)}")
            if quality.perplexity_ratio is not None:
                ratio = factor(quality.perplexity_ratio.value)
                told.append(f"have {ratio} the perplexity a word of their originals")
            kept = summary.manifest.settings.get("goal") == "keep"
            does = "keep the undefended model's answer" if kept else "fool the undefended model"
            yield f"On average the adversaries that {does} {_listed(told)}."
        if row.role == "defense" and costs.prediction is not None:
            several = row.protocol == "worst" and len(summary.manifest.searches(row.defense)) > 1
            asks = "the attacks on it together ask" if several else "an attack on it asks"
            attack = costs.model_queries and (
                f"; {asks} {mean(costs.model_queries)} times and {'make' if several else 'makes'} "
                f"it run {mean(costs.attack_passes)} passes an example"
            )
            yield f"A prediction of {row.name} costs {costs.prediction:.1f} passes{attack or ''}."


def _listed(parts: Sequence[str]) -> str:
    *others, last = parts
    return f"{', '.join(others)} and {last}" if others else last


def verdict(summary: Summary) -> str:
    """The result in one sentence a defence under test, at the strictest protocol of the run."""
    rows = [row for row in summary.at(summary.manifest.protocol) if row.role == "defense"]
    return " ".join(filter(None, (_verdict(summary, row) for row in rows)))


def _verdict(summary: Summary, row: SummaryRow) -> str:
    found = standing(summary, row)
    if found is None:
        return ""
    rival = "no defence at all" if found.rival.role == "undefended" else _control(found.rival)
    if found.result == "no evidence":
        return (
            f"{row.name} adapts itself at inference and was only shown replayed texts: "
            "that is no evidence. Attack it directly."
        )
    if found.result == "same":
        return f"{row.name} cannot be told apart from {rival}."
    more = "more" if found.result == "better" else "less"
    return f"{row.name} holds {more} often than {rival}."


def _control(row: SummaryRow) -> str:
    """What a control does in place of the defence."""
    dealt = [part.name for part in parse_composition(row.defense) if "shuffled" in part.settings]
    if not dealt:
        return "random noise of the same norm"
    return f"the same {' and '.join(_DEALT[name] for name in dealt)} dealt out at random"


@dataclass(frozen=True)
class Standing:
    """How a defence does against what it has to beat.

    Attributes:
        result: ``better`` or ``worse`` by more than chance, ``same`` where chance explains it;
            ``no evidence`` for a dynamic defence that was only shown replayed texts.
        rival: its control, or the undefended model where it has none.
        p_value: of the paired test.
    """

    result: Literal["better", "same", "worse", "no evidence"]
    rival: SummaryRow
    p_value: float


def standing(summary: Summary, row: SummaryRow) -> Standing | None:
    """That of the defence of ``row``; None where there is nothing to hold it against."""
    rival, p_value = summary.control(row), row.p_value_control
    if rival is None or p_value is None:
        rival, p_value = summary.role("undefended", row.protocol), row.p_value_undefended
    if row.role != "defense" or rival is None or p_value is None:
        return None
    if not row.is_evidence:
        return Standing("no evidence", rival, p_value)
    if p_value > SIGNIFICANCE:
        return Standing("same", rival, p_value)
    better = (row.robust_accuracy.value or 0) > (rival.robust_accuracy.value or 0)
    return Standing("better" if better else "worse", rival, p_value)


def _compare(summary: Summary, row: SummaryRow) -> str:
    situation = "recorded" if RECORDED in summary.manifest.settings else row.protocol
    sentence = (
        f"{_SITUATIONS[situation]} {row.name} holds on {percent(row.robust_accuracy.value)} "
        f"(95% interval {interval(row.robust_accuracy)})"
    )
    found = standing(summary, row)
    if found is None:
        return f"{sentence}."
    chance = "may be chance" if found.p_value > SIGNIFICANCE else "is hardly chance"
    rival = "against the undefended model it is a difference"
    if found.rival.role == "control":
        held = percent(found.rival.robust_accuracy.value)
        rival = f"for {_control(found.rival)} it is {held}, a difference"
    return f"{sentence}; {rival} that {chance} (p = {found.p_value:.2g})."
