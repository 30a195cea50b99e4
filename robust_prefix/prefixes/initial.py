"""Real tokens for virtual ones to start from."""

from __future__ import annotations

import torch

from robust_prefix.backbones import CausalBackbone
from robust_prefix.tasks import VIRTUAL, Task

FREQUENT = 5000
"""Vocabulary entries that count as frequent (Lester et al., EMNLP 2021, section 3.2)."""


def initial_tokens(
    backbone: CausalBackbone, task: Task, init: str, length: int, text: str = ""
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
        text = text or template + "".join(task.label_words)
        [once], [again] = backbone.tokenize([text]), backbone.encode([f" {text}"])
        return [*once, *again * -(-length // len(again))][:length]
    words = [backbone.word_token(word) for word in task.label_words] if init == "labels" else []
    return [*words, *_drawn(frequent_tokens(backbone), length - len(words))][:length]


def frequent_tokens(backbone: CausalBackbone) -> list[int]:
    """The :data:`FREQUENT` lowest ids, tokens that were added for control left out.

    Byte-pair encoding gives out ids in the order of its merges, the most frequent pair first, so
    the order of the ids stands for that of the frequencies, which no tokenizer file keeps.
    """
    tokenizer = backbone.tokenizer
    control = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    # The embedding matrix may be longer than the vocabulary, to be of a round size.
    size = min(len(tokenizer), len(backbone.embeddings))
    return [token for token in range(size) if token not in control][:FREQUENT]


def _drawn(tokens: list[int], count: int) -> list[int]:
    """``count`` of ``tokens`` at random, each once before any comes twice."""
    places: list[int] = []
    while len(places) < count:
        places += torch.randperm(len(tokens)).tolist()
    return [tokens[place] for place in places[: max(0, count)]]
