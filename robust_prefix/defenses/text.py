"""Defences that rewrite the text and leave the answer to the defence that they wrap."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor

from robust_prefix.defenses.base import Config
from robust_prefix.defenses.wrapping import WrappingDefense
from robust_prefix.detection import Decisions
from robust_prefix.gradients import Through, TokenGradients
from robust_prefix.prefixes import PrefixModel
from robust_prefix.rewriting import Rewritten, in_original, texts_of
from robust_prefix.tasks import Fields


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
        read = texts_of(self.rewrite_fields(fields))
        return self.inner.read(read) if isinstance(self.inner, TextDefense) else read

    def passed_on(self, fields: Fields) -> list[Fields]:
        """See ``WrappingDefense``."""
        return [texts_of(self.rewrite_fields(fields))]

    def _decisions(self, model: PrefixModel, texts: Sequence[Fields], batch_size: int) -> Decisions:
        read = [texts_of(self.rewrite_fields(fields)) for fields in texts]
        return self.inner.decide(model, read, batch_size)

    def _scores(self, model: PrefixModel, texts: Sequence[Fields], batch_size: int) -> Tensor:
        return self._decisions(model, texts, batch_size).logits

    def _slopes(
        self,
        model: PrefixModel,
        texts: Sequence[Fields],
        labels: Sequence[int],
        through: Through,
        batch_size: int,
    ) -> list[TokenGradients]:
        rewritten = [self.rewrite_fields(fields) for fields in texts]
        read = [texts_of(columns) for columns in rewritten]
        found = self.inner.gradients(model, read, labels, through, batch_size)
        return [
            dataclasses.replace(
                gradients, spans=tuple(in_original(span, columns) for span in gradients.spans)
            )
            for gradients, columns in zip(found, rewritten, strict=True)
        ]
