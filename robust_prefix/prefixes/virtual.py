"""Prompts with virtual tokens among the real ones, as rows of token ids.

A task's template asks for virtual tokens with ``{prompt:3}``; in a rendered prompt each is the
character :data:`robust_prefix.tasks.VIRTUAL`. In a row its id is the size of the vocabulary and
more, counted from the left, as if the soft tokens followed the embedding matrix. Those before
everything else are in no row: they are compiled to keys and values. ``{mask}`` is that character,
too, and in a row the model's mask token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from robust_prefix.backbones import Backbone
from robust_prefix.tasks import VIRTUAL, Task

_PIECE = re.compile(f"{VIRTUAL}|[^{VIRTUAL}]+")


def tokenize(backbone: Backbone, task: Task, prompts: Sequence[str]) -> list[list[int]]:
    """Token ids of each rendered prompt of ``task``, with the special tokens around it."""
    rows = _tokenize(backbone, task, prompts)
    return [[*backbone.before, *row, *backbone.after] for row in rows]


def _tokenize(backbone: Backbone, task: Task, prompts: Sequence[str]) -> list[list[int]]:
    if not any(task.virtual_tokens) and task.mask is None:
        return backbone.tokenize(prompts)
    leading, _ = task.virtual_tokens
    places = [list(_pieces(backbone, task, prompt)) for prompt in prompts]
    # What stands behind other tokens must not be tokenised as the beginning of a text.
    beginnings = iter(backbone.tokenize([row[0][1] for row in places if row[0][1] != VIRTUAL]))
    others = iter(
        backbone.encode([text for row in places for _, text in row[1:] if text != VIRTUAL])
    )
    rows = []
    for pieces in places:
        row: list[int] = []
        virtual = len(backbone.embeddings)
        character = leading  # of those that stand for a token, counted as in Task.mask
        for number, (_, text) in enumerate(pieces):
            if text != VIRTUAL:
                row += next(others if number else beginnings)
                continue
            if character == task.mask and backbone.mask_token is not None:
                row.append(backbone.mask_token)
            else:
                row.append(virtual)
                virtual += 1
            character += 1
        rows.append(row)
    return rows


def token_offsets(backbone: Backbone, task: Task, prompt: str) -> list[tuple[int, int]]:
    """Start and end of each token of ``tokenize`` in characters of ``prompt``."""
    end = (len(prompt), len(prompt))
    before, after = [(0, 0)] * len(backbone.before), [end] * len(backbone.after)
    return [*before, *_token_offsets(backbone, task, prompt), *after]


def _token_offsets(backbone: Backbone, task: Task, prompt: str) -> list[tuple[int, int]]:
    if not any(task.virtual_tokens) and task.mask is None:
        return backbone.token_offsets(prompt)
    found: list[tuple[int, int]] = []
    for number, (place, text) in enumerate(_pieces(backbone, task, prompt)):
        if text == VIRTUAL:
            found.append((place, place + 1))
        elif number and text.startswith(" "):
            count = len(backbone.encode([text])[0])
            offsets = backbone.token_offsets(f"a{text}")[-count:]
            found += [(place + start - 1, place + end - 1) for start, end in offsets]
        else:
            offsets = backbone.token_offsets(text)
            found += [(place + start, place + end) for start, end in offsets]
    return found


def _pieces(backbone: Backbone, task: Task, prompt: str) -> Iterator[tuple[int, str]]:
    """Virtual tokens, the mask and the stretches of text between them, with their places; without
    virtual tokens at the beginning, and without a space that belongs to the mask."""
    leading, _ = task.virtual_tokens
    character = leading  # of those that stand for a token, counted as in Task.mask
    for match in _PIECE.finditer(prompt, leading):
        text = match[0]
        if text == VIRTUAL:
            character += 1
        elif character == task.mask and match.end() < len(prompt) and backbone.mask_takes_space:
            text = text.removesuffix(" ")
        if text:
            yield match.start(), text
