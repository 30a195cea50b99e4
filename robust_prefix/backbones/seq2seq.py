"""A frozen encoder-decoder with prefixes in all of its attentions: ``[prefix; x; prefix'; y]``.

Layers are numbered encoder first, then decoder. A prefix has one row for each layer's
self-attention and, behind these, one for each decoder layer's cross-attention (Li & Liang, ACL
2021, section 4.2, whose published code has all three). The answer position is the last token of
the text in the encoder, and in the decoder its first step, at which the label words are scored.

States are ``(batch, tokens, hidden)`` in the encoder. Where the decoder begins, its one state takes
the answer position's place and the encoder's state there moves behind the others: ``(batch,
tokens + 1, hidden)``. So whatever reads or changes the state at the answer position needs not know
which half it is in.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robust_prefix.backbones.base import Backbone, LayerPrefixes, TokenBatch
from robust_prefix.backbones.caches import InTurn
from robust_prefix.backbones.encoder import padding_mask, require_all_seen
from robust_prefix.errors import ConfigError


class Seq2SeqBackbone(Backbone):
    """An encoder-decoder with frozen weights.

    Args:
        model: a ``transformers`` encoder-decoder with a language-model head.
        tokenizer: its fast tokenizer.
        name: what the user called it.
        encoder: the encoder's layers.
        decoder: the decoder's layers.
        encoder_norm: what the encoder's states pass before the decoder reads them.
    """

    parts = ("encoder", "decoder", "cross")

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str,
        encoder: Sequence[nn.Module],
        decoder: Sequence[nn.Module],
        encoder_norm: nn.Module,
    ) -> None:
        super().__init__(model, tokenizer, name)
        self.encoder_layers = len(encoder)
        self.decoder_layers = len(decoder)
        self.num_layers = len(encoder) + len(decoder)
        self.prefix_rows = self.num_layers + self.decoder_layers
        self.padding = model.config.pad_token_id
        self.after = (model.config.eos_token_id,)
        self.layers = [*encoder, *decoder]
        self._modules_run = [*self.layers, encoder_norm]

    def row(self, row: int) -> tuple[int, str]:
        """See ``Backbone``."""
        if row >= self.num_layers:
            return row - self.decoder_layers, "cross"
        return row, "encoder" if row < self.encoder_layers else "decoder"

    def sublayers(self, layer: int) -> dict[str, nn.Module]:
        """See ``Backbone``."""
        paths = self._sublayer_paths(layer >= self.encoder_layers)
        return {name: self.layers[layer].get_submodule(path) for name, path in paths.items()}

    @property
    def embedding_layer(self) -> nn.Embedding:
        """See ``Backbone``."""
        found: nn.Embedding = self.model.get_input_embeddings()
        return found

    def run_layers(
        self,
        hidden: Tensor,
        start: int,
        stop: int,
        batch: TokenBatch,
        prefixes: LayerPrefixes,
        seen: Tensor | None = None,
    ) -> Tensor:
        """See ``Backbone``."""
        require_all_seen(seen)
        for index in range(start, stop):
            if index < self.encoder_layers:
                hidden = self._encode(index, hidden, batch.real, InTurn(prefixes[index]))
            else:
                if index == self.encoder_layers:
                    hidden = self._begin_decoder(hidden, batch, prefixes[index].shape[-2])
                hidden = self._decode(index, hidden, batch, prefixes)
        self.passes.forward += len(hidden) * (stop - start) / self.num_layers
        return hidden

    def run_layer_at_answer(
        self,
        hidden: Tensor,
        layer: int,
        batch: TokenBatch,
        prefixes: LayerPrefixes,
        seen: Tensor | None = None,
    ) -> Tensor:
        """See ``Backbone``. The decoder runs the answer position alone in every layer."""
        return batch.at_answer(self.run_layers(hidden, layer, layer + 1, batch, prefixes, seen))

    def _begin_decoder(self, hidden: Tensor, batch: TokenBatch, past: int) -> Tensor:
        """What the first decoder layer gets from what the last encoder layer gives."""
        norm = self._module(self.num_layers, hidden.dtype)
        states: Tensor = norm(hidden)
        rows = torch.arange(len(states), device=states.device)
        first = self._first_state(past).to(states.dtype).expand(len(states), -1)
        displaced = batch.at_answer(states)[:, None]
        return torch.cat([states.index_put((rows, batch.answer), first), displaced], dim=1)

    def _decode(
        self, index: int, hidden: Tensor, batch: TokenBatch, prefixes: LayerPrefixes
    ) -> Tensor:
        """One decoder layer: only the state at the answer position changes."""
        own, cross = prefixes[index], prefixes[index + self.decoder_layers]
        rows = torch.arange(len(hidden), device=hidden.device)
        # The text's states, without the decoder's among them and with the one it displaced.
        memory = batch.real.index_put((rows, batch.answer), rows < 0)
        memory = torch.cat([memory, torch.ones_like(memory[:, :1])], dim=1)
        mask = padding_mask(hidden, memory, cross.shape[-2])
        state = self._decoder_layer(
            self._module(index, hidden.dtype),
            batch.at_answer(hidden)[:, None],
            hidden,
            mask,
            own.shape[-2],
            InTurn(own, cross),
        )
        return hidden.index_put((rows, batch.answer), state[:, 0])

    def _encode(self, index: int, hidden: Tensor, real: Tensor, cache: InTurn) -> Tensor:
        mask = padding_mask(hidden, real, cache.length)
        return self._encoder_layer(self._module(index, hidden.dtype), hidden, mask, cache)

    def _module(self, index: int, dtype: torch.dtype) -> Any:
        return self._in_float32(self._modules_run, index, dtype)

    @torch.no_grad()
    def token_keys_and_values(self, tokens: Sequence[int]) -> Tensor:
        """See ``Backbone``. The decoder's are those of the same tokens said by it."""
        batch = self.pad([tokens])
        hidden = self.embed(batch, 0)
        found: list[tuple[Tensor, Tensor]] = []
        nothing = torch.zeros(self.prefix_shape(0)[1:], dtype=self.dtype, device=self.device)
        for index in range(self.encoder_layers):
            cache = InTurn(nothing)
            hidden = self._encode(index, hidden, batch.real, cache)
            found += cache.given
        said = self.model(input_ids=batch.ids, decoder_input_ids=batch.ids, use_cache=True)
        kept = said.past_key_values
        for stored in (kept.self_attention_cache, kept.cross_attention_cache):
            found += [(layer.keys, layer.values) for layer in stored.layers]
        return torch.stack([torch.stack(pair)[:, 0] for pair in found]).float()

    @abstractmethod
    def _sublayer_paths(self, decoder: bool) -> dict[str, str]:
        """Where each of ``sublayers`` is inside a layer of the encoder or the decoder."""

    @abstractmethod
    def _first_state(self, past: int) -> Tensor:
        """What the decoder begins with behind a prefix, ``(1, hidden)``."""

    @abstractmethod
    def _encoder_layer(self, layer: Any, hidden: Tensor, mask: Tensor, cache: InTurn) -> Tensor:
        """States after an encoder layer."""

    @abstractmethod
    def _decoder_layer(
        self, layer: Any, state: Tensor, memory: Tensor, mask: Tensor, past: int, cache: InTurn
    ) -> Tensor:
        """The state ``(batch, 1, hidden)`` after a decoder layer.

        Args:
            memory: what the cross-attention reads ``(batch, tokens + 1, hidden)``.
            mask: of the cross-attention, with its prefix.
            past: length of the self-attention's prefix.
        """


class T5Backbone(Seq2SeqBackbone):
    """T5 (Raffel et al., JMLR 2020). A prefix stands right before the text in its distances."""

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        encoder, decoder = model.encoder, model.decoder
        super().__init__(
            model, tokenizer, name, encoder.block, decoder.block, encoder.final_layer_norm
        )

    def _with_positions(self, embedded: Tensor, past: int | Tensor) -> Tensor:
        """See ``Backbone``. Distances count in the layers, and no positions."""
        return embedded

    def _sublayer_paths(self, decoder: bool) -> dict[str, str]:
        attention = {"attention": "layer.0.SelfAttention"}
        if decoder:
            attention["cross-attention"] = "layer.1.EncDecAttention"
        return {**attention, "feed-forward": f"layer.{len(attention)}.DenseReluDense"}

    def _first_state(self, past: int) -> Tensor:
        return self.embeddings[self.model.config.decoder_start_token_id][None]

    def _bias(self, stack: Any, queries: int, past: int, dtype: torch.dtype) -> Tensor:
        """What a query's distance to each key adds to its score, ``(1, heads, queries, keys)``."""
        attention = stack.block[0].layer[0].SelfAttention
        places = torch.arange(past, past + queries, device=self.device)
        bias: Tensor = attention.compute_bias(queries, past + queries, cache_position=places)
        return bias.to(dtype)

    def _encoder_layer(self, layer: Any, hidden: Tensor, mask: Tensor, cache: InTurn) -> Tensor:
        bias = self._bias(self.model.encoder, hidden.shape[1], cache.length, hidden.dtype)
        found: Tensor = layer(hidden, position_bias=bias + mask, past_key_values=cache)[0]
        return found

    def _decoder_layer(
        self, layer: Any, state: Tensor, memory: Tensor, mask: Tensor, past: int, cache: InTurn
    ) -> Tensor:
        found: Tensor = layer(
            state,
            position_bias=self._bias(self.model.decoder, 1, past, state.dtype),
            encoder_hidden_states=memory,
            encoder_decoder_position_bias=mask,
            past_key_values=cache,
            cache_position=torch.tensor([past], device=self.device),
        )[0]
        return found

    def normed(self, hidden: Tensor) -> Tensor:
        """See ``Backbone``."""
        normed: Tensor = self.model.decoder.final_layer_norm(hidden)
        return normed

    def next_token_logits(self, hidden: Tensor, words: Tensor | None = None) -> Tensor:
        """See ``Backbone``."""
        normed = self.normed(hidden).float()
        if self.model.config.tie_word_embeddings:
            normed = normed * self.hidden_size**-0.5
        weight = self.model.lm_head.weight
        return normed @ (weight if words is None else weight[words]).float().T


class BartBackbone(Seq2SeqBackbone):
    """BART (Lewis et al., ACL 2020). The text's positions in the encoder are counted from 0,
    whatever stands before it; the decoder's follow its prefix.

    Raises:
        ConfigError: encoder and decoder differ in their heads.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        config = model.config
        if config.encoder_attention_heads != config.decoder_attention_heads:
            raise ConfigError(
                f"expected as many heads in the encoder as in the decoder, got {name!r} with "
                f"{config.encoder_attention_heads} and {config.decoder_attention_heads}"
            )
        if getattr(config, "scale_embedding", False):
            raise ConfigError(
                f"expected a model with scale_embedding=False, got {name!r}, which multiplies its "
                "embeddings: soft tokens among real ones would be another size"
            )
        self._encoder, self._decoder = model.get_encoder(), model.get_decoder()
        layers = self._encoder.layers, self._decoder.layers
        super().__init__(model, tokenizer, name, *layers, nn.Identity())
        self.before = (config.bos_token_id,)

    def _with_positions(self, embedded: Tensor, past: int | Tensor) -> Tensor:
        """See ``Backbone``. Normed; the encoder's text stands at its own positions, from 0."""
        hidden: Tensor = self._encoder.layernorm_embedding(
            embedded + self._encoder.embed_positions(embedded[..., 0])
        )
        return hidden

    def _sublayer_paths(self, decoder: bool) -> dict[str, str]:
        cross = {"cross-attention": "encoder_attn"} if decoder else {}
        return {"attention": "self_attn", **cross, "feed-forward": "fc2"}

    def _first_state(self, past: int) -> Tensor:
        start = torch.tensor([[self.model.config.decoder_start_token_id]], device=self.device)
        positions = self._decoder.embed_positions(start, past)
        embedded = self._decoder.embed_tokens(start) + positions
        state: Tensor = self._decoder.layernorm_embedding(embedded)
        return state[0]

    def _encoder_layer(self, layer: Any, hidden: Tensor, mask: Tensor, cache: InTurn) -> Tensor:
        # The layer as it is in transformers, which passes no cache on to an encoder's attention.
        attended, _ = layer.self_attn(hidden, past_key_values=cache, attention_mask=mask)
        hidden = layer.self_attn_layer_norm(hidden + attended)
        wide = layer.activation_fn(layer.fc1(hidden))
        found: Tensor = layer.final_layer_norm(hidden + layer.fc2(wide))
        return found

    def _decoder_layer(
        self, layer: Any, state: Tensor, memory: Tensor, mask: Tensor, past: int, cache: InTurn
    ) -> Tensor:
        found: Tensor = layer(
            state,
            encoder_hidden_states=memory,
            encoder_attention_mask=mask,
            past_key_values=cache,
        )[0]
        return found

    def normed(self, hidden: Tensor) -> Tensor:
        """See ``Backbone``. Each layer ends in its norm."""
        return hidden

    def next_token_logits(self, hidden: Tensor, words: Tensor | None = None) -> Tensor:
        """See ``Backbone``."""
        weight, bias = self.model.lm_head.weight, self.model.final_logits_bias[0]
        if words is not None:
            weight, bias = weight[words], bias[words]
        return hidden.float() @ weight.float().T + bias.float()


SEQ2SEQ: dict[str, type[T5Backbone] | type[BartBackbone]] = {"t5": T5Backbone, "bart": BartBackbone}
"""By ``config.model_type``. A new row is checked by the tests against the model's own forward."""
