"""Class scores of many texts behind the trained prefix, from as few tokens as it takes.

An attack asks about hundreds of variants of one sentence. Rows that are the same are run once, and
what rows have in common from their first token on is run once for all: under causal attention its
keys and values depend on nothing that follows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from robust_prefix.data import token_batches
from robust_prefix.prefixes.model import Encoded, PrefixModel

_TOKENS_A_TEXT = 64
"""What a text of a batch may be long for a batch to have as many texts as the caller allows."""

_CANDIDATES = 64
"""Rows that are tried as the one whose beginning the others share."""

_WORTHWHILE = 0.1
"""Share of all tokens that must be saved: below it one plain pass is as fast."""


@torch.no_grad()
def plain_scores(model: PrefixModel, encoded: Encoded, batch_size: int = 32) -> Tensor:
    """Scores of the undefended classifier.

    Args:
        batch_size: texts of 64 tokens a pass; of shorter ones more, of longer ones fewer.

    Returns:
        float32 ``(len(encoded), classes)`` on the CPU.
    """
    rows = list(dict.fromkeys(encoded.rows))
    prefix, length = model.prefix_tensor, model.prefix.length
    first: tuple[int, ...] = ()
    shared = [0] * len(rows)
    known: Tensor | None = None
    passes = model.backbone.passes
    before = passes.forward
    # In a layer without a prefix a beginning would stand elsewhere; a kernel reaches back into it.
    if isinstance(prefix, Tensor) and model.learned.kernel is None:
        first, shared = shared_beginning(rows)
        if first:
            hidden = model.embed(model.backbone.pad([first]), length)
            beginning = model.backbone.record(hidden, prefix)[:, 0]
            known = torch.cat([prefix, beginning], dim=3)
    scores = torch.empty(len(rows), len(model.task.labels))
    rests = [row[count:] for row, count in zip(rows, shared, strict=True)]
    for batch in token_batches([len(rest) for rest in rests], batch_size * _TOKENS_A_TEXT):
        tokens = model.backbone.pad([rests[index] for index in batch])
        if known is not None:
            seen = torch.tensor([shared[index] for index in batch], device=tokens.ids.device)
            seen = seen + length
            hidden = model.embed(tokens, seen)
            found = model.run_to_logits(tokens, hidden, 0, known[:, :, :, : int(seen.max())], seen)
        else:
            hidden = model.learned.interact(model.embed(tokens, length))
            found = model.run_to_logits(tokens, hidden, 0, prefix)
        scores[batch] = found.cpu()
    if first:  # what was run of each text, instead of whole texts
        part = sum(len(rest) / len(row) for rest, row in zip(rests, rows, strict=True))
        passes.forward = before + part + len(first) / max(map(len, rows))
    places = {row: index for index, row in enumerate(rows)}
    return scores[[places[row] for row in encoded.rows]]


def shared_beginning(
    rows: Sequence[tuple[int, ...]],
) -> tuple[tuple[int, ...], list[int]]:
    """The beginning that saves most when it is run once, and how much of it each row has.

    Returns:
        The tokens to run first, none where it does not pay, and for each row how many of them it
        begins with; at least its last token is left to the row itself.
    """
    nothing: tuple[int, ...] = ()
    if len(rows) < 2:
        return nothing, [0] * len(rows)
    width = max(map(len, rows))
    table = np.full((len(rows), width), -1, dtype=np.int64)
    for index, row in enumerate(rows):
        table[index, : len(row)] = row
    lengths = np.array([len(row) for row in rows])
    # Evenly from the sorted rows, so that each beginning that many have is among them.
    order = sorted(range(len(rows)), key=lambda index: rows[index])
    tried = order[:: -(-len(rows) // _CANDIDATES)]
    best = np.zeros(len(rows), dtype=np.int64)
    first = nothing
    for index in tried:
        common = (table == table[index]).cumprod(1).sum(1)
        common = np.minimum(common, lengths - 1)
        gain = common.sum() - common.max()
        if gain > best.sum() - best.max():
            best, first = common, rows[index][: common.max()]
    if best.sum() - best.max() < _WORTHWHILE * lengths.sum():
        return nothing, [0] * len(rows)
    return first, best.tolist()
