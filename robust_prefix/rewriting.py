"""A text rewritten, and where each of its characters comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robust_prefix.tasks import Fields


@dataclass(frozen=True)
class Rewritten:
    """A text and where each of its characters comes from.

    Attributes:
        text: as the wrapped defence reads it.
        origin: for each character of ``text`` start and end of what it stands for in the original.
    """

    text: str
    origin: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, text: str) -> Rewritten:
        """A text as it is."""
        return cls(text, tuple((place, place + 1) for place in range(len(text))))

    def replace(self, pieces: Sequence[tuple[int, int, str]]) -> Rewritten:
        """With some stretches replaced, given as start, end and new text, in order.

        Every character of a replacement stands for the whole stretch.
        """
        text, origin, done = [], [], 0
        for start, end, new in pieces:
            text += [self.text[done:start], new]
            whole = (self.origin[start][0], self.origin[end - 1][1])
            origin += [*self.origin[done:start], *[whole] * len(new)]
            done = end
        return Rewritten("".join([*text, self.text[done:]]), (*origin, *self.origin[done:]))


def texts_of(columns: Sequence[Rewritten]) -> Fields:
    """The columns as they read."""
    return tuple(column.text for column in columns)


def in_original(
    span: tuple[int, int, int] | None, columns: Sequence[Rewritten]
) -> tuple[int, int, int] | None:
    """Column, start and end in the original of what a token covers in the rewritten text."""
    if span is None:
        return None
    column, start, end = span
    covered = columns[column].origin[start:end]
    if not covered:
        return None
    return column, min(first for first, _ in covered), max(last for _, last in covered)
