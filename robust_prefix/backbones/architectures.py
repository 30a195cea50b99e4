"""Where a decoder keeps its parts: one row an architecture."""

from __future__ import annotations

from dataclasses import dataclass


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
    """

    decoder: str
    embedding: str
    layers: str
    norm: str
    rotary: str | None = None
    positions: str | None = None
    cache_argument: str = "past_key_values"


_LLAMA = Architecture("model", "embed_tokens", "layers", "norm", rotary="rotary_emb")

ARCHITECTURES: dict[str, Architecture] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "gpt2": Architecture("transformer", "wte", "h", "ln_f", positions="wpe"),
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
