"""What every frozen backbone has: a tokenizer, a fingerprint, and a count of its work."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

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


class Backbone:
    """A language model with frozen weights and its tokenizer.

    Args:
        model: a ``transformers`` model.
        tokenizer: its fast tokenizer.
        name: what the user called it.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
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
