"""A frozen encoder, in which every token reads the whole text, with a prefix in each layer.

The layers are ``transformers``' own: what they take as a cache, meant for decoders of the same
build, puts keys and values before those of the text whether or not attention looks ahead
(P-tuning v2, Liu et al., ACL 2022). The text's positions follow those of the prefix, as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robust_prefix.backbones.base import Backbone, LayerPrefixes, TokenBatch
from robust_prefix.backbones.caches import GivenCache, PrefixCache, Recorded, stacked
from robust_prefix.errors import ConfigError


@dataclass(frozen=True)
class EncoderArchitecture:
    """What differs between encoders of BERT's build.

    Attributes:
        word_head: the model's part that predicts a masked word, in a checkpoint that has one.
        offset: whether positions are counted from the padding's id on, as fairseq does.
    """

    word_head: str
    offset: bool = False


_ROBERTA = EncoderArchitecture("lm_head", offset=True)

ENCODERS: dict[str, EncoderArchitecture] = {
    "bert": EncoderArchitecture("cls"),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
}
"""By ``config.model_type``. A new row is checked by the tests against the model's own forward."""


class EncoderBackbone(Backbone):
    """An encoder with frozen weights.

    The answer position is the ``{mask}`` of the template, else the first token, ``[CLS]``.

    Args:
        model: a ``transformers`` encoder of a known architecture, with the head that predicts
            masked words or without.
        tokenizer: its fast tokenizer.
        name: what the user called it.

    Raises:
        ConfigError: the architecture is not in the table, or the model is none of its kind.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        config = model.config
        if config.model_type not in ENCODERS:
            raise ConfigError(
                f"expected an encoder of {', '.join(ENCODERS)}, got {config.model_type!r} for "
                f"{name!r}; add a row to robust_prefix/backbones/encoder.py"
            )
        kind = getattr(config, "position_embedding_type", "absolute")
        if config.is_decoder or kind != "absolute":
            raise ConfigError(
                f"expected an encoder with absolute positions, got {name!r} with "
                f"{'is_decoder' if config.is_decoder else f'positions of type {kind!r}'}"
            )
        super().__init__(model, tokenizer, name)
        architecture = ENCODERS[config.model_type]
        self._encoder: Any = model.base_model
        self.layers = self._encoder.encoder.layer
        self._word_head: nn.Module | None = getattr(model, architecture.word_head, None)
        self.vocabulary = self._word_head is not None
        self.before = (tokenizer.cls_token_id,)
        self.after = (tokenizer.sep_token_id,)
        self.mask_token = tokenizer.mask_token_id
        self.padding = tokenizer.pad_token_id
        self._first_position = config.pad_token_id + 1 if architecture.offset else 0
        self.max_positions -= self._first_position

    def sublayers(self, layer: int) -> dict[str, nn.Module]:
        """See ``Backbone``. The projections back: what follows them adds and norms."""
        paths = {"attention": "attention.output.dense", "feed-forward": "output.dense"}
        return {name: self.layers[layer].get_submodule(path) for name, path in paths.items()}

    @property
    def embedding_layer(self) -> nn.Embedding:
        """See ``Backbone``."""
        found: nn.Embedding = self._encoder.get_input_embeddings()
        return found

    def answer_place(self, row: Sequence[int]) -> int:
        """See ``Backbone``. No text can spell the mask: it is split like any other word."""
        return row.index(self.mask_token) if self.mask_token in row else 0

    def _with_positions(self, embedded: Tensor, past: int | Tensor) -> Tensor:
        """See ``Backbone``. Normed."""
        places = torch.arange(embedded.shape[1], device=self.device)[None] + self._first_position
        places = places + (past if isinstance(past, int) else past.to(self.device)[:, None])
        hidden: Tensor = self._encoder.embeddings(inputs_embeds=embedded, position_ids=places)
        return hidden

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
        return self._run(hidden, start, stop, batch.real, PrefixCache(prefixes))

    def run_layer_at_answer(
        self,
        hidden: Tensor,
        layer: int,
        batch: TokenBatch,
        prefixes: LayerPrefixes,
        seen: Tensor | None = None,
    ) -> Tensor:
        """See ``Backbone``. The other positions give their keys and values alone."""
        require_all_seen(seen)
        module: Any = self._in_float32(self.layers, layer, hidden.dtype)
        attention = module.attention.self
        shape = (*hidden.shape[:2], self.kv_heads, self.head_dim)
        keys = attention.key(hidden).view(shape).transpose(1, 2)
        values = attention.value(hidden).view(shape).transpose(1, 2)
        given = GivenCache(*PrefixCache(prefixes).update(keys, values, layer))
        mask = padding_mask(hidden, batch.real, prefixes[layer].shape[-2])
        state = batch.at_answer(hidden)[:, None]
        self.passes.forward += len(hidden) / self.num_layers
        found: Tensor = module(state, attention_mask=mask, past_key_values=given)[0]
        return found[:, 0]

    def _run(
        self, hidden: Tensor, start: int, stop: int, real: Tensor, cache: PrefixCache
    ) -> Tensor:
        past = -1
        for index in range(start, stop):
            if cache.prefixes[index].shape[-2] != past:  # a layer may have no prefix
                past = cache.prefixes[index].shape[-2]
                mask = padding_mask(hidden, real, past)
            layer = self._in_float32(self.layers, index, hidden.dtype)
            hidden = layer(hidden, attention_mask=mask, past_key_values=cache)[0]
        self.passes.forward += len(hidden) * (stop - start) / self.num_layers
        return hidden

    @torch.no_grad()
    def token_keys_and_values(self, tokens: Sequence[int]) -> Tensor:
        """See ``Backbone``."""
        batch = self.pad([tokens])
        nothing = torch.zeros(self.prefix_shape(0), dtype=self.dtype, device=self.device)
        recorded: Recorded = {}
        cache = PrefixCache(nothing, recorded)
        self._run(self.embed(batch, 0), 0, self.num_layers, batch.real, cache)
        return stacked(recorded)[:, 0].float()

    def normed(self, hidden: Tensor) -> Tensor:
        """See ``Backbone``. Each layer ends in its norm."""
        return hidden

    def next_token_logits(self, hidden: Tensor, words: Tensor | None = None) -> Tensor:
        """See ``Backbone``.

        Raises:
            ConfigError: the checkpoint has no head that predicts words.
        """
        if self._word_head is None:
            raise ConfigError(
                f"expected a model that predicts masked words, got {self.name!r}, which does not; "
                "learn a classification head with p-tuning-v2"
            )
        logits: Tensor = self._word_head(hidden).float()
        return logits if words is None else logits[:, words]


def padding_mask(hidden: Tensor, real: Tensor, past: int) -> Tensor:
    """Added to the scores: every token reads the prefix and what is no padding,
    ``(batch, 1, 1, past + tokens)``."""
    mask = torch.zeros(len(real), past + real.shape[1], dtype=hidden.dtype, device=hidden.device)
    mask[:, past:].masked_fill_(~real, torch.finfo(hidden.dtype).min)
    return mask[:, None, None]


def require_all_seen(seen: Tensor | None) -> None:
    """Raise ConfigError where texts continue a part of what precedes them."""
    if seen is not None:
        raise ConfigError(
            "expected texts without a shared beginning on a model that reads both ways, got "
            "some with one; their states depend on what follows"
        )
