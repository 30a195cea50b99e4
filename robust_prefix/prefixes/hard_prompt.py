"""Hard prompts: words of the vocabulary where a soft prompt has vectors of its own.

The words stand before the prompt, on a line of their own, and where the task's template says
``{prompt:3}``. They are embedded, and from there on are soft tokens: on a decoder those before the
prompt compile to keys and values, so that whatever works on a prefix works on them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from robust_prefix.backbones import Backbone
from robust_prefix.errors import ConfigError
from robust_prefix.prefixes.base import Learned
from robust_prefix.prefixes.method import Trainable
from robust_prefix.prefixes.virtual import tokenize
from robust_prefix.tasks import Task

Words = tuple[int, ...]
"""Token ids: those before the prompt, then those of the template from the left."""

_PLACES = re.compile(r"\{prompt:(\d+)\}")
_DRAWS = 50


class Wording:
    """Where words stand in a prompt, which words may, and what they look like written out.

    Args:
        length: words before the prompt, on a line of their own.
        line_break: put one behind them; otherwise the last of them is one.

    Attributes:
        count: words in all.
        front: tokens before everything else: the first ``length`` words with their line break, and
            the words that the template begins with.
        places: of each word among the tokens that are embedded.
    """

    def __init__(
        self, backbone: Backbone, task: Task, length: int, line_break: bool = True
    ) -> None:
        self.backbone = backbone
        self.task = task
        self.length = length
        leading, inside = task.virtual_tokens
        # A tokenizer may put a space of its own before what it is given: the break comes last.
        self._break = backbone.encode(["\n"])[0][-1:] if length and line_break else []
        self.count = length + leading + inside
        self.front = length + len(self._break) + leading
        self.places = [*range(length), *range(length + len(self._break), self.front + inside)]

    def tokens(self, words: Words) -> list[int]:
        """What is embedded: the words, and the line break."""
        return [*words[: self.length], *self._break, *words[self.length :]]

    def template(self, words: Words) -> str:
        """The task's template with the words written out, in which nothing is learned."""
        return self._line(words) + self._filled(words)

    def _line(self, words: Words) -> str:
        if not self.length:
            return ""
        return self.backbone.decode(words[: self.length]) + ("\n" if self._break else "")

    def _filled(self, words: Words) -> str:
        rest = iter(words[self.length :])

        def written(match: re.Match[str]) -> str:
            return self.backbone.decode([next(rest) for _ in range(int(match[1]))])

        return _PLACES.sub(written, self.task.template)

    def survives(self, words: Words) -> bool:
        """Whether the written words are read as these very tokens, alone and in the template."""
        if self.length:
            line = [*words[: self.length], *self._break]
            if self.backbone.encode([self._line(words)]) != [line]:
                return False
        if self.length == self.count:
            return True
        text = self.task.render(("a",) * len(self.task.columns))
        [row] = tokenize(self.backbone, self.task, [text])
        size = len(self.backbone.embeddings)
        inside = words[self.count - self.task.virtual_tokens[1] :]
        row = [inside[token - size] if token >= size else token for token in row]
        leading = words[self.length : self.count - len(inside)]
        written = dataclasses.replace(self.task, template=self._filled(words))
        prompt = written.render(("a",) * len(self.task.columns))
        return tokenize(self.backbone, written, [prompt]) == [[*leading, *row]]

    @cached_property
    def vocabulary(self) -> list[int]:
        """Tokens that are one whole readable word each."""
        return readable_tokens(self.backbone)

    def drawn(self, first: Sequence[int] = ()) -> Words:
        """``first`` and words drawn by torch's own generator, all different where there are so
        many.

        Raises:
            ConfigError: they are not read as the same tokens once they are written.
        """
        for _ in range(_DRAWS):
            order = torch.randperm(len(self.vocabulary)).tolist()
            order = order * -(-self.count // len(order))
            drawn = [self.vocabulary[place] for place in order[: self.count - len(first)]]
            words = (*first, *drawn)
            if self.survives(words):
                return words
        raise ConfigError(
            f"expected a template in which words stay the tokens they are, got "
            f"{self.template(words)!r}; put a space behind {{prompt:3}}, and none before it"
        )


class HardPrompt(Trainable):
    """Words, and nothing that an optimiser could train.

    Args:
        given: the words were given and not searched for.

    Attributes:
        words: the words as they are now; a search sets them.
        shift: zeros added to the embeddings ``(tokens, hidden)``: their gradient is that at the
            embeddings.
    """

    def __init__(self, wording: Wording, words: Words, given: bool = False) -> None:
        super().__init__()
        self.wording = wording
        self.words = words
        self.given = given
        backbone = wording.backbone
        self.shift: Tensor = torch.zeros(
            len(wording.tokens(words)), backbone.hidden_size, device=backbone.device
        ).requires_grad_()

    def forward(self, backbone: Backbone) -> Learned:
        """See ``Trainable``."""
        embedded = backbone.embeddings[self.wording.tokens(self.words)].float()
        return Learned.compiled(backbone, embedded + self.shift, self.wording.front)

    def notes(self) -> dict[str, Any]:
        """The template with the words written out, and the token ids of those that were found."""
        found = [] if self.given else list(self.words)
        template = self.wording.template(self.words)
        return {"written": template, "words": found, "trained_parameters": len(found)}


def readable_tokens(backbone: Backbone) -> list[int]:
    """Tokens that are one whole word of letters each, with the space before it.

    No token that was added for control, no pieces that go on a word, no bytes, nothing that the
    tokenizer reads otherwise once it is written.
    """
    tokenizer = backbone.tokenizer
    control = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    size = min(len(tokenizer), len(backbone.embeddings))
    shown = [(token, backbone.decode([token])) for token in range(size) if token not in control]
    words = [(token, text) for token, text in shown if text[:1] == " " and text[1:].isalpha()]
    read = backbone.encode([text for _, text in words])
    return [token for (token, _), row in zip(words, read, strict=True) if row == [token]]
