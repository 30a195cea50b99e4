"""What a decoder's layers are told of where each token stands and what it may read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robust_prefix.backbones.architectures import Rotary
from robust_prefix.backbones.packing import Packing


@dataclass(frozen=True)
class Places:
    """The places of a batch behind a prefix of one length.

    Attributes:
        positions: ``(1 or batch, tokens)``, those of the prefix counted.
        mask: added to the attention's scores, ``(1 or batch, 1, tokens, keys)``.
        rotary: the rotary embedding of the positions; None where positions are learned.
    """

    positions: Tensor
    mask: Tensor
    rotary: Rotary | None

    def at(self, answer: Tensor) -> Places:
        """Those of one token a row, ``answer`` ``(batch,)``."""
        rows = torch.arange(len(answer), device=answer.device)

        def chosen(values: Tensor) -> Tensor:
            return values.expand(len(answer), *values.shape[1:])[rows, answer][:, None]

        mask = self.mask.expand(len(answer), -1, -1, -1)[rows, :, answer][:, :, None]
        rotary = self.rotary and (chosen(self.rotary[0]), chosen(self.rotary[1]))
        return Places(chosen(self.positions), mask, rotary)

    def packed(self, packing: Packing) -> Places:
        """Those of packed texts; the attention, which gets them padded, keeps its mask."""

        def pack(values: Tensor) -> Tensor:
            return packing.pack(values.expand(packing.shape[0], *values.shape[1:]))

        rotary = self.rotary and (pack(self.rotary[0]), pack(self.rotary[1]))
        return Places(pack(self.positions), self.mask, rotary)


def causal_mask(
    tokens: int, past: int, dtype: torch.dtype, device: torch.device, seen: Tensor | None = None
) -> Tensor:
    """What each token attends to: the prefix, and the text up to itself.

    Args:
        past: the prefix's length.
        seen: how much of the prefix is a row's own ``(batch,)``; all of it where not given.

    Returns:
        0 or the least number of ``dtype``, ``(1 or batch, 1, tokens, past + tokens)``.
    """
    shown = torch.ones(1, tokens, past + tokens, dtype=torch.bool, device=device).tril(past)
    if seen is not None:
        places = torch.arange(past + tokens, device=device)
        hid = (places >= seen.to(device)[:, None]) & (places < past)
        shown = shown & ~hid[:, None]
    mask = torch.zeros(shown.shape, dtype=dtype, device=device)
    return mask.masked_fill_(~shown, torch.finfo(dtype).min)[:, None]
