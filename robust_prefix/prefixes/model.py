"""A backbone with a task's prompt around the text and a prefix before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robust_prefix.backbones import CausalBackbone, TokenBatch
from robust_prefix.backbones.base import LayerPrefixes
from robust_prefix.errors import ConfigError, InputError
from robust_prefix.prefixes.base import Prefix
from robust_prefix.prefixes.scoring import Beginnings
from robust_prefix.prefixes.virtual import token_offsets, tokenize
from robust_prefix.tasks import Fields, Task

Span = tuple[int, int, int]
"""Column, start and end, in characters of that column's text."""


@dataclass(frozen=True)
class Encoded:
    """Prompts as tokens, one row a text.

    Attributes:
        texts: the texts as given.
        rows: token ids of each prompt.
        truncated: whether a prompt lost tokens to ``task.max_tokens``.
    """

    texts: tuple[Fields, ...]
    rows: tuple[tuple[int, ...], ...]
    truncated: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, indices: Sequence[int]) -> Encoded:
        """The rows at ``indices``, in that order."""
        return Encoded(
            tuple(self.texts[i] for i in indices),
            tuple(self.rows[i] for i in indices),
            tuple(self.truncated[i] for i in indices),
        )


@dataclass(frozen=True)
class Inputs:
    """One padded batch before the first layer.

    Attributes:
        texts: the texts as given.
        batch: their prompts.
        embedded: states before the first layer ``(batch, tokens, hidden)``.
    """

    texts: tuple[Fields, ...]
    batch: TokenBatch
    embedded: Tensor

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, indices: Tensor) -> Inputs:
        """The rows at ``indices``, in that order."""
        return Inputs(
            tuple(self.texts[index] for index in indices.tolist()),
            TokenBatch(self.batch.ids[indices], self.batch.answer[indices]),
            self.embedded[indices],
        )


def margins(logits: Tensor) -> Tensor:
    """How far the first class is ahead of the second, ``(n, classes)`` logits to ``(n,)``."""
    first, second = logits.topk(2).values.T
    return first - second


class Prompter:
    """Turns texts into prompts that end at the answer position, and names the classes' tokens.

    Raises:
        ConfigError: a label word is not one token, or two label words are the same token.
    """

    def __init__(self, backbone: CausalBackbone, task: Task) -> None:
        self.backbone = backbone
        self.task = task
        tokens = [backbone.word_token(word) for word in task.label_words]
        if len(set(tokens)) != len(tokens):
            raise ConfigError(
                f"expected different label words in task {task.name!r}, got {task.label_words}"
            )
        self.label_tokens = torch.tensor(tokens, device=backbone.device)

    def encode(self, texts: Sequence[Fields]) -> Encoded:
        """Tokenise prompts; a long one loses tokens from the end of its longest column.

        Raises:
            InputError: the template alone is longer than ``task.max_tokens``.
        """
        rows = tokenize(self.backbone, self.task, [self.task.render(text) for text in texts])
        truncated = [len(row) > self.task.max_tokens for row in rows]
        for index, too_long in enumerate(truncated):
            if too_long:
                _, rows[index] = self._truncate(texts[index], len(rows[index]))
        return Encoded(tuple(texts), tuple(tuple(row) for row in rows), tuple(truncated))

    def spans(self, fields: Fields) -> tuple[Span | None, ...]:
        """What each token of the prompt of ``fields`` covers; None for the template.

        A token that begins in the template and ends in a text counts as the text's.
        """
        prompt = self.task.render(fields)
        [row] = tokenize(self.backbone, self.task, [prompt])
        if len(row) > self.task.max_tokens:
            fields, _ = self._truncate(fields, len(row))
            prompt = self.task.render(fields)
        columns = [
            (column, start, start + len(text))
            for column, (start, text) in enumerate(
                zip(self.task.starts(fields), fields, strict=True)
            )
        ]
        found: list[Span | None] = []
        for start, end in token_offsets(self.backbone, self.task, prompt):
            covered = [
                (column, max(start, first) - first, min(end, last) - first)
                for column, first, last in columns
                if start < last and end > first
            ]
            found.append(covered[0] if covered else None)
        return tuple(found)

    def _truncate(self, fields: Fields, tokens: int) -> tuple[Fields, list[int]]:
        """Cut the text, not the prompt: template and answer position stay whole.

        Returns:
            The texts that are left, and the tokens of their prompt.
        """
        limit = self.task.max_tokens
        pieces = self.backbone.tokenize(fields)
        room = limit - (tokens - sum(map(len, pieces)))  # what the template leaves
        while True:
            keep = _share(room, [len(piece) for piece in pieces])
            if min(keep) < 1:
                raise InputError(
                    f"expected room for text beside the template of {self.task.name!r}, got "
                    f"max_tokens={limit}; raise it"
                )
            cut = tuple(
                text
                if kept == len(piece)
                else self.backbone.tokenizer.decode(
                    piece[:kept], clean_up_tokenization_spaces=False
                )
                for text, piece, kept in zip(fields, pieces, keep, strict=True)
            )
            [row] = tokenize(self.backbone, self.task, [self.task.render(cut)])
            if len(row) <= limit:
                return cut, row
            # A character cut in two may come back as more tokens than it had: leave it less room.
            room -= len(row) - limit


def _share(room: int, lengths: Sequence[int]) -> list[int]:
    """What each column keeps of ``room`` tokens: the longest are cut to one common length."""
    keep = list(lengths)
    shortest_first = sorted(range(len(lengths)), key=lambda column: lengths[column])
    for place, column in enumerate(shortest_first):
        # What a short column does not need is shared among those still to come.
        keep[column] = min(lengths[column], room // (len(lengths) - place))
        room -= keep[column]
    return keep


class PrefixModel:
    """The undefended classifier: frozen backbone, task and trained prefix.

    Raises:
        ArtifactError: the prefix belongs to another base model or has no embeddings, or others,
            for the virtual tokens of the task's template.
    """

    def __init__(self, backbone: CausalBackbone, task: Task, prefix: Prefix) -> None:
        prefix.check_base(backbone)
        prefix.check_template(task)
        self.backbone = backbone
        self.task = task
        self.prefix = prefix
        self.prompter = Prompter(backbone, task)
        # The layers compute in the backbone's type; casting once spares every pass from it.
        self.learned = prefix.learned.to(backbone.device, backbone.dtype)
        self.prefix_tensor = self.learned.by_layer()
        self.beginnings = Beginnings()

    def pad(self, encoded: Encoded) -> Inputs:
        """The texts as one padded batch."""
        batch = self.backbone.pad(encoded.rows)
        embedded = self.embed(batch, self.prefix.length)
        return Inputs(encoded.texts, batch, self.learned.interact(embedded))

    def embed(self, batch: TokenBatch, past: int | Tensor) -> Tensor:
        """Embeddings, see ``CausalBackbone.embed``; the first layer gets what the prefix's
        ``interact`` makes of them."""
        return self.backbone.embed(batch, past, self.learned.inner_tokens)

    def label_logits(self, batch: TokenBatch, hidden: Tensor) -> Tensor:
        """Class scores from states after the last layer: float32 ``(batch, classes)``."""
        return self.backbone.next_token_logits(batch.at_answer(hidden), self.prompter.label_tokens)

    def logits(self, inputs: Inputs, prefixes: LayerPrefixes | None = None) -> Tensor:
        """Class scores of one batch: float32 ``(batch, classes)``.

        Args:
            prefixes: keys and values of each layer; the trained prefix where not given.
        """
        return self.run_to_logits(
            inputs.batch, inputs.embedded, 0, self.prefix_tensor if prefixes is None else prefixes
        )

    def run_to_logits(
        self,
        batch: TokenBatch,
        hidden: Tensor,
        start: int,
        prefixes: LayerPrefixes,
        seen: Tensor | None = None,
    ) -> Tensor:
        """Class scores from states before layer ``start``: float32 ``(batch, classes)``.

        Args:
            hidden, prefixes, seen: see ``CausalBackbone.run_layers``.
        """
        state = self.backbone.run_to_answer(hidden, start, batch, prefixes, seen)
        return self.backbone.next_token_logits(state, self.prompter.label_tokens)

    def answer_states(
        self, encoded: Encoded, layers: Sequence[int]
    ) -> tuple[dict[int, Tensor], Tensor]:
        """States at the answer position after chosen layers, with the class scores.

        Args:
            layers: layer numbers ``j``; 0 is the embedding, ``j`` the output of layer ``j - 1``
                counted from 0.

        Returns:
            ``{j: float32 (batch, hidden)}`` and float32 ``(batch, classes)``.
        """
        inputs = self.pad(encoded)
        batch, hidden = inputs.batch, inputs.embedded
        states: dict[int, Tensor] = {}
        done = 0
        for stop in sorted({*layers, self.backbone.num_layers}):
            hidden = self.backbone.run_layers(hidden, done, stop, self.prefix_tensor)
            done = stop
            if stop in layers:
                states[stop] = batch.at_answer(hidden).float()
        return states, self.label_logits(batch, hidden)
