"""Words that fit a context, by a masked language model."""

from __future__ import annotations

import heapq
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from attacks.resources.base import Found
from attacks.words import WORD
from robust_prefix.errors import ResourceError

_BATCH_SIZE = 16
_LATIN = re.compile("[A-Za-z]")
_MARKS = ("\u0120", "\u2581")  # what a token of byte-level BPE, of SentencePiece begins a word with
_INSIDE = "##"  # what a token of WordPiece continues a word with

Span = tuple[int, int]
"""Start and end of a part of a text."""


@dataclass(frozen=True)
class _Vocabulary:
    """What the tokens are, by their ids.

    Attributes:
        texts: letters of each token; "" for a special one.
        inside: whether it is a word by itself in the middle of a text.
        first: the same at a text's beginning, where some tokenizers mark no word.
    """

    texts: tuple[str, ...]
    inside: torch.Tensor
    first: torch.Tensor


class MaskedLM:
    """Which words may stand somewhere in a text, the likeliest first. On the CPU, in float32.

    A text of more tokens than the model reads is cut, and what lies behind gets no words.

    Args:
        folder: a masked language model and its tokenizer as ``transformers`` saves them.

    Raises:
        ResourceError: they cannot be read, or there is no head that predicts masked tokens.
    """

    def __init__(self, folder: Path) -> None:
        self._tokenizer, self._model = _load(folder)
        self._max_tokens = min(
            self._tokenizer.model_max_length,
            self._model.config.max_position_embeddings - 2,  # RoBERTa's first two are no places
        )
        self._vocabulary = _read_vocabulary(self._tokenizer)

    def fill(
        self, text: str, spans: Sequence[Span], max_words: int, min_probability: float = 0.0
    ) -> list[list[str]]:
        """For each span the words that may stand there, were it covered by a mask.

        Args:
            text: the context.
            spans: parts of it, each covered by one mask in turn; an empty one gets the mask put in,
                and a space after it.
            max_words: words a span.
            min_probability: of a word under the mask.
        """
        masked = [self._masked(text, span) for span in spans]
        words: list[list[str]] = []
        for start in range(0, len(masked), _BATCH_SIZE):
            words += self._fill_batch(
                masked[start : start + _BATCH_SIZE], max_words, min_probability
            )
        return words

    def rewrite(self, text: str, spans: Sequence[Span], max_words: int) -> list[list[str]]:
        """For each span the words made of the likeliest tokens, nothing being masked.

        Of a span of several tokens the combinations with the least perplexity are made.

        Args:
            text: what is read, once.
            spans: words of it.
            max_words: tokens a place, and words a span.
        """
        inputs = self._encode([text], return_offsets_mapping=True)
        offsets = inputs.pop("offset_mapping")[0].tolist()
        logits = self._logits(inputs)[0]
        best = logits.log_softmax(-1).topk(min(max_words, logits.shape[-1]))
        found = []
        for start, end in spans:
            rows = [n for n, (left, right) in enumerate(offsets) if left < end and right > start]
            is_word = self._words_at(rows[0]) if rows else None
            places = [
                list(zip(best.values[n].tolist(), best.indices[n].tolist(), strict=True))
                for n in rows
            ]
            if len(places) == 1 and is_word is not None:
                words = [self._vocabulary.texts[i] for _, i in places[0] if is_word[i]]
            else:
                words = self._join(places, max_words)
            found.append(list(dict.fromkeys(words)))
        return found

    def _join(self, places: list[list[tuple[float, int]]], max_words: int) -> list[str]:
        """Words of one token a place, those with the highest sum of log-probabilities first."""
        best = [(0.0, "")] if places else []
        for choices in places:
            # The best sequences begin with the best beginnings: no other need be kept.
            best = heapq.nlargest(
                max_words,
                (
                    (score + more, word + self._vocabulary.texts[i])
                    for score, word in best
                    for more, i in choices
                    if self._vocabulary.texts[i]
                ),
            )
        return [word for _, word in best if _is_word(word)]

    def _masked(self, text: str, span: Span) -> str:
        start, end = span
        mask: str = self._tokenizer.mask_token
        # A text that spells the mask must not pass for one.
        before, after = (part.replace(mask, " ") for part in (text[:start], text[end:]))
        return f"{before}{mask}{' ' if start == end else ''}{after}"

    def _fill_batch(
        self, texts: list[str], max_words: int, min_probability: float
    ) -> list[list[str]]:
        inputs = self._encode(texts, padding=True)
        logits = self._logits(inputs)
        words: list[list[str]] = []
        for ids, scores in zip(inputs["input_ids"].tolist(), logits, strict=True):
            if self._tokenizer.mask_token_id not in ids:  # cut off
                words.append([])
                continue
            place = ids.index(self._tokenizer.mask_token_id)
            # In logarithms, for the chances of the least likely words are all 0.
            chances = scores[place].log_softmax(-1)
            allowed = self._words_at(place) & (chances.exp() >= min_probability)
            best = chances.masked_fill(~allowed, -torch.inf).topk(min(max_words, len(chances)))
            order = best.indices[best.values > -torch.inf].tolist()
            likely = [self._vocabulary.texts[token] for token in order]
            words.append(list(dict.fromkeys(likely)))
        return words

    def _words_at(self, place: int) -> torch.Tensor:
        """Which tokens are words at the ``place``-th one; before the first is one that starts."""
        return self._vocabulary.first if place <= 1 else self._vocabulary.inside

    def _encode(self, texts: list[str], **settings: Any) -> Any:
        return self._tokenizer(
            texts, truncation=True, max_length=self._max_tokens, return_tensors="pt", **settings
        )

    @torch.inference_mode()
    def _logits(self, inputs: Any) -> torch.Tensor:
        """Scores ``(texts, tokens, vocabulary)``, without what the model has beyond its words."""
        logits: torch.Tensor = self._model(**inputs).logits
        return logits[..., : len(self._vocabulary.texts)]


@lru_cache(maxsize=2)
def load_masked_lm(found: Found) -> MaskedLM:
    """The model of a found resource, loaded once a process."""
    return MaskedLM(found.path)


def _load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    local: dict[str, Any] = {"local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), use_fast=True, **local)
        model, info = AutoModelForMaskedLM.from_pretrained(
            str(folder),
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            **local,
        )
    except Exception as error:  # the tokenizers package raises nothing narrower
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise _bad(folder, reason) from error
    if info["missing_keys"]:
        raise _bad(folder, f"no weights for {sorted(info['missing_keys'])[0]}")
    if tokenizer.mask_token is None or not tokenizer.is_fast:
        raise _bad(folder, "a tokenizer without a mask or without places")
    return tokenizer, model.eval()


def _bad(folder: Path, got: str) -> ResourceError:
    return ResourceError(
        f"expected a masked language model in {folder}, got {got}; delete it and download it anew"
    )


def _read_vocabulary(tokenizer: Any) -> _Vocabulary:
    tokens: list[str] = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    special = set(tokenizer.all_special_tokens)
    mark = next((m for m in _MARKS if any(token.startswith(m) for token in tokens)), "")
    known = set(tokens)
    texts, inside, first = [], [], []
    for token in tokens:
        plain = token.removeprefix(mark).removeprefix(_INSIDE if not mark else "")
        text = "" if token in special else tokenizer.convert_tokens_to_string([plain]).strip()
        starts = token.startswith(mark) and (bool(mark) or not token.startswith(_INSIDE))
        texts.append(text)
        inside.append(_is_word(text) and starts)
        # Without a mark "ing" may be a piece or a word: it is one if it also comes with the mark.
        first.append(_is_word(text) and (starts or mark + token in known))
    return _Vocabulary(tuple(texts), torch.tensor(inside), torch.tensor(first))


def _is_word(text: str) -> bool:
    """Whether this is one word with a Latin letter, as TextAttack demands."""
    return WORD.fullmatch(text) is not None and _LATIN.search(text) is not None
