"""Where a decoder keeps its parts: one row an architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Rotary = tuple[Tensor, Tensor]
"""Cosine and sine of each position, ``(1 or batch, tokens, head_dim)``."""

KeysAndValues = Callable[[Any, Tensor, Rotary | None], tuple[Tensor, Tensor]]
"""``(layer, hidden (batch, tokens, hidden), rotary)`` to what the layer's attention stores:
keys and values ``(batch, kv_heads, tokens, head_dim)``."""


@dataclass(frozen=True)
class Architecture:
    """Attribute names inside a ``transformers`` causal language model.

    Attributes:
        decoder: the stack without the language-model head.
        embedding: token embeddings, inside the decoder.
        layers: the list of layers, inside the decoder.
        norm: the norm after the last layer, inside the decoder.
        rotary: rotary position embedding, inside the decoder; None where positions are learned.
        positions: the table of learned positions, inside the decoder; None where rotary.
        cache_argument: the layer's name for the keys and values that precede the text.
        keys_and_values: a layer's keys and values without the rest of the layer; where it is not
            known, a layer that is needed at the answer position alone is run for the whole text.
    """

    decoder: str
    embedding: str
    layers: str
    norm: str
    rotary: str | None = None
    positions: str | None = None
    cache_argument: str = "past_key_values"
    keys_and_values: KeysAndValues | None = None


def _llama_keys_and_values(
    layer: Any, hidden: Tensor, rotary: Rotary | None
) -> tuple[Tensor, Tensor]:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    attention = layer.self_attn
    normed = layer.input_layernorm(hidden)
    shape = (*hidden.shape[:2], -1, attention.head_dim)
    keys = attention.k_proj(normed).view(shape).transpose(1, 2)
    values = attention.v_proj(normed).view(shape).transpose(1, 2)
    if rotary is not None:
        _, keys = apply_rotary_pos_emb(keys, keys, *rotary)
    return keys, values


def _gpt2_keys_and_values(
    layer: Any, hidden: Tensor, rotary: Rotary | None
) -> tuple[Tensor, Tensor]:
    attention = layer.attn
    _, keys, values = attention.c_attn(layer.ln_1(hidden)).split(attention.split_size, dim=2)
    shape = (*hidden.shape[:2], -1, attention.head_dim)
    return keys.view(shape).transpose(1, 2), values.view(shape).transpose(1, 2)


_LLAMA = Architecture(
    "model",
    "embed_tokens",
    "layers",
    "norm",
    rotary="rotary_emb",
    keys_and_values=_llama_keys_and_values,
)

ARCHITECTURES: dict[str, Architecture] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "gpt2": Architecture(
        "transformer",
        "wte",
        "h",
        "ln_f",
        positions="wpe",
        keys_and_values=_gpt2_keys_and_values,
    ),
    "gpt_neox": Architecture(
        "gpt_neox",
        "embed_in",
        "layers",
        "final_layer_norm",
        rotary="rotary_emb",
        cache_argument="layer_past",
    ),
}
"""By ``config.model_type``. A new row is checked by the tests against the model's own forward."""
