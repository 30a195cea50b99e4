"""A small data-to-text set made by a grammar: facts about a walking trail, and sentences on them.

The form of the facts is that of the E2E challenge (Novikova et al., SIGDIAL 2017); names, facts and
sentences are this project's own. What dev and test ask for, a kind of trail on a kind of ground,
never stands together in train.
"""

from __future__ import annotations

from itertools import product

SOURCE, TARGET = "source", "target"

_NAMES = (
    *("Copper Hollow", "Fern Steps", "Grey Heron", "Lantern Hill", "Millstone"),
    *("North Quay", "Old Ferry", "Quarry Edge", "Sallow Brook", "Three Oaks"),
)
_KINDS = ("loop", "ridge walk", "lakeside path", "cart road")
_LENGTHS = ("3 km", "7 km", "12 km", "20 km")
_GROUNDS = ("gravel", "bare rock", "boardwalk", "forest soil")
_DOGS = ("welcome", "on a lead", "not allowed", "")
_PLACES = ("Tarn Bridge", "the chapel", "Wren Station", "the dam", "")

_DOG_CLAUSES = {
    "welcome": "dogs are welcome",
    "on a lead": "dogs must stay on a lead",
    "not allowed": "dogs are not allowed",
}
_STEP = 7919
"""A prime that divides no number of facts below, so that steps of it meet each of them once."""

_ROWS = {"train": 120, "dev": 30, "test": 30}
"""Facts in each split; each has two sentences."""


def trails(split: str) -> list[dict[str, str]]:
    """Rows of ``train``, ``dev`` or ``test``: each ``source`` twice, with another ``target``."""
    facts = [
        fact
        for fact in product(_NAMES, _KINDS, _LENGTHS, _GROUNDS, _DOGS, _PLACES)
        if _split_of(fact) == split
    ]
    chosen = [facts[number * _STEP % len(facts)] for number in range(_ROWS[split])]
    return [
        {SOURCE: _source(fact), TARGET: _PLANS[(number + shift) % len(_PLANS)](*fact)}
        for number, fact in enumerate(chosen)
        for shift in (0, 1)
    ]


def _split_of(fact: tuple[str, ...]) -> str:
    kind, ground = _KINDS.index(fact[1]), _GROUNDS.index(fact[3])
    if kind != ground:
        return "train"
    return "dev" if kind < 2 else "test"


def _source(fact: tuple[str, ...]) -> str:
    keys = ("name", "kind", "length", "ground", "dogs", "near")
    return ", ".join(f"{key}[{value}]" for key, value in zip(keys, fact, strict=True) if value)


def _description(name: str, kind: str, length: str, ground: str, dogs: str, near: str) -> str:
    place = f" near {near}" if near else ""
    rule = f", and {_DOG_CLAUSES[dogs]}" if dogs else ""
    return f"{name} is a {kind} of {length}{place}. The ground is {ground}{rule}."


def _direction(name: str, kind: str, length: str, ground: str, dogs: str, near: str) -> str:
    place = f"Near {near}, {name}" if near else name
    rule = f" where {_DOG_CLAUSES[dogs]}" if dogs else ""
    return f"{place} leads over {ground} for {length}. It is a {kind}{rule}."


def _offer(name: str, kind: str, length: str, ground: str, dogs: str, near: str) -> str:
    place = f" It starts near {near}." if near else ""
    rule = f" On this trail {_DOG_CLAUSES[dogs]}." if dogs else ""
    return f"Walk {length} on {ground}: {name} is a {kind}.{place}{rule}"


_PLANS = (_description, _direction, _offer)
