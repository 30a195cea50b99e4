"""A backbone with a task's prompt around the text and a prefix before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robust_prefix.backbones import Backbone, TokenBatch
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
            self.batch.select(indices),
            self.embedded[indices],
        )


def margins(logits: Tensor) -> Tensor:
    """How far the first class is ahead of the second, ``(n, classes)`` logits to ``(n,)``."""
    first, second = logits.topk(2).values.T
    return first - second


class Prompter:
    """Turns texts into prompts, and says where among the scores each class is.

    Args:
        head: a classification head answers, and not the label words.

    Attributes:
        label_tokens: each class's place among the scores ``(classes,)``: the token of its label
            word, or its number where a head answers.

    Raises:
        ConfigError: a label word is not one token, two label words are the same token, or the
            template does not fit the model.
    """

    def __init__(self, backbone: Backbone, task: Task, head: bool = False) -> None:
        self.backbone = backbone
        self.task = task
        check_template(backbone, task, head)
        if head:
            self.label_tokens = torch.arange(len(task.labels), device=backbone.device)
            return
        tokens = [backbone.word_token(word) for word in task.label_words]
        if len(set(tokens)) != len(tokens):
            raise ConfigError(
                f"expected different label words in task {task.name!r}, got {task.label_words}"
            )
        self.label_tokens = torch.tensor(tokens, device=backbone.device)

    def read(self, fields: Fields) -> Fields:
        """The text whose prompt is made; here the text itself."""
        return fields

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


def check_template(backbone: Backbone, task: Task, head: bool) -> None:
    """Raise ConfigError where ``task``'s template is not one for ``backbone``.

    Args:
        head: a classification head answers, and not the label words.
    """
    owner = f"the template of task {task.name!r}"
    if task.mask is not None and backbone.mask_token is None:
        raise ConfigError(
            f"expected {owner} without {{mask}} for {backbone.name}, which does not fill in "
            f"blanks, got {task.template!r}; end it with the question instead"
        )
    if head:
        return
    if not backbone.vocabulary:
        raise ConfigError(
            f"expected a model that predicts words for the label words of task {task.name!r}, got "
            f"{backbone.name}, which has no language-model head; learn a classification head: "
            "p-tuning-v2, or prefix-tuning(answer=head)"
        )
    if task.mask is None and backbone.mask_token is not None:
        raise ConfigError(
            f"expected {{mask}} in {owner} for {backbone.name}, which reads both ways and predicts "
            f"the label word there, got {task.template!r}; write it as "
            "'{text} it was {mask} .', or learn a classification head with p-tuning-v2"
        )


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

    Attributes:
        backbone: the model that texts run through: the frozen one, or a view of it with what was
            learned inside its layers.

    Raises:
        ArtifactError: the prefix belongs to another base model or has no embeddings, or others,
            for the virtual tokens of the task's template.
    """

    def __init__(self, backbone: Backbone, task: Task, prefix: Prefix) -> None:
        prefix.check_base(backbone)
        prefix.check_template(task)
        self.task = task
        self.prefix = prefix
        # The layers compute in the backbone's type; casting once spares every pass from it.
        self.learned = prefix.learned.to(backbone.device, backbone.dtype)
        self.backbone = self.learned.model(backbone)
        self.prompter = Prompter(self.backbone, task, head=prefix.head is not None)
        self.prefix_tensor = self.learned.by_layer()
        self.beginnings: Beginnings | None = None  # see PrefixClassifier.remembering

    def pad(self, encoded: Encoded) -> Inputs:
        """The texts as one padded batch."""
        batch = self.backbone.pad(encoded.rows)
        embedded = self.embed(batch, self.prefix.length)
        return Inputs(encoded.texts, batch, self.learned.interact(embedded))

    def embed(self, batch: TokenBatch, past: int | Tensor) -> Tensor:
        """Embeddings, see ``Backbone.embed``; the first layer gets what the prefix's
        ``interact`` makes of them."""
        return self.backbone.embed(batch, past, self.learned.inner_tokens)

    def label_logits(self, batch: TokenBatch, hidden: Tensor) -> Tensor:
        """Class scores from states after the last layer: float32 ``(batch, classes)``."""
        return self.class_scores(batch.at_answer(hidden))

    def class_scores(self, state: Tensor) -> Tensor:
        """Class scores from states at the answer position after the last layer ``(batch, hidden)``:
        float32 ``(batch, classes)``."""
        return self.learned.scores(self.backbone, state, self.prompter.label_tokens)

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
            hidden, prefixes, seen: see ``Backbone.run_layers``.
        """
        state = self.backbone.run_to_answer(hidden, start, batch, prefixes, seen)
        return self.class_scores(state)

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
        return self.states_of(self.pad(encoded), layers)

    def states_of(self, inputs: Inputs, layers: Sequence[int]) -> tuple[dict[int, Tensor], Tensor]:
        """``answer_states`` of a padded batch."""
        batch, hidden = inputs.batch, inputs.embedded
        states: dict[int, Tensor] = {}
        done = 0
        for stop in sorted({*layers, self.backbone.num_layers}):
            hidden = self.backbone.run_layers(hidden, done, stop, batch, self.prefix_tensor)
            done = stop
            if stop in layers:
                states[stop] = batch.at_answer(hidden).float()
        return states, self.label_logits(batch, hidden)
