"""A frozen causal language model that can be run layer by layer with a prefix in each layer.

The loop over the layers is ours and the layers are ``transformers``' own. That is what lets a
defence run only the layers its loss reads and continue from their states.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any, Self

import torch
from torch import Tensor, nn

from robust_prefix.backbones.adapted import Adapters
from robust_prefix.backbones.architectures import ARCHITECTURES
from robust_prefix.backbones.attention import attend, own_attention
from robust_prefix.backbones.base import Backbone, LayerPrefixes, TokenBatch
from robust_prefix.backbones.caches import PrefixCache, Recorded, stacked
from robust_prefix.backbones.packing import PackedCache, Packing
from robust_prefix.backbones.places import Places, causal_mask
from robust_prefix.errors import ConfigError

_SCALES = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}  # GPT-2's


class CausalBackbone(Backbone):
    """A decoder with frozen weights. Causal attention needs no mask for padding at the end.

    Args:
        model: a ``transformers`` causal language model of a known architecture.
        tokenizer: its fast tokenizer.
        name: what the user called it.

    Raises:
        ConfigError: the architecture is not in the table.
    """

    causal = True

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        kind = model.config.model_type
        if kind not in ARCHITECTURES:
            raise ConfigError(
                f"expected a causal model of {', '.join(ARCHITECTURES)}, got {kind!r} for "
                f"{name!r}; "
                "add a row to robust_prefix/backbones/architectures.py"
            )
        window = getattr(model.config, "sliding_window", None)
        if window is not None and getattr(model.config, "use_sliding_window", True):
            raise ConfigError(
                f"expected a model that attends to the whole text, got {name!r} with a sliding "
                f"window of {window} tokens"
            )
        for setting, usual in _SCALES.items():  # transformers' fast attention passes over them, too
            if getattr(model.config, setting, usual) != usual:
                raise ConfigError(
                    f"expected a model with {setting}={usual}, got {name!r} with "
                    f"{getattr(model.config, setting)}; its attention is scaled in a way of its own"
                )
        super().__init__(model, tokenizer, name)
        self._recorded: Recorded | None = None
        self.architecture = ARCHITECTURES[kind]
        self._decoder: nn.Module = getattr(model, self.architecture.decoder)
        self.layers = getattr(self._decoder, self.architecture.layers)
        # The tuning asks for the same places in every step.
        self._same_for_all = lru_cache(maxsize=32)(self._new_places)

    def adapted(self, weights: Mapping[str, Tensor], adapters: Adapters | None) -> Self:
        """See ``Backbone``."""
        view = super().adapted(weights, adapters)
        # No place depends on what was changed; and a cache of its own, which knows the view, would
        # keep the view, and a step of training with it, until the next collection of garbage.
        view._same_for_all = self.frozen._same_for_all
        return view

    def sublayers(self, layer: int) -> dict[str, nn.Module]:
        """See ``Backbone``."""
        names = self.architecture.sublayers
        return {name: self.layers[layer].get_submodule(path) for name, path in names.items()}

    @property
    def embedding_layer(self) -> nn.Embedding:
        """See ``Backbone``."""
        found: nn.Embedding = getattr(self._decoder, self.architecture.embedding)
        return found

    def _with_positions(self, embedded: Tensor, past: int | Tensor) -> Tensor:
        """See ``Backbone``. With learned positions, where there are such."""
        if self.architecture.positions is None:
            return embedded
        table = getattr(self._decoder, self.architecture.positions)
        return embedded + table(self._positions(embedded.shape[1], past))

    def run_layers(
        self,
        hidden: Tensor,
        start: int,
        stop: int,
        batch: TokenBatch,
        prefixes: LayerPrefixes,
        seen: Tensor | None = None,
    ) -> Tensor:
        """See ``Backbone``. Texts of different lengths go through the layers packed."""
        if start == stop:
            return hidden
        packing = Packing.of(batch)
        if packing is None:
            return self._run(hidden, start, stop, PrefixCache(prefixes, self._recorded), seen)
        cache = PackedCache(prefixes, packing, self._recorded)
        packed = packing.pack(hidden)
        return packing.pad(self._run(packed, start, stop, cache, seen, packing))

    def run_layer_at_answer(
        self,
        hidden: Tensor,
        layer: int,
        batch: TokenBatch,
        prefixes: LayerPrefixes,
        seen: Tensor | None = None,
    ) -> Tensor:
        """Run one layer where only its state at the answer position is read.

        The other positions give their keys and values alone: of a SmolLM2 layer one part in
        sixteen. An architecture whose keys and values are not known runs the layer whole.

        Args:
            hidden, batch, prefixes, seen: as in :meth:`run_layers`.

        Returns:
            States at the answer position after the layer, ``(batch, hidden)``.
        """
        split = self.architecture.split
        if split is None:
            return batch.at_answer(self.run_layers(hidden, layer, layer + 1, batch, prefixes, seen))
        module = self._layer(layer, hidden.dtype)
        past = prefixes[layer].shape[-2]
        places = self._places(hidden.shape[1], hidden.dtype, past, seen)
        answer = places.at(batch.answer)
        state = batch.at_answer(hidden)[:, None]
        queries = split.queries(module, state, answer.rotary)
        text = split.keys_and_values(module, hidden, places.rotary)
        keys, values = PrefixCache(prefixes, self._recorded).update(*text, layer)
        attention = getattr(module, split.attention)
        attended = attend(attention, queries, keys, values, answer.mask, _scaling(attention))
        self.passes.forward += len(hidden) / self.num_layers
        return split.finish(module, state, attended)[:, 0]

    def layer_behind(
        self, hidden: Tensor, layer: int, batch: TokenBatch
    ) -> Callable[[LayerPrefixes], Tensor]:
        """See ``Backbone``. Queries, keys and values of the text are projected once."""
        split = self.architecture.split
        if split is None:
            return super().layer_behind(hidden, layer, batch)
        module = self._layer(layer, hidden.dtype)
        attention = getattr(module, split.attention)
        packing = Packing.of(batch)
        states = hidden if packing is None else packing.pack(hidden)

        @cache
        def projected(past: int) -> tuple[Tensor, Tensor, Tensor]:
            places = self._places(hidden.shape[1], hidden.dtype, past)
            rotary = (places if packing is None else places.packed(packing)).rotary
            queries = split.queries(module, states, rotary)
            keys, values = split.keys_and_values(module, states, rotary)
            if packing is None:
                return queries, keys, values
            pad = packing.pad_heads
            return pad(queries), pad(keys), pad(values)

        def run(prefixes: LayerPrefixes) -> Tensor:
            past = prefixes[layer].shape[-2]
            queries, keys, values = projected(past)
            keys, values = PrefixCache(prefixes).update(keys, values, layer)
            mask = self._places(hidden.shape[1], hidden.dtype, past).mask
            attended = attend(attention, queries, keys, values, mask, _scaling(attention))
            self.passes.forward += len(hidden) / self.num_layers
            if packing is None:
                return split.finish(module, states, attended)
            return packing.pad(split.finish(module, states, packing.pack(attended)))

        return run

    def _run(
        self,
        hidden: Tensor,
        start: int,
        stop: int,
        before: PrefixCache,
        seen: Tensor | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        rows, tokens = hidden.shape[:2] if packing is None else packing.shape
        past = -1
        for index in range(start, stop):
            length = before.prefixes[index].shape[-2]
            if length != past:  # a layer may have no prefix, and then sees the text alone
                past = length
                places = self._places(tokens, hidden.dtype, past, seen)
                arguments = self._arguments(places, before, packing)
            layer = self._layer(index, hidden.dtype)
            with own_attention(self.model.config):
                output = layer(hidden, **arguments)
            hidden = output[0] if isinstance(output, tuple) else output
        self.passes.forward += rows * (stop - start) / self.num_layers
        return hidden

    def _arguments(
        self, places: Places, before: PrefixCache, packing: Packing | None
    ) -> dict[str, Any]:
        """What ``transformers`` passes to each layer, and what the own attention takes beside."""
        if packing is not None:
            places = places.packed(packing)
        arguments: dict[str, Any] = {
            "attention_mask": places.mask,
            "cache_position": places.positions[0],
            "use_cache": True,
            self.architecture.cache_argument: before,
        }
        if places.rotary is not None:
            arguments |= {
                "position_embeddings": places.rotary,
                "position_ids": places.positions,
            }
        return arguments if packing is None else {**arguments, "packing": packing}

    def _positions(self, tokens: int, past: int | Tensor) -> Tensor:
        """Positions of the text: ``(1 or batch, tokens)``."""
        places = torch.arange(tokens, device=self.device)[None]
        places = places + (past if isinstance(past, int) else past.to(self.device)[:, None])
        return places.clamp(max=self.max_positions - 1)  # beyond it is padding alone

    def _places(
        self, tokens: int, dtype: torch.dtype, past: int, seen: Tensor | None = None
    ) -> Places:
        if seen is None:
            return self._same_for_all(tokens, dtype, past)
        return self._new_places(tokens, dtype, past, seen)

    def _new_places(
        self, tokens: int, dtype: torch.dtype, past: int, seen: Tensor | None = None
    ) -> Places:
        with torch.inference_mode(False):  # they are kept, and gradients may pass them later
            positions = self._positions(tokens, past if seen is None else seen)
            mask = causal_mask(tokens, past, dtype, self.device, seen)
            if self.architecture.rotary is None:
                return Places(positions, mask, None)
            embedding = getattr(self._decoder, self.architecture.rotary)
            # The states say nothing but the type that is wanted.
            return Places(positions, mask, embedding(mask, positions))

    def _layer(self, index: int, dtype: torch.dtype) -> nn.Module:
        return self._in_float32(self.layers, index, dtype)

    @contextmanager
    def recording(self) -> Iterator[Recorded]:
        """While inside, what each layer's attention stores for the texts it runs is kept."""
        self._recorded = {}
        try:
            yield self._recorded
        finally:
            self._recorded = None

    def record(self, hidden: Tensor, prefixes: LayerPrefixes) -> Tensor:
        """What each layer's attention stores for a text behind a prefix.

        Args:
            hidden: states before the first layer ``(batch, tokens, hidden)``.

        Returns:
            ``(layers, batch, 2, kv_heads, tokens, head_dim)``; gradients flow through it.
        """
        recorded: Recorded = {}
        self._run(hidden, 0, self.num_layers, PrefixCache(prefixes, recorded))
        return stacked(recorded)

    def token_keys_and_values(self, tokens: Sequence[int]) -> Tensor:
        """See ``Backbone``."""
        with torch.no_grad():
            return self.compile(self.embeddings[list(tokens)]).float()

    def compile(self, embedded: Tensor) -> Tensor:
        """What each layer's attention stores for the embeddings of virtual tokens.

        On a causal decoder these keys and values before a text are the very same as the virtual
        tokens before it, as no text before them can change what the layers make of them.

        Args:
            embedded: ``(tokens, hidden)``, without positions; gradients flow to them.

        Returns:
            ``(layers, 2, kv_heads, tokens, head_dim)`` in the model's type, positions from 0.

        Raises:
            ConfigError: they leave no position for a text.
        """
        if len(embedded) >= self.max_positions:
            raise ConfigError(
                f"expected fewer virtual tokens than the {self.max_positions} positions of "
                f"{self.name}, got {len(embedded)}; lower the length"
            )
        nothing = torch.zeros(self.prefix_shape(0), dtype=self.dtype, device=self.device)
        if not len(embedded):
            return nothing
        hidden = self._with_positions(embedded.to(self.device, self.dtype)[None], 0)
        return self.record(hidden, nothing)[:, 0]

    def normed(self, hidden: Tensor) -> Tensor:
        """See ``Backbone``."""
        normed: Tensor = getattr(self._decoder, self.architecture.norm)(hidden)
        return normed

    def next_token_logits(self, hidden: Tensor, words: Tensor | None = None) -> Tensor:
        """Next-token logits from states after the last layer.

        Args:
            hidden: states at the answer position, ``(batch, hidden)``.
            words: token ids ``(classes,)`` to score; the whole vocabulary where not given.

        Returns:
            float32 ``(batch, classes)`` or ``(batch, vocabulary)``.
        """
        head = self.model.get_output_embeddings()
        normed = self.normed(hidden)
        if words is None:
            return head(normed).float()
        logits = normed.float() @ head.weight[words].float().T
        if getattr(head, "bias", None) is not None:
            logits = logits + head.bias[words].float()
        return logits

    @torch.no_grad()
    def log_likelihood(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """How well the model, without any prefix, predicts each text that stands alone.

        Computed in float32 whatever the model's own type, one text at a time, so that a text's
        value does not depend on its company. The tokenizer's BOS goes before the text where there
        is one; without it nothing predicts the first token. Of a text longer than the model's
        positions the beginning is read.

        Returns:
            For each text the sum of the log-probabilities of its predicted tokens, in nats, and
            how many these are: ``(0.0, 0)`` where there is nothing to predict.
        """
        return [self._log_likelihood(ids) for ids in self.tokenize(texts)]

    def _log_likelihood(self, ids: list[int]) -> tuple[float, int]:
        bos = self.tokenizer.bos_token_id
        ids = ([] if bos is None else [bos]) + ids
        ids = ids[: self.max_positions]
        if len(ids) < 2:
            return 0.0, 0
        batch = self.pad([ids])
        nothing = torch.zeros(self.prefix_shape(0), device=self.device)
        hidden = self.run_layers(self.embed(batch, 0).float(), 0, self.num_layers, batch, nothing)
        norm = copy.deepcopy(getattr(self._decoder, self.architecture.norm)).float()
        head = self.model.get_output_embeddings()
        logits = norm(hidden[0, :-1]) @ head.weight.float().T  # (tokens - 1, vocabulary)
        if getattr(head, "bias", None) is not None:
            logits = logits + head.bias.float()
        following = batch.ids[0, 1:, None]
        chosen = logits.gather(1, following)[:, 0] - logits.logsumexp(1)
        return float(chosen.double().sum()), len(ids) - 1


def _scaling(attention: Any) -> float | None:
    """Of the attention's scores, where it is not the usual one."""
    return getattr(attention, "scaling", None)
