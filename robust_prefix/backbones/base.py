"""What every frozen backbone has: tokens, a fingerprint, a count of its work, and layers that can
be run a few at a time with a prefix in each."""

from __future__ import annotations

import copy
import hashlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from robust_prefix.backbones.adapted import Adapters, put_behind, put_weights, sharing_copy
from robust_prefix.backbones.tokens import TokenBatch, Tokens
from robust_prefix.errors import ConfigError, InputError

LayerPrefixes = Sequence[Tensor] | Tensor
"""Keys and values for each layer, indexed by layer: ``(2, kv_heads, prefix, head_dim)`` shared by
the batch, or ``(batch, 2, kv_heads, prefix, head_dim)``; ``prefix`` is 0 in a layer without any."""


@dataclass
class Passes:
    """Work done, in passes of one example through the whole model.

    Running 2 of 30 layers for 8 examples counts ``8 * 2 / 30``.
    """

    forward: float = 0.0
    backward: float = 0.0

    def reset(self) -> None:
        """Start from nothing again."""
        self.forward = self.backward = 0.0


class Backbone(Tokens, ABC):
    """A language model with frozen weights and its tokenizer.

    Args:
        model: a ``transformers`` model.
        tokenizer: its fast tokenizer.
        name: what the user called it.

    Attributes:
        causal: no token attends to what follows it. Only then are soft tokens before a text the
            same as the keys and values they leave, and a beginning of several texts run once.
        vocabulary: it has scores for words at the answer position.
        parts: names of the attentions that a prefix may be left out of; none where there is one
            alone.
        prefix_rows: how many attentions have a prefix: one a layer, where there is one alone.
        layers: the layers' modules.
        lock: held while the model runs for a classifier or a generator, for what a pass leaves on
            the model on its way is not for another thread; one with all views of a frozen model.
    """

    causal: ClassVar[bool] = False
    vocabulary: bool = True
    parts: ClassVar[tuple[str, ...]] = ()
    layers: Sequence[nn.Module]

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        super().__init__(tokenizer, name)
        self.model = model.eval().requires_grad_(False)
        self.passes = Passes()
        config = model.config
        self.num_layers: int = config.num_hidden_layers
        self.hidden_size: int = config.hidden_size
        self.kv_heads: int = (
            getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        )
        head_dim = getattr(config, "head_dim", None)
        self.head_dim: int = head_dim or config.hidden_size // config.num_attention_heads
        # Where distances count and not positions, T5, as long as it was trained for.
        longest = getattr(config, "n_positions", 512)
        self.max_positions: int = getattr(config, "max_position_embeddings", longest)
        self.prefix_rows = self.num_layers
        self._float32_layers: dict[int, nn.Module] = {}
        self._frozen: Self | None = None
        self.lock = threading.RLock()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        found = copy.copy(self)
        memo[id(self)] = found
        for name, value in vars(self).items():
            copied = threading.RLock() if name == "lock" else copy.deepcopy(value, memo)
            setattr(found, name, copied)
        return found

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The type the layers compute in."""
        return self.model.dtype

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the architecture and of a sample of every weight.

        The sample is taken in bfloat16, so that a model has one fingerprint whether it was loaded
        in float32 or in bfloat16.
        """
        digest = hashlib.sha256(self.model.config.model_type.encode())
        for name, weight in sorted(self.model.named_parameters()):
            digest.update(f"{name}{tuple(weight.shape)}".encode())
            flat = weight.detach().flatten()
            sample = flat[:: max(1, flat.numel() // 512)].to(torch.bfloat16).cpu()
            digest.update(sample.view(torch.int16).numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def frozen(self) -> Self:
        """The model as it was loaded, also where this is a view of it with changes."""
        return self if self._frozen is None else self._frozen

    def adapted(self, weights: Mapping[str, Tensor], adapters: Adapters | None) -> Self:
        """A view of the frozen model with changes, which shares all other weights with it.

        Views stand beside each other and beside the frozen model without a change to any of them.
        Work is counted together, and the fingerprint is that of the frozen model.

        Args:
            weights: what stands in the place of weights, by their names in the model, in its type.
            adapters: what goes behind sublayers.

        Returns:
            The frozen model itself where there is nothing to change.
        """
        frozen = self.frozen
        if not weights and adapters is None:
            return frozen
        view = type(frozen)(sharing_copy(frozen.model), frozen.tokenizer, frozen.name)
        view._frozen, view.passes, view.fingerprint = frozen, frozen.passes, frozen.fingerprint
        view.lock = frozen.lock
        put_weights(view.model, frozen.model, weights)
        if adapters is not None:
            for number, (layer, name) in enumerate(adapters.places):
                put_behind(view.sublayers(layer)[name], adapters.function(number))
        return view

    @abstractmethod
    def sublayers(self, layer: int) -> dict[str, nn.Module]:
        """What a layer adds to its states, by name: ``attention``, ``feed-forward`` and, where a
        decoder reads an encoder's states, ``cross-attention``; the first of what each module
        gives is ``(..., hidden)``, before it is added."""

    def row(self, row: int) -> tuple[int, str]:
        """The layer number of a row of a prefix, and the part of the model it belongs to."""
        return row, ""

    def prefix_shape(self, length: int) -> tuple[int, int, int, int, int]:
        """``(layers, 2, kv_heads, length, head_dim)`` of a prefix for this model."""
        return (self.prefix_rows, 2, self.kv_heads, length, self.head_dim)

    @property
    @abstractmethod
    def embedding_layer(self) -> nn.Embedding:
        """What looks up input embeddings."""

    @property
    def embeddings(self) -> Tensor:
        """The input embedding matrix ``(vocabulary, hidden)``; not to be written to."""
        return self.embedding_layer.weight.detach()

    def embed(
        self, batch: TokenBatch, past: int | Tensor, soft_tokens: Tensor | None = None
    ) -> Tensor:
        """States before the first layer, ``(batch, tokens, hidden)``.

        Args:
            past: positions before the text: those of the prefix; ``(batch,)`` where rows differ.
            soft_tokens: ``(tokens, hidden)``, what the ids after the vocabulary stand for.

        Raises:
            InputError: text and prefix together exceed the model's positions.
        """
        self._check_positions(past, batch)
        return self._with_positions(self._look_up(batch.ids, soft_tokens), past)

    def input_gradient(
        self,
        batch: TokenBatch,
        past: int | Tensor,
        gradient: Tensor,
        soft_tokens: Tensor | None = None,
    ) -> Tensor:
        """The gradient at the input embeddings, which some families norm before the first layer.

        Args:
            batch, past, soft_tokens: as given to :meth:`embed`.
            gradient: at the states that it returned, ``(batch, tokens, hidden)``.
        """
        with torch.enable_grad():
            embedded = self._look_up(batch.ids, soft_tokens).detach().requires_grad_()
            states = self._with_positions(embedded, past)
            (found,) = torch.autograd.grad(states, embedded, gradient.to(states))
        return found

    @abstractmethod
    def _with_positions(self, embedded: Tensor, past: int | Tensor) -> Tensor:
        """Embeddings ``(batch, tokens, hidden)`` as the first layer takes them."""

    @abstractmethod
    def run_layers(
        self,
        hidden: Tensor,
        start: int,
        stop: int,
        batch: TokenBatch,
        prefixes: LayerPrefixes,
        seen: Tensor | None = None,
    ) -> Tensor:
        """Run layers ``start`` to ``stop - 1`` with their prefixes.

        Args:
            hidden: states before layer ``start``, ``(batch, tokens, hidden)``. Float32 states are
                computed on in float32 whatever the model's own type.
            batch: the prompts, for their answer positions and their padding.
            prefixes: keys and values by layer number; gradients flow to them. A layer may have
                none, of length 0.
            seen: how many of the prefix's positions each row sees ``(batch,)``, counted from the
                first; its text follows there. All where not given; on a ``causal`` model alone.

        Returns:
            States after layer ``stop - 1``, ``(batch, tokens, hidden)``; those of padding mean
            nothing.
        """

    @abstractmethod
    def run_layer_at_answer(
        self,
        hidden: Tensor,
        layer: int,
        batch: TokenBatch,
        prefixes: LayerPrefixes,
        seen: Tensor | None = None,
    ) -> Tensor:
        """Run one layer where only its state at the answer position is read.

        Args:
            hidden, batch, prefixes, seen: as in :meth:`run_layers`.

        Returns:
            States at the answer position after the layer, ``(batch, hidden)``.
        """

    def layer_behind(
        self, hidden: Tensor, layer: int, batch: TokenBatch
    ) -> Callable[[LayerPrefixes], Tensor]:
        """A layer whose states stay while the prefix before them changes.

        What a layer makes of its states before the prefix comes in need be done once.

        Args:
            hidden, batch: as in :meth:`run_layers`.

        Returns:
            From prefixes the states after layer ``layer``, ``(batch, tokens, hidden)``.
        """
        return lambda prefixes: self.run_layers(hidden, layer, layer + 1, batch, prefixes)

    def run_to_answer(
        self,
        hidden: Tensor,
        start: int,
        batch: TokenBatch,
        prefixes: LayerPrefixes,
        seen: Tensor | None = None,
    ) -> Tensor:
        """Run layers ``start`` to the last, that one for the answer position alone.

        Args:
            hidden, batch, prefixes, seen: as in :meth:`run_layers`.

        Returns:
            States at the answer position after the last layer, ``(batch, hidden)``.
        """
        last = self.num_layers - 1
        hidden = self.run_layers(hidden, start, last, batch, prefixes, seen)
        return self.run_layer_at_answer(hidden, last, batch, prefixes, seen)

    @abstractmethod
    def normed(self, hidden: Tensor) -> Tensor:
        """What the model's head reads of states after the last layer: the same shape."""

    @abstractmethod
    def next_token_logits(self, hidden: Tensor, words: Tensor | None = None) -> Tensor:
        """Scores of words at the answer position, from states after the last layer.

        Args:
            hidden: states at the answer position, ``(batch, hidden)``.
            words: token ids ``(classes,)`` to score; the whole vocabulary where not given.

        Returns:
            float32 ``(batch, classes)`` or ``(batch, vocabulary)``.
        """

    def compile(self, embedded: Tensor) -> Tensor:
        """Keys and values that are the same as virtual tokens before a text; see the decoder's.

        Raises:
            ConfigError: the model is not ``causal``.
        """
        raise ConfigError(
            f"expected a decoder for virtual tokens that are learned as embeddings, got "
            f"{self.name!r}, whose virtual tokens would read the text; use prefix-tuning or "
            "p-tuning-v2"
        )

    def keys_and_values(self, text: str) -> Tensor:
        """What each layer's attention stores for ``text``.

        Returns:
            float32 ``(layers, 2, kv_heads, tokens, head_dim)``, positions counted from 0.
        """
        [ids] = self.tokenize([text])
        return self.token_keys_and_values(ids)

    @abstractmethod
    def token_keys_and_values(self, tokens: Sequence[int]) -> Tensor:
        """What each layer's attention stores for ``tokens`` alone; see :meth:`keys_and_values`."""

    def _check_positions(self, past: int | Tensor, batch: TokenBatch) -> None:
        lengths = batch.answer + 1 if batch.lengths is None else batch.lengths
        before = torch.as_tensor(past, device=lengths.device).expand(lengths.shape)
        longest = int((before + lengths).argmax())
        if before[longest] + lengths[longest] > self.max_positions:
            raise InputError(
                f"expected at most {self.max_positions} positions for {self.name}, got a prefix of "
                f"{int(before[longest])} and a text of {int(lengths[longest])}; lower the task's "
                "max_tokens"
            )

    def _look_up(self, ids: Tensor, soft_tokens: Tensor | None) -> Tensor:
        """Embeddings of token ids, ``(batch, tokens, hidden)``; see :meth:`embed`."""
        if soft_tokens is None:
            hidden: Tensor = self.embedding_layer(ids)
            return hidden
        number = ids - len(self.embeddings)  # of the soft token
        hidden = self.embedding_layer(ids.masked_fill(number >= 0, 0))
        soft = soft_tokens.to(hidden.dtype)[number.clamp_min(0)]
        return torch.where(number[..., None] >= 0, soft, hidden)

    def _in_float32(self, layers: Sequence[Any], index: int, dtype: torch.dtype) -> nn.Module:
        """A layer, or its float32 copy, made once, where float32 states meet a shorter type."""
        layer: nn.Module = layers[index]
        if dtype != torch.float32 or self.dtype == torch.float32:
            return layer
        if index not in self._float32_layers:
            # It shares the model's settings, so that a change of these reaches it, too.
            shared = {id(self.model.config): self.model.config}
            self._float32_layers[index] = copy.deepcopy(layer, shared).float()
        return self._float32_layers[index]
