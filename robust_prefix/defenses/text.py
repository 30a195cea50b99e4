"""Defences that rewrite the text and leave the answer to the defence that they wrap."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import Tensor

from robust_prefix.defenses.base import Config, Defense, Fitted, NoDefense
from robust_prefix.gradients import Through, TokenGradients
from robust_prefix.prefixes import Inputs, PrefixModel
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


class TextDefense(Defense[Config]):
    """Rewrites each text by itself; what is wrapped sees nothing else.

    The costs are those of the wrapped defence. An attacker's gradients are those of the rewritten
    text, its tokens' places given in the original.

    Attributes:
        stage: what it works on, characters (0) or words (1): the lower is the outer one.

    Args:
        inner: the defence that is wrapped; none where not given.
    """

    stage: ClassVar[int]

    def __init__(self, inner: Defense[Any] | None = None, **settings: Any) -> None:
        super().__init__(None, **settings)
        self.inner = inner if inner is not None else NoDefense()
        self.subspaces = self.inner.subspaces
        self.dynamic = self.inner.dynamic
        self.randomized = self.inner.randomized

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], fitted: Fitted, inner: Defense[Any] | None = None
    ) -> Self:
        """See ``Defense``."""
        return cls(inner, **settings)

    @property
    def batch_dependent(self) -> bool:
        return self.inner.batch_dependent

    @property
    def spec(self) -> str:
        own = super().spec
        return own if isinstance(self.inner, NoDefense) else f"{own}+{self.inner.spec}"

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

    def run(self, model: PrefixModel, inputs: Inputs) -> Tensor:
        """Scores of texts that are rewritten already."""
        return self.inner.run(model, inputs)

    def _scores(self, model: PrefixModel, texts: Sequence[Fields], batch_size: int) -> Tensor:
        return self.inner.logits(
            model, [_texts(self.rewrite_fields(fields)) for fields in texts], batch_size
        )

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
