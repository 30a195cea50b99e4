"""What a layer of ``transformers`` takes for its cache: keys and values that precede its text.

None of them grows, unlike a generation cache, so layers can be run any number of times.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robust_prefix.backbones.base import LayerPrefixes

Recorded = dict[int, tuple[Tensor, Tensor]]
"""By layer, keys and values of the texts alone, each ``(batch, kv_heads, tokens, head_dim)``."""


def stacked(recorded: Recorded) -> Tensor:
    """All layers' keys and values, ``(layers, batch, 2, kv_heads, tokens, head_dim)``."""
    return torch.stack([torch.stack(recorded[layer], dim=1) for layer in sorted(recorded)])


class PrefixCache:
    """Puts the prefix before the keys and values of the text.

    Args:
        recorded: filled with what each layer computes for its text, where given.
    """

    def __init__(self, prefixes: LayerPrefixes, recorded: Recorded | None = None) -> None:
        self.prefixes = prefixes
        self.recorded = recorded

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of prefix and text, ``(batch, kv_heads, past + tokens, head_dim)``."""
        if self.recorded is not None:
            self.recorded[layer] = keys, values
        return _before(self.prefixes[layer], keys, values)


class GivenCache:
    """Hands a layer that runs a part of the text the keys and values of all of it."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.given = keys, values

    def update(self, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """The keys and values given, whatever the layer computed."""
        return self.given


class InTurn:
    """Puts a prefix of its own before the keys and values of each attention of one layer, in the
    order in which the layer runs them: self-attention, then cross-attention.

    Attributes:
        given: keys and values that each computed for its text, ``(batch, kv_heads, tokens,
            head_dim)``.
        length: of the first prefix.
    """

    def __init__(self, *prefixes: Tensor) -> None:
        self.given: list[tuple[Tensor, Tensor]] = []
        self.length = prefixes[0].shape[-2]
        self._prefixes = prefixes

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keys and values of prefix and text, ``(batch, kv_heads, past + tokens, head_dim)``."""
        prefix = self._prefixes[len(self.given)]
        self.given.append((keys, values))
        return _before(prefix, keys, values)


def _before(prefix: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    prefix = prefix.to(keys.dtype)
    if prefix.dim() == 4:
        prefix = prefix.expand(keys.shape[0], *prefix.shape)
    return torch.cat([prefix[:, 0], keys], dim=2), torch.cat([prefix[:, 1], values], dim=2)
