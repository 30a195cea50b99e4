"""A frozen causal language model that can be run layer by layer with a prefix in each layer.

The loop over the layers is ours and the layers are ``transformers``' own. That is what lets a
defence run only the layers its loss reads and continue from their states.
"""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from robust_prefix.backbones.architectures import ARCHITECTURES
from robust_prefix.errors import ConfigError, InputError

LayerPrefixes = Sequence[Tensor] | Tensor
"""Keys and values for each layer, indexed by layer: ``(2, kv_heads, prefix, head_dim)`` shared by
the batch, or ``(batch, 2, kv_heads, prefix, head_dim)``."""


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


@dataclass(frozen=True)
class TokenBatch:
    """Right-padded prompts.

    Attributes:
        ids: token ids ``(batch, tokens)``.
        answer: place of the answer position in each row ``(batch,)``.
    """

    ids: Tensor
    answer: Tensor

    def at_answer(self, hidden: Tensor) -> Tensor:
        """States at the answer position: ``(batch, tokens, hidden)`` to ``(batch, hidden)``."""
        return hidden[torch.arange(hidden.shape[0], device=hidden.device), self.answer]


class _PrefixCache:
    """What a layer takes for its cache: puts the prefix before the keys and values of the text.

    Unlike a generation cache it keeps nothing, so the layers can be run any number of times.
    """

    def __init__(self, prefixes: LayerPrefixes) -> None:
        self.prefixes = prefixes

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        prefix = self.prefixes[layer].to(keys.dtype)
        if prefix.dim() == 4:
            prefix = prefix.expand(keys.shape[0], *prefix.shape)
        return torch.cat([prefix[:, 0], keys], dim=2), torch.cat([prefix[:, 1], values], dim=2)


class _RecordingCache:
    """Keeps the keys and values each layer computes for its text."""

    def __init__(self) -> None:
        self.layers: dict[int, Tensor] = {}

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        self.layers[layer] = torch.stack([keys, values], dim=1)
        return keys, values


class CausalBackbone:
    """A decoder with frozen weights.

    Args:
        model: a ``transformers`` causal language model of a known architecture.
        tokenizer: its fast tokenizer.
        name: what the user called it.

    Raises:
        ConfigError: the architecture is not in the table.
    """

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
        self.architecture = ARCHITECTURES[kind]
        self.name = name
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.passes = Passes()
        config = model.config
        self.num_layers: int = config.num_hidden_layers
        self.hidden_size: int = config.hidden_size
        self.kv_heads: int = (
            getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        )
        head_dim = getattr(config, "head_dim", None)
        self.head_dim: int = head_dim or config.hidden_size // config.num_attention_heads
        self.max_positions: int = config.max_position_embeddings
        self._decoder: nn.Module = getattr(model, self.architecture.decoder)
        self._layers = getattr(self._decoder, self.architecture.layers)
        self._float32_layers: dict[int, nn.Module] = {}

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

    def prefix_shape(self, length: int) -> tuple[int, int, int, int, int]:
        """``(layers, 2, kv_heads, length, head_dim)`` of a prefix for this model."""
        return (self.num_layers, 2, self.kv_heads, length, self.head_dim)

    def tokenize(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of each prompt, without added tokens.

        Text that spells a special token is split like any other text: a user's text must not be
        able to end the prompt.
        """
        if not prompts:
            return []  # the tokenizer fails on an empty list
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            encoded = self.tokenizer(
                list(prompts), add_special_tokens=False, split_special_tokens=True, verbose=False
            )
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, with the spaces they carry."""
        # Some tokenizers drop the space that the first token begins with: let another come first.
        before, shown = self._any_word
        text: str = self.tokenizer.decode([*before, *tokens], clean_up_tokenization_spaces=False)
        return text.removeprefix(shown)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text inside a prompt: ``" good"`` differs from ``"good"``."""
        # Some tokenizers put a space of their own before the first token: let it be another's.
        before, _ = self._any_word
        rows = self.tokenize(["a" + text if text.startswith(" ") else text for text in texts])
        return [
            row[len(before) :] if text.startswith(" ") else row
            for row, text in zip(rows, texts, strict=True)
        ]

    @cached_property
    def _any_word(self) -> tuple[list[int], str]:
        """The tokens of a word, and how they are shown."""
        [tokens] = self.tokenize(["a"])
        return tokens, self.tokenizer.decode(tokens, clean_up_tokenization_spaces=False)

    @property
    def embeddings(self) -> Tensor:
        """The input embedding matrix ``(vocabulary, hidden)``; not to be written to."""
        weight: Tensor = getattr(self._decoder, self.architecture.embedding).weight
        return weight.detach()

    def token_offsets(self, prompt: str) -> list[tuple[int, int]]:
        """Start and end of each token of ``tokenize([prompt])``, in characters of ``prompt``."""
        encoded = self.tokenizer(
            prompt,
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
            verbose=False,
        )
        return [(start, end) for start, end in encoded["offset_mapping"]]

    def word_token(self, word: str) -> int:
        """The one token of a label word.

        Raises:
            ConfigError: the word is several tokens in this tokenizer.
        """
        ids = self.tokenize([word])[0]
        if len(ids) != 1:
            pieces = self.tokenizer.convert_ids_to_tokens(ids)
            raise ConfigError(
                f"expected the label word {word!r} to be one token of {self.name}, got "
                f"{len(ids)} tokens {pieces}; choose a more frequent word, with its leading space"
            )
        return ids[0]

    def pad(self, rows: Sequence[Sequence[int]]) -> TokenBatch:
        """Pad to the longest row. Causal attention never lets the answer see what follows it."""
        lengths = torch.tensor([len(row) for row in rows])
        if not len(rows) or int(lengths.min()) == 0:
            raise InputError("expected at least one token in every prompt, got an empty prompt")
        ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
        return TokenBatch(ids.to(self.device), (lengths - 1).to(self.device))

    def embed(self, batch: TokenBatch, prefix_length: int) -> Tensor:
        """States before the first layer, ``(batch, tokens, hidden)``.

        Raises:
            InputError: text and prefix together exceed the model's positions.
        """
        tokens = batch.ids.shape[1]
        if prefix_length + tokens > self.max_positions:
            raise InputError(
                f"expected at most {self.max_positions} positions for {self.name}, got a prefix of "
                f"{prefix_length} and a text of {tokens}; lower the task's max_tokens"
            )
        hidden: Tensor = getattr(self._decoder, self.architecture.embedding)(batch.ids)
        if self.architecture.positions is not None:
            places = torch.arange(prefix_length, prefix_length + tokens, device=self.device)
            hidden = hidden + getattr(self._decoder, self.architecture.positions)(places)
        return hidden

    def run_layers(self, hidden: Tensor, start: int, stop: int, prefixes: LayerPrefixes) -> Tensor:
        """Run layers ``start`` to ``stop - 1`` with their prefixes.

        Args:
            hidden: states before layer ``start``, ``(batch, tokens, hidden)``. Float32 states are
                computed on in float32 whatever the model's own type.
            prefixes: keys and values by layer number; gradients flow to them.

        Returns:
            States after layer ``stop - 1``, ``(batch, tokens, hidden)``.
        """
        if start == stop:
            return hidden
        return self._run(hidden, start, stop, _PrefixCache(prefixes), prefixes[start].shape[-2])

    def _run(self, hidden: Tensor, start: int, stop: int, cache: Any, past: int) -> Tensor:
        tokens = hidden.shape[1]
        positions = torch.arange(past, past + tokens, device=hidden.device)
        # A row sees the whole prefix and the text up to itself.
        seen = torch.ones(tokens, past + tokens, dtype=torch.bool, device=hidden.device).tril(past)
        mask = torch.zeros(seen.shape, dtype=hidden.dtype, device=hidden.device)
        mask.masked_fill_(~seen, torch.finfo(hidden.dtype).min)
        arguments: dict[str, Any] = {
            "attention_mask": mask[None, None],
            "cache_position": positions,
            "use_cache": True,
            self.architecture.cache_argument: cache,
        }
        if self.architecture.rotary is not None:
            rotary = getattr(self._decoder, self.architecture.rotary)
            arguments["position_embeddings"] = rotary(hidden, positions[None])
            arguments["position_ids"] = positions[None]
        for index in range(start, stop):
            output = self._layer(index, hidden.dtype)(hidden, **arguments)
            hidden = output[0] if isinstance(output, tuple) else output
        self.passes.forward += hidden.shape[0] * (stop - start) / self.num_layers
        return hidden

    def _layer(self, index: int, dtype: torch.dtype) -> nn.Module:
        """A layer, or its float32 copy, made once, where float32 states meet a shorter type."""
        layer: nn.Module = self._layers[index]
        if dtype != torch.float32 or self.dtype == torch.float32:
            return layer
        if index not in self._float32_layers:
            self._float32_layers[index] = copy.deepcopy(layer).float()
        return self._float32_layers[index]

    def keys_and_values(self, text: str) -> Tensor:
        """What each layer's attention stores for ``text``.

        Returns:
            float32 ``(layers, 2, kv_heads, tokens, head_dim)``, positions counted from 0.
        """
        batch = self.pad(self.tokenize([text]))
        cache = _RecordingCache()
        with torch.no_grad():
            self._run(self.embed(batch, 0), 0, self.num_layers, cache, 0)
        return torch.stack([cache.layers[i][0].float() for i in range(self.num_layers)])

    def next_token_logits(self, hidden: Tensor, words: Tensor | None = None) -> Tensor:
        """Next-token logits from states after the last layer.

        Args:
            hidden: states at the answer position, ``(batch, hidden)``.
            words: token ids ``(classes,)`` to score; the whole vocabulary where not given.

        Returns:
            float32 ``(batch, classes)`` or ``(batch, vocabulary)``.
        """
        head = self.model.get_output_embeddings()
        normed = getattr(self._decoder, self.architecture.norm)(hidden)
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
        hidden = self.run_layers(self.embed(batch, 0).float(), 0, self.num_layers, nothing)
        norm = copy.deepcopy(getattr(self._decoder, self.architecture.norm)).float()
        head = self.model.get_output_embeddings()
        logits = norm(hidden[0, :-1]) @ head.weight.float().T  # (tokens - 1, vocabulary)
        if getattr(head, "bias", None) is not None:
            logits = logits + head.bias.float()
        following = batch.ids[0, 1:, None]
        chosen = logits.gather(1, following)[:, 0] - logits.logsumexp(1)
        return float(chosen.double().sum()), len(ids) - 1
