"""Prompts with virtual tokens among the real ones, as rows of token ids.

A task's template asks for virtual tokens with ``{prompt:3}``; in a rendered prompt each is the
character :data:`robust_prefix.tasks.VIRTUAL`. In a row its id is the size of the vocabulary and
more, counted from the left, as if the soft tokens followed the embedding matrix. Those before
everything else are in no row: they are compiled to keys and values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from robust_prefix.backbones import CausalBackbone
from robust_prefix.tasks import VIRTUAL, Task

_PIECE = re.compile(f"{VIRTUAL}|[^{VIRTUAL}]+")


def tokenize(backbone: CausalBackbone, task: Task, prompts: Sequence[str]) -> list[list[int]]:
    """Token ids of each rendered prompt of ``task``."""
    if not any(task.virtual_tokens):
        return backbone.tokenize(prompts)
    places = [list(_pieces(prompt)) for prompt in prompts]
    # What stands behind other tokens must not be tokenised as the beginning of a text.
    beginnings = iter(backbone.tokenize([row[0][1] for row in places if row[0][1] != VIRTUAL]))
    others = iter(
        backbone.encode([text for row in places for _, text in row[1:] if text != VIRTUAL])
    )
    rows = []
    for pieces in places:
        row: list[int] = []
        virtual = len(backbone.embeddings)
        for number, (_, text) in enumerate(pieces):
            if text == VIRTUAL:
                row.append(virtual)
                virtual += 1
            else:
                row += next(others if number else beginnings)
        rows.append(row)
    return rows


def token_offsets(backbone: CausalBackbone, task: Task, prompt: str) -> list[tuple[int, int]]:
    """Start and end of each token of ``tokenize`` in characters of ``prompt``."""
    if not any(task.virtual_tokens):
        return backbone.token_offsets(prompt)
    found: list[tuple[int, int]] = []
    for number, (place, text) in enumerate(_pieces(prompt)):
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


def _pieces(prompt: str) -> Iterator[tuple[int, str]]:
    """Virtual tokens and the stretches of text between them, with their places."""
    leading = len(prompt) - len(prompt.lstrip(VIRTUAL))
    for match in _PIECE.finditer(prompt, leading):
        yield match.start(), match[0]
