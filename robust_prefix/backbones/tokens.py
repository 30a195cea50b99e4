"""Texts as tokens, and prompts as padded batches."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from robust_prefix.errors import ConfigError, InputError


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


class Tokens:
    """What a model's tokenizer makes of texts.

    Args:
        tokenizer: a fast tokenizer.
        name: what the user called the model.

    Attributes:
        before: special tokens that every prompt begins with.
        after: special tokens that every prompt ends with.
        mask_token: what ``{mask}`` in a template stands for, where label words are predicted
            there; None for a model that does not fill in blanks.
        padding: the id that short rows are filled up with; nothing reads it.
    """

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    mask_token: int | None = None
    padding: int = 0

    def __init__(self, tokenizer: Any, name: str) -> None:
        self.tokenizer = tokenizer
        self.name = name

    @property
    def device(self) -> torch.device:
        """Where batches are put."""
        return torch.device("cpu")

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

    @cached_property
    def mask_takes_space(self) -> bool:
        """Whether the tokenizer takes a space before the mask for part of it, as RoBERTa's does."""
        known = self.tokenizer.added_tokens_decoder
        return self.mask_token in known and bool(known[self.mask_token].lstrip)

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
        ids = self.encode([word])[0]
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
