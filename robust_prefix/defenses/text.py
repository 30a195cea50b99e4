"""Defences that rewrite the text and leave the answer to the defence that they wrap."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from robust_prefix.defenses.base import Config
from robust_prefix.defenses.wrapping import WrappingDefense
from robust_prefix.gradients import Through, TokenGradients
from robust_prefix.prefixes import PrefixModel
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


class TextDefense(WrappingDefense[Config]):
    """Rewrites each text by itself; what is wrapped sees nothing else.

    An attacker's gradients are those of the rewritten text, its tokens' places given in the
    original.
    """

    @property
    def keeps_words(self) -> bool:
        """Whether every word, as white space divides them, is read as one word, for itself.

        Then a change of so many words before it is one of as many words at most behind it.
        """
        return False

    @abstractmethod
    def rewrite(self, text: str) -> Rewritten:
        """One column's text as the wrapped defence is to read it."""

    def rewrite_fields(self, fields: Fields) -> tuple[Rewritten, ...]:
        """Every column rewritten; one of which nothing would be left stays as it was."""
        rewritten = (self.rewrite(text) for text in fields)
        return tuple(
            new if new.text.strip() else Rewritten.of(text)
            for new, text in zip(rewritten, fields, strict=True)
        )

    def read(self, fields: Fields) -> Fields:
        """The text that the wrapped defence gets, or where that rewrites, too, its own."""
        read = _texts(self.rewrite_fields(fields))
        return self.inner.read(read) if isinstance(self.inner, TextDefense) else read

    def passed_on(self, fields: Fields) -> list[Fields]:
        """See ``WrappingDefense``."""
        return [_texts(self.rewrite_fields(fields))]

    def _scores(self, model: PrefixModel, texts: Sequence[Fields], batch_size: int) -> Tensor:
        read = [_texts(self.rewrite_fields(fields)) for fields in texts]
        return self.inner.logits(model, read, batch_size)

    def _slopes(
        self,
        model: PrefixModel,
        texts: Sequence[Fields],
        labels: Sequence[int],
        through: Through,
        batch_size: int,
    ) -> list[TokenGradients]:
        rewritten = [self.rewrite_fields(fields) for fields in texts]
        read = [_texts(columns) for columns in rewritten]
        found = self.inner.gradients(model, read, labels, through, batch_size)
        return [
            dataclasses.replace(
                gradients, spans=tuple(_in_original(span, columns) for span in gradients.spans)
            )
            for gradients, columns in zip(found, rewritten, strict=True)
        ]


def _texts(columns: Sequence[Rewritten]) -> Fields:
    return tuple(column.text for column in columns)


def _in_original(
    span: tuple[int, int, int] | None, columns: Sequence[Rewritten]
) -> tuple[int, int, int] | None:
    if span is None:
        return None
    column, start, end = span
    covered = columns[column].origin[start:end]
    if not covered:
        return None
    return column, min(first for first, _ in covered), max(last for _, last in covered)
