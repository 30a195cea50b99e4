"""Where a decoder keeps its parts: one row an architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Rotary = tuple[Tensor, Tensor]
"""Cosine and sine of each position, ``(1 or batch, tokens, head_dim)``."""


@dataclass(frozen=True)
class Split:
    """A layer in the steps around its attention, so that each can be run for the tokens it is
    needed for, and as often as what it reads changes.

    Attributes:
        attention: the name of the attention inside the layer.
        queries: ``(layer, hidden (batch, tokens, hidden), rotary)`` to what asks: ``(batch, heads,
            tokens, head_dim)``.
        keys_and_values: of the same to what the attention stores, each ``(batch, kv_heads, tokens,
            head_dim)``.
        finish: ``(layer, hidden, attended (batch, tokens, heads, head_dim))`` to the states after
            the layer, ``(batch, tokens, hidden)``.
    """

    attention: str
    queries: Callable[[Any, Tensor, Rotary | None], Tensor]
    keys_and_values: Callable[[Any, Tensor, Rotary | None], tuple[Tensor, Tensor]]
    finish: Callable[[Any, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Architecture:
    """Attribute names inside a ``transformers`` causal language model.

    Attributes:
        decoder: the stack without the language-model head.
        embedding: token embeddings, inside the decoder.
        layers: the list of layers, inside the decoder.
        norm: the norm after the last layer, inside the decoder.
        attended: what projects the attention's answer to the hidden size, inside a layer.
        feed_forward: what follows the attention, inside a layer.
        rotary: rotary position embedding, inside the decoder; None where positions are learned.
        positions: the table of learned positions, inside the decoder; None where rotary.
        cache_argument: the layer's name for the keys and values that precede the text.
        split: a layer in steps; where it is not known, a layer is run whole.
    """

    decoder: str
    embedding: str
    layers: str
    norm: str
    attended: str
    feed_forward: str
    rotary: str | None = None
    positions: str | None = None
    cache_argument: str = "past_key_values"
    split: Split | None = None

    @property
    def sublayers(self) -> dict[str, str]:
        """See ``Backbone.sublayers``; where each is inside a layer."""
        return {"attention": self.attended, "feed-forward": self.feed_forward}


def _llama_queries(layer: Any, hidden: Tensor, rotary: Rotary | None) -> Tensor:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    queries = _llama_heads(layer, layer.self_attn.q_proj(layer.input_layernorm(hidden)))
    if rotary is not None:
        queries, _ = apply_rotary_pos_emb(queries, queries[:, :0], *rotary)
    return queries


def _llama_keys_and_values(
    layer: Any, hidden: Tensor, rotary: Rotary | None
) -> tuple[Tensor, Tensor]:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    normed = layer.input_layernorm(hidden)
    keys = _llama_heads(layer, layer.self_attn.k_proj(normed))
    values = _llama_heads(layer, layer.self_attn.v_proj(normed))
    if rotary is not None:
        _, keys = apply_rotary_pos_emb(keys[:, :0], keys, *rotary)
    return keys, values


def _llama_heads(layer: Any, projected: Tensor) -> Tensor:
    return projected.unflatten(-1, (-1, layer.self_attn.head_dim)).transpose(1, 2)


def _llama_finish(layer: Any, hidden: Tensor, attended: Tensor) -> Tensor:
    hidden = hidden + layer.self_attn.o_proj(attended.flatten(2))
    finished: Tensor = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return finished


def _gpt2_queries(layer: Any, hidden: Tensor, rotary: Rotary | None) -> Tensor:
    return _gpt2_projected(layer, hidden)[0]


def _gpt2_keys_and_values(
    layer: Any, hidden: Tensor, rotary: Rotary | None
) -> tuple[Tensor, Tensor]:
    _, keys, values = _gpt2_projected(layer, hidden)
    return keys, values


def _gpt2_projected(layer: Any, hidden: Tensor) -> list[Tensor]:
    """Queries, keys and values, which GPT-2 projects in one product."""
    projected = layer.attn.c_attn(layer.ln_1(hidden))
    heads = projected.unflatten(-1, (-1, layer.attn.head_dim)).transpose(1, 2)
    return list(heads.chunk(3, dim=1))


def _gpt2_finish(layer: Any, hidden: Tensor, attended: Tensor) -> Tensor:
    hidden = hidden + layer.attn.c_proj(attended.flatten(2))
    finished: Tensor = hidden + layer.mlp(layer.ln_2(hidden))
    return finished


_LLAMA = Architecture(
    "model",
    "embed_tokens",
    "layers",
    "norm",
    "self_attn.o_proj",
    "mlp",
    rotary="rotary_emb",
    split=Split("self_attn", _llama_queries, _llama_keys_and_values, _llama_finish),
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
        "attn.c_proj",
        "mlp",
        positions="wpe",
        split=Split("attn", _gpt2_queries, _gpt2_keys_and_values, _gpt2_finish),
    ),
    "gpt_neox": Architecture(
        "gpt_neox",
        "embed_in",
        "layers",
        "final_layer_norm",
        "attention.dense",
        "mlp",
        rotary="rotary_emb",
        cache_argument="layer_past",
    ),
}
"""By ``config.model_type``. A new row is checked by the tests against the model's own forward."""
