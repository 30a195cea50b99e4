"""Prompts of what the model alone reads, where words are scored as they came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from robust_prefix.backbones import Backbone
from robust_prefix.prefixes import Encoded
from robust_prefix.prefixes.model import Prompter, Span
from robust_prefix.rewriting import Rewritten, in_original, texts_of
from robust_prefix.tasks import Fields, Task


class Rewriter(Protocol):
    """What rewrites texts and says where each character comes from; a ``TextDefense`` is one."""

    @property
    def spec(self) -> str: ...

    def rewrite_fields(self, fields: Fields) -> tuple[Rewritten, ...]:
        """Every column rewritten."""
        ...


class ReadingPrompter(Prompter):
    """Makes the prompt of a text of what a defence makes of it.

    So a prefix is trained behind ``synonyms`` in ``word-scores+synonyms``: the adversary exchanges
    words of the text as it came, which the word scores read, and the model's gradient is that of
    the words it reads in their place.

    Args:
        rewriter: what stands between the word scores and the model.
        backbone, task, head: see ``Prompter``.
    """

    def __init__(
        self, rewriter: Rewriter, backbone: Backbone, task: Task, head: bool = False
    ) -> None:
        super().__init__(backbone, task, head)
        self._rewriter = rewriter

    def read(self, fields: Fields) -> Fields:
        """See ``Prompter``."""
        return texts_of(self._rewriter.rewrite_fields(fields))

    def encode(self, texts: Sequence[Fields]) -> Encoded:
        """See ``Prompter``; of the texts as they are read."""
        return super().encode([self.read(fields) for fields in texts])

    def spans(self, fields: Fields) -> tuple[Span | None, ...]:
        """See ``Prompter``; the tokens are those of what is read, their places those in
        ``fields``."""
        rewritten = self._rewriter.rewrite_fields(fields)
        return tuple(in_original(span, rewritten) for span in super().spans(texts_of(rewritten)))
