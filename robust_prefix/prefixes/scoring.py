"""Class scores of many texts behind the trained prefix, from as few tokens as it takes.

An attack asks about hundreds of variants of one sentence. Rows that are the same are run once, and
what rows have in common from their first token on is run once for all, and for the calls that
follow: under causal attention, and there alone, its keys and values depend on nothing that comes
after.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robust_prefix.backbones import CausalBackbone
from robust_prefix.backbones.base import LayerPrefixes
from robust_prefix.data import token_batches

if TYPE_CHECKING:
    from robust_prefix.prefixes.model import Encoded, PrefixModel

_TOKENS_A_TEXT = 64
"""What a text of a batch may be long for a batch to have as many texts as the caller allows."""

_CANDIDATES = 64
"""Rows that are tried as the one whose beginning the others share."""

_WORTHWHILE = 0.1
"""Share of all tokens that must be saved: below it one plain pass is as fast."""

_PASS = 32
"""What a pass costs beside its tokens, in tokens: reading the weights."""

_KEPT = 4
"""Beginnings whose keys and values are kept: an attack asks about one sentence again and again."""


class Beginnings:
    """Keys and values of the beginnings that were run last, behind one prefix."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()

    def clear(self) -> None:
        """Forget all of them."""
        self._kept.clear()

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return iter(list(self._kept))

    def keys_and_values(
        self,
        model: PrefixModel,
        backbone: CausalBackbone,
        tokens: tuple[int, ...],
        prefix: Tensor,
    ) -> Tensor:
        """``(layers, 2, kv_heads, tokens, head_dim)``, computed where they are not known."""
        if tokens not in self._kept:
            hidden = model.embed(backbone.pad([tokens]), model.prefix.length)
            self._kept[tokens] = backbone.record(hidden, prefix)[:, 0]
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(tokens)
        return self._kept[tokens]


@torch.no_grad()
def plain_scores(model: PrefixModel, encoded: Encoded, batch_size: int = 32) -> Tensor:
    """Scores of the undefended classifier.

    Args:
        batch_size: texts of 64 tokens a pass; of shorter ones more, of longer ones fewer.

    Returns:
        float32 ``(len(encoded), classes)`` on the CPU.
    """
    rows = list(dict.fromkeys(encoded.rows))
    scores = torch.empty(len(rows), len(model.task.labels))
    prefix, length = model.prefix_tensor, model.prefix.length
    first: tuple[int, ...] = ()
    shared = [0] * len(rows)
    backbone = model.backbone
    ran = 0.0
    if isinstance(backbone, CausalBackbone) and _can_share(prefix, model):
        first, shared = shared_beginning(rows, tuple(model.beginnings))
        if first:
            new, before = first not in tuple(model.beginnings), backbone.passes.forward
            known = model.beginnings.keys_and_values(model, backbone, first, prefix)
            prefix = torch.cat([prefix, known[:, :, :, : max(shared)]], dim=3)
            # What was run of each text, instead of whole texts.
            part = sum(1 - count / len(row) for count, row in zip(shared, rows, strict=True))
            ran = before + part + new * len(first) / max(map(len, rows))
    rests = [row[count:] for row, count in zip(rows, shared, strict=True)]
    for batch in token_batches([len(rest) for rest in rests], batch_size * _TOKENS_A_TEXT):
        tokens = backbone.pad([rests[index] for index in batch])
        seen = None
        if first:
            seen = torch.tensor([shared[index] for index in batch], device=tokens.ids.device)
            seen = seen + length
        hidden = model.learned.interact(model.embed(tokens, length if seen is None else seen))
        scores[batch] = model.run_to_logits(tokens, hidden, 0, prefix, seen).cpu()
    if first:
        backbone.passes.forward = ran
    places = {row: index for index, row in enumerate(rows)}
    return scores[[places[row] for row in encoded.rows]]


def _can_share(prefix: LayerPrefixes, model: PrefixModel) -> TypeGuard[Tensor]:
    """In a layer without a prefix a beginning would stand elsewhere; a kernel looks back at it."""
    return isinstance(prefix, Tensor) and model.learned.kernel is None


def shared_beginning(
    rows: Sequence[tuple[int, ...]], known: Sequence[tuple[int, ...]] = ()
) -> tuple[tuple[int, ...], list[int]]:
    """The beginning that saves most, and how much of it each row has.

    Args:
        known: beginnings that cost nothing, having been run before.

    Returns:
        The tokens to run first, or one of ``known``; none where it does not pay. For each row how
        many of them it begins with; at least its last token is left to the row itself.
    """
    nothing: tuple[tuple[int, ...], list[int]] = ((), [0] * len(rows))
    if not rows:
        return nothing
    width = max(map(len, rows))
    lengths = np.array([len(row) for row in rows])
    table = _table(rows, width)
    # Evenly from the sorted rows, so that each beginning that many have is among them.
    order = sorted(range(len(rows)), key=lambda index: rows[index])
    tried = [rows[index] for index in order[:: -(-len(rows) // _CANDIDATES)]]
    best, most = nothing, _WORTHWHILE * lengths.sum()
    for place, row in enumerate(_table([*known, *tried], width)):
        common = np.minimum((table == row).cumprod(1).sum(1), lengths - 1)
        is_known = place < len(known)
        gain = common.sum() - (0 if is_known else common.max() + _PASS)
        if gain > most:
            first = known[place] if is_known else tried[place - len(known)][: common.max()]
            best, most = (first, common.tolist()), gain
    return best


def _table(rows: Sequence[tuple[int, ...]], width: int) -> NDArray[np.int64]:
    """Rows cut or filled with -1 to one width."""
    table = np.full((len(rows), width), -1, dtype=np.int64)
    for index, row in enumerate(rows):
        table[index, : len(row)] = row[:width]
    return table
