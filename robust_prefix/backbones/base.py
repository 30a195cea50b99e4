"""What every frozen backbone has: a tokenizer, a fingerprint, a count of its work, and layers that
can be run a few at a time with a prefix in each."""

from __future__ import annotations

import copy
import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

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
        lengths: tokens of each row, the padding not counted ``(batch,)``; where not given, rows
            end at the answer position.
    """

    ids: Tensor
    answer: Tensor
    lengths: Tensor | None = None

    @property
    def real(self) -> Tensor:
        """Which tokens are no padding: bool ``(batch, tokens)``."""
        lengths = self.answer + 1 if self.lengths is None else self.lengths
        return torch.arange(self.ids.shape[1], device=self.ids.device) < lengths[:, None]

    def select(self, indices: Tensor) -> TokenBatch:
        """The rows at ``indices``, in that order."""
        lengths = None if self.lengths is None else self.lengths[indices]
        return TokenBatch(self.ids[indices], self.answer[indices], lengths)

    def at_answer(self, hidden: Tensor) -> Tensor:
        """States at the answer position: ``(batch, tokens, hidden)`` to ``(batch, hidden)``."""
        return hidden[torch.arange(hidden.shape[0], device=hidden.device), self.answer]


class Backbone(ABC):
    """A language model with frozen weights and its tokenizer.

    Args:
        model: a ``transformers`` model.
        tokenizer: its fast tokenizer.
        name: what the user called it.

    Attributes:
        causal: no token attends to what follows it. Only then are soft tokens before a text the
            same as the keys and values they leave, and a beginning of several texts run once.
        vocabulary: it has scores for words at the answer position.
        before: special tokens that every prompt begins with.
        after: special tokens that every prompt ends with.
        mask_token: what ``{mask}`` in a template stands for, where label words are predicted
            there; None for a model that does not fill in blanks.
        padding: the id that short rows are filled up with; nothing reads it.
    """

    causal: ClassVar[bool] = False
    vocabulary: bool = True
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    mask_token: int | None = None
    padding: int = 0

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
        """Pad to the longest row, at its end.

        Raises:
            InputError: a row is empty.
        """
        lengths = torch.tensor([len(row) for row in rows])
        if not len(rows) or int(lengths.min()) == 0:
            raise InputError("expected at least one token in every prompt, got an empty prompt")
        ids = torch.full((len(rows), int(lengths.max())), self.padding)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
        answer = torch.tensor([self.answer_place(row) for row in rows])
        return TokenBatch(ids.to(self.device), answer.to(self.device), lengths.to(self.device))

    def answer_place(self, row: Sequence[int]) -> int:
        """Where in a prompt's tokens the answer position is: the last, unless a model says else."""
        return len(row) - 1

    @property
    @abstractmethod
    def embeddings(self) -> Tensor:
        """The input embedding matrix ``(vocabulary, hidden)``; not to be written to."""

    @abstractmethod
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
            States after layer ``stop - 1``, ``(batch, tokens, hidden)``.
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

    def _check_positions(self, past: int | Tensor, tokens: int) -> None:
        longest = past if isinstance(past, int) else int(past.max())
        if longest + tokens > self.max_positions:
            raise InputError(
                f"expected at most {self.max_positions} positions for {self.name}, got a prefix of "
                f"{longest} and a text of {tokens}; lower the task's max_tokens"
            )

    def _look_up(self, ids: Tensor, table: nn.Module, soft_tokens: Tensor | None) -> Tensor:
        """Embeddings of token ids, ``(batch, tokens, hidden)``; see :meth:`embed`."""
        if soft_tokens is None:
            hidden: Tensor = table(ids)
            return hidden
        number = ids - len(self.embeddings)  # of the soft token
        hidden = table(ids.masked_fill(number >= 0, 0))
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
