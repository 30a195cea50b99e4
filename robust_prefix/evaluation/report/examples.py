"""Which examples the page shows, and each one's texts cut into what is to be marked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from robust_prefix.evaluation.diff import Segment, word_diff
from robust_prefix.evaluation.formats import factor
from robust_prefix.evaluation.names import distinct_names
from robust_prefix.evaluation.records import OUTCOMES, RECORDED, Outcome, Record, Role
from robust_prefix.evaluation.visible import Chunk, chunks, scripts

if TYPE_CHECKING:
    from robust_prefix.evaluation.results import Results

_ON_A_PAGE = 240
_OF_A_SYSTEM = range(4, 41)  # at least and at most, so that a page of many cells stays readable


@dataclass(frozen=True)
class Part:
    """A stretch of a shown text."""

    changed: bool
    chunks: list[Chunk]


@dataclass(frozen=True)
class Column:
    """One text column of one example, before and after."""

    name: str
    original: list[Part]
    adversarial: list[Part]


@dataclass(frozen=True)
class Shown:
    """One record on the page.

    Attributes:
        cell: its cell's attack, as the filter calls it.
        system: its system, as the filter calls it.
        label: name of the true class.
        columns: its texts.
        facts: queries and the quality of the pair, in words.
        absent: why there is no adversary; empty where there is one.
    """

    record: Record
    cell: str
    system: str
    labels: tuple[str, ...]
    columns: list[Column]
    facts: list[str]
    absent: str


@dataclass(frozen=True)
class Option:
    """One entry of a filter."""

    value: str
    chosen: bool = False


@dataclass(frozen=True)
class Examples:
    """What the page shows, and what it says of the rest.

    Attributes:
        shown: in the order of cells and systems, the successful attacks of each first.
        left_out: how many records there are besides, by cell.
        outcomes: those that occur, in their usual order.
        filters: the entries of each filter under its name.
    """

    shown: list[Shown]
    left_out: dict[str, int]
    outcomes: list[Outcome]
    filters: dict[str, list[Option]]


def choose_examples(runs: Sequence[Results], cells: Sequence[str]) -> Examples:
    """The examples of ``runs``, given with the name of each; of a control only its first seed."""
    names = distinct_names(r.defense for run in runs for r in run.records if r.role == "defense")
    by_system = [_by_system(run) for run in runs]
    systems = sum(map(len, by_system))
    cap = min(max(_ON_A_PAGE // max(1, systems), _OF_A_SYSTEM[0]), _OF_A_SYSTEM[-1])
    shown: list[Shown] = []
    left_out: dict[str, int] = {}
    for run, cell, groups in zip(runs, cells, by_system, strict=True):
        before = len(shown)
        for records in groups.values():
            # sorted() is stable: the order of examples stays
            first = sorted(records, key=lambda record: OUTCOMES.index(record.outcome))[:cap]
            shown += [_shown(run, record, cell, names) for record in first]
        left_out[cell] = len(run.records) - (len(shown) - before)
    found = {one.record.outcome for one in shown}
    return Examples(
        shown, left_out, [outcome for outcome in OUTCOMES if outcome in found], _filters(shown)
    )


def _by_system(run: Results) -> dict[tuple[Role, str, str], list[Record]]:
    """The records to choose from by role, defence and protocol; systems as in the manifest."""
    others = {spec for specs in run.manifest.controls.values() for spec in specs[1:]}
    groups: dict[tuple[Role, str, str], list[Record]] = {}
    for record in run.records:
        if record.role != "control" or record.defense not in others:
            groups.setdefault((record.role, record.defense, record.protocol), []).append(record)
    order = {spec: place for place, spec in enumerate(run.manifest.systems)}
    ordered = sorted(groups, key=lambda system: order.get(system[1], len(order)))
    return {system: groups[system] for system in ordered}


def _shown(run: Results, record: Record, cell: str, names: Mapping[str, str]) -> Shown:
    system = names.get(record.defense, record.defense)
    if record.role == "undefended":
        system = "undefended"
    elif record.role == "control":
        of = [spec for spec, specs in run.manifest.controls.items() if record.defense in specs]
        system = f"control of {names.get(of[0], of[0])}" if of else "control"
    return Shown(
        record,
        cell,
        system,
        run.manifest.labels,
        list(_columns(record, run.manifest.columns)),
        list(_facts(run, record)),
        _absent(run, record) if record.adversarial is None else "",
    )


def _filters(shown: Sequence[Shown]) -> dict[str, list[Option]]:
    """A filter for whatever there is more than one of; first the direct attack on a defence."""
    defended = [one for one in shown if one.record.role == "defense"]
    direct = [one for one in defended if one.record.protocol == "direct"]
    first = next(iter(direct or defended), None)
    chosen = {} if first is None else {"system": first.system, "protocol": first.record.protocol}
    values: dict[str, list[str]] = {
        "attack": list(dict.fromkeys(one.cell for one in shown)),
        "system": list(dict.fromkeys(one.system for one in shown)),
        "protocol": list(dict.fromkeys(one.record.protocol for one in shown)),
    }
    return {
        name: [Option(value, value == chosen.get(name)) for value in found]
        for name, found in values.items()
        if len(found) > 1
    }


def _columns(record: Record, names: Sequence[str]) -> Iterator[Column]:
    """The texts of a record, column by column."""
    changed = record.original if record.adversarial is None else record.adversarial
    for name, original, adversarial in zip(names, record.original, changed, strict=True):
        before, after = word_diff(original, adversarial)
        # a letter of a script that the original has not is most likely a look-alike
        yield Column(name, _parts(before), _parts(after, scripts(original)))


def _parts(segments: list[Segment], expected: frozenset[str] | None = None) -> list[Part]:
    return [Part(segment.changed, chunks(segment.text, expected)) for segment in segments]


def _facts(run: Results, record: Record) -> Iterator[str]:
    if record.queries:
        yield f"{record.queries} {'query' if record.queries == 1 else 'queries'}"
    quality = run.quality(record)
    if quality is None or record.adversarial is None:
        return
    yield f"{quality.words_changed} of {quality.words} words changed"
    if quality.similarity is not None:
        yield f"similarity {quality.similarity:.2f}"
    if quality.perplexity_ratio is not None:
        yield f"{factor(quality.perplexity_ratio)} perplexity"


def _absent(run: Results, record: Record) -> str:
    """Why a record has no adversary."""
    if record.outcome == "skipped":
        said = "refused" if record.abstained_original else "misclassified"
        return f"Not attacked: the original is {said} already."
    if record.outcome == "error":
        return "No result."
    if RECORDED in run.manifest.settings:
        return "Nothing to replay: none is recorded for this text."
    if record.protocol == "replay":
        return "Nothing to replay: there is no adversary of the undefended model."
    return "The attack found none."
