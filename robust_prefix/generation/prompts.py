"""Sources and targets as tokens."""

from __future__ import annotations

from collections.abc import Sequence

from robust_prefix.backbones import Backbone, CausalBackbone
from robust_prefix.errors import ConfigError, InputError
from robust_prefix.generation.tasks import GenerationTask, Pair


def decoder(backbone: Backbone) -> CausalBackbone:
    """``backbone``, where text can be generated with it.

    Raises:
        ConfigError: it is no decoder, or has no token that ends a text.
    """
    if not isinstance(backbone, CausalBackbone):
        raise ConfigError(
            f"expected a decoder to generate text with, got {backbone.name}; prefixes of encoders "
            "and encoder-decoders are for classification"
        )
    if backbone.tokenizer.eos_token_id is None:
        raise ConfigError(
            f"expected a tokenizer with a token that ends a text for {backbone.name}, got none; "
            "set its eos_token"
        )
    return backbone


def prompt_rows(
    backbone: Backbone, task: GenerationTask, sources: Sequence[str]
) -> list[list[int]]:
    """The tokens of each prompt.

    Raises:
        InputError: a source is no text, or its prompt is too long; its place is named.
    """
    if isinstance(sources, str | bytes):
        raise InputError(
            f"expected a list of sources, got one {type(sources).__name__}; put it into a list"
        )
    checked = [task.check(source, f"source {place}") for place, source in enumerate(sources)]
    rows = backbone.tokenize([task.render(source) for source in checked])
    for place, row in enumerate(rows):
        if len(row) > task.max_tokens:
            raise InputError(
                f"expected at most {task.max_tokens} tokens in the prompt of source {place}, got "
                f"{len(row)}; shorten it, or raise the task's max_tokens"
            )
    return rows


def pair_rows(
    backbone: Backbone, task: GenerationTask, pairs: Sequence[Pair]
) -> list[tuple[list[int], int]]:
    """The tokens of each prompt and target, with how many are the prompt's.

    A target begins with a space and ends with the token that ends a text.
    """
    prompts = prompt_rows(backbone, task, [pair.source for pair in pairs])
    targets = backbone.encode([f" {pair.target.strip()}" for pair in pairs])
    end = backbone.tokenizer.eos_token_id
    return [
        ([*prompt, *target, end], len(prompt))
        for prompt, target in zip(prompts, targets, strict=True)
    ]
