"""What virtual tokens start from: real tokens, or what training texts make of them."""

from __future__ import annotations

import torch
from torch import Tensor

from robust_prefix.backbones import Backbone
from robust_prefix.data import load_split, rows_as_fields
from robust_prefix.errors import ConfigError
from robust_prefix.tasks import VIRTUAL, Fields, Task

FREQUENT = 5000
"""Vocabulary entries that count as frequent (Lester et al., EMNLP 2021, section 3.2)."""

DEMONSTRATIONS = 32
"""Of which the mean keys and values are taken."""


def initial_tokens(
    backbone: Backbone, task: Task, init: str, length: int, text: str = ""
) -> list[int]:
    """``length`` token ids to start from.

    Args:
        init: ``text``, over and over where it is too short; ``vocabulary``, entries drawn at
            random from the most frequent ones; ``labels``, the task's label words, then entries
            drawn as before.
        text: for ``text``; the task's template and label words where empty.
    """
    if init == "text":
        template = task.render(("",) * len(task.columns)).replace(VIRTUAL, "")
        return text_tokens(backbone, text or template + "".join(task.label_words), length)
    words = [backbone.word_token(word) for word in task.label_words] if init == "labels" else []
    return [*words, *frequent_draw(backbone, length - len(words))][:length]


def text_tokens(backbone: Backbone, text: str, length: int) -> list[int]:
    """``length`` tokens of ``text``, over and over where it is too short."""
    [once], [again] = backbone.tokenize([text]), backbone.encode([f" {text}"])
    return [*once, *again * -(-length // len(again))][:length]


def frequent_draw(backbone: Backbone, count: int) -> list[int]:
    """``count`` of the frequent entries at random, each once before any comes twice."""
    return _drawn(frequent_tokens(backbone), count)


def frequent_tokens(backbone: Backbone) -> list[int]:
    """The :data:`FREQUENT` lowest ids, tokens that were added for control left out.

    Byte-pair encoding gives out ids in the order of its merges, the most frequent pair first, so
    the order of the ids stands for that of the frequencies, which no tokenizer file keeps.
    """
    tokenizer = backbone.tokenizer
    control = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    # The embedding matrix may be longer than the vocabulary, to be of a round size.
    size = min(len(tokenizer), len(backbone.embeddings))
    return [token for token in range(size) if token not in control][:FREQUENT]


@torch.no_grad()
def mean_activations(backbone: Backbone, task: Task, length: int) -> Tensor:
    """Mean keys and values of demonstrations, float32 ``(layers, 2, kv_heads, length, head_dim)``.

    A demonstration is one training text of each class in turn, in its prompt and with its label
    word behind it, of which the last tokens are taken, so many that together they are ``length``
    tokens. The mean is over :data:`DEMONSTRATIONS` of them, made of the first texts of each class
    in the train split; a class with fewer texts begins again with its first.

    Raises:
        ConfigError: a class has no training text.
    """
    classes = len(task.labels)
    rows = load_split(task, "train")
    total = torch.zeros(backbone.prefix_shape(length))
    texts: list[list[Fields]] = [[] for _ in range(classes)]
    for fields, label in zip(rows_as_fields(task, rows), rows["label"], strict=True):
        if len(texts[label]) < DEMONSTRATIONS:
            texts[label].append(fields)
    if not all(texts):
        missing = task.labels[texts.index([])]
        raise ConfigError(
            f"expected training texts of every class for init=activations, got none of {missing!r}"
        )
    for number in range(DEMONSTRATIONS):
        tokens: list[int] = []
        for label, word in enumerate(task.label_words):
            [row] = backbone.tokenize([task.render(texts[label][number % len(texts[label])])])
            share = length * (label + 1) // classes - length * label // classes
            tokens += [*row, backbone.word_token(word)][-share:] if share else []
        tokens = tokens if len(tokens) == length else _filled(tokens, length)
        total += backbone.token_keys_and_values(tokens).cpu()
    return total / DEMONSTRATIONS


def _filled(tokens: list[int], length: int) -> list[int]:
    """``tokens`` over and over, ``length`` of them: prompts may be shorter than their share."""
    return (tokens * -(-length // len(tokens)))[:length]


def _drawn(tokens: list[int], count: int) -> list[int]:
    """``count`` of ``tokens`` at random, each once before any comes twice."""
    places: list[int] = []
    while len(places) < count:
        places += torch.randperm(len(tokens)).tolist()
    return [tokens[place] for place in places[: max(0, count)]]
