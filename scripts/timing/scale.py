"""How much is measured: all of it, or a little of everything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        rounds: of (a), (c), (d) and (e).
        sizes: texts a batch in (a).
        sentences: attacked in (b), each a round.
        queries: kept of each; None keeps all.
        batch, examples: of a step and of a timed epoch in (c).
        counts: rows in (d), made of so many real ``states``.
        values: along each axis of (e).
        steps, tested: of the comparison of accuracy, and the texts it is measured on.
    """

    rounds: Mapping[str, int]
    sizes: tuple[int, ...]
    sentences: int
    queries: int | None
    batch: int
    examples: int
    counts: tuple[int, ...]
    states: int
    values: Mapping[str, tuple[int, ...]]
    steps: int = 200
    tested: int = 400


FULL = Scale(
    rounds={"a": 10, "c": 4, "d": 3, "e": 5},
    sizes=(1, 8, 32),
    sentences=8,
    queries=None,
    batch=16,
    examples=640,
    counts=(1_000, 10_000, 100_000),
    states=600,
    values={
        "tokens": (8, 16, 32, 64, 128, 256),
        "prefix": (1, 3, 10, 30, 100),
        "layers": (2, 3, 4, 5),
        "batch": (1, 2, 4, 8, 16, 32, 64),
    },
)
QUICK = Scale(
    rounds={"a": 2, "c": 1, "d": 1, "e": 2},
    sizes=(1, 4),
    sentences=2,
    queries=12,
    batch=4,
    examples=24,
    counts=(2_000, 8_000),
    states=32,
    values={"tokens": (8, 32), "prefix": (1, 10), "layers": (2, 3), "batch": (1, 4)},
    steps=3,
    tested=20,
)
