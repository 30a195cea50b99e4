"""The attention inside the layers of ``transformers``: packed texts, and short ones on a CPU.

On a CPU the fused kernel of ``scaled_dot_product_attention`` spends most of its time on setting
out: for texts of a sentence two plain products over the heads that share keys take about half as
long in float32 as it does in bfloat16 (``scripts/speed.py`` shows what comes of it), and round
nothing on the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from torch import Tensor

from robust_prefix.backbones.packing import Packing

_NAME = "robust_prefix"
_SHORT = 160
"""Keys up to which the plain products are taken: their memory grows with the square."""


@contextmanager
def own_attention(config: Any) -> Iterator[None]:
    """While inside, the layers of the model of ``config`` attend as this module does.

    They may be called with the argument ``packing``: their texts are packed then, and their cache
    is a ``PackedCache``.
    """
    before = config._attn_implementation
    config._attn_implementation = _registered()
    try:
        yield
    finally:
        config._attn_implementation = before


def grouped_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float
) -> Tensor:
    """``softmax(q k^T * scaling + mask) v`` in float32, without copying keys to every head.

    Args:
        query: ``(batch, heads, tokens, head_dim)``.
        key, value: ``(batch, kv_heads, keys, head_dim)``; ``kv_heads`` divides ``heads``.
        mask: ``(1 or batch, 1, tokens, keys)``.

    Returns:
        ``(batch, heads, tokens, head_dim)`` in the type of ``query``.
    """
    kv_heads = key.shape[1]
    grouped = query.float().unflatten(1, (kv_heads, -1))  # (batch, kv_heads, group, tokens, dim)
    scores = grouped.flatten(2, 3) @ key.float().transpose(2, 3) * scaling
    scores = scores.unflatten(2, grouped.shape[2:4]) + mask[:, :, None].float()
    found = scores.softmax(-1).flatten(2, 3) @ value.float()
    return found.unflatten(2, grouped.shape[2:4]).flatten(1, 2).to(query.dtype)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scaling: float | None = None,
    **arguments: Any,
) -> Tensor:
    """The attention that is fastest for texts of this length on this device.

    Args:
        module: the attention inside a layer.
        query, key, value, mask: see :func:`grouped_attention`.
        arguments: what ``transformers`` gives its own attentions beside them.

    Returns:
        ``(batch, tokens, heads, head_dim)``.
    """
    if query.device.type == "cpu" and key.shape[2] <= _SHORT:
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        return grouped_attention(query, key, value, mask, scaling).transpose(1, 2)
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    found: Tensor = sdpa_attention_forward(
        module, query, key, value, mask, scaling=scaling, **arguments
    )[0]
    return found


@cache
def _registered() -> str:
    """The name under which ``transformers`` knows the attention."""
    from transformers import AttentionInterface

    def attend_packed(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor,
        packing: Packing | None = None,
        **arguments: Any,
    ) -> tuple[Tensor, None]:
        if packing is None:
            return attend(module, query, key, value, attention_mask, **arguments), None
        padded = packing.pad_heads(query)
        return packing.pack(attend(module, padded, key, value, attention_mask, **arguments)), None

    AttentionInterface.register(_NAME, attend_packed)
    return _NAME
