"""Texts of different lengths in one row, without padding between them.

Everything in a layer but the attention treats each position by itself, so it need not see padding;
the attention gets its texts padded, and gives its answer packed again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robust_prefix.backbones.base import LayerPrefixes, TokenBatch
from robust_prefix.backbones.caches import PrefixCache, Recorded

_WORTHWHILE = 0.9
"""Share of the positions that are no padding, from which on packing does not pay."""


class Packing:
    """Where the tokens of a padded batch are in the packed row, and back.

    Args:
        batch: prompts that end at their answer position; what follows it is padding.
    """

    def __init__(self, batch: TokenBatch) -> None:
        rows, tokens = batch.ids.shape
        places = torch.arange(tokens, device=batch.ids.device)
        kept = places <= batch.answer[:, None]
        self.shape = rows, tokens
        self.index = kept.flatten().nonzero()[:, 0]

    @classmethod
    def of(cls, batch: TokenBatch) -> Packing | None:
        """That of a batch with padding enough to be worth the moving about."""
        rows, tokens = batch.ids.shape
        if rows == 1:
            return None
        packing = cls(batch)
        return packing if len(packing.index) < _WORTHWHILE * rows * tokens else None

    def pack(self, padded: Tensor) -> Tensor:
        """``(rows, tokens, ...)`` to ``(1, packed, ...)``."""
        return padded.flatten(0, 1)[self.index][None]

    def pad(self, packed: Tensor) -> Tensor:
        """``(1, packed, ...)`` to ``(rows, tokens, ...)``, zero where there is no token."""
        rows, tokens = self.shape
        padded = packed.new_zeros(rows * tokens, *packed.shape[2:])
        return padded.index_copy(0, self.index, packed[0]).unflatten(0, (rows, tokens))

    def pad_heads(self, packed: Tensor) -> Tensor:
        """``(1, heads, packed, head_dim)`` to ``(rows, heads, tokens, head_dim)``."""
        return self.pad(packed.transpose(1, 2)).transpose(1, 2)


class PackedCache(PrefixCache):
    """Puts each text's prefix before its keys and values, padded for the attention."""

    def __init__(
        self, prefixes: LayerPrefixes, packing: Packing, recorded: Recorded | None = None
    ) -> None:
        super().__init__(prefixes, recorded)
        self.packing = packing

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values ``(rows, kv_heads, past + tokens, head_dim)`` of packed ones."""
        return super().update(self.packing.pad_heads(keys), self.packing.pad_heads(values), layer)
