"""Scores of words whose sum is right in the worst case over a word list's substitutions.

A sum of word scores has an exact worst case: every word stands as the substitute that hurts most.
It is what a robust linear classifier minimises (Xu, Caramanis & Mannor, JMLR 2009), here with the
discrete substitutions of Jia, Raghunathan, Goeksel & Liang (EMNLP 2019, "Certified Robustness to
Adversarial Word Substitutions"), for which interval bounds of a sum are no relaxation. The sum is
fitted to stand beside a classifier whose own say is bounded, and so to what that gets wrong.

Words that an attacker inserts count as well, and three that say most outweigh any sentence. So
words are summed in blocks of neighbours, and a block, too, has a bounded say.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import embedding

from robust_prefix.artifacts import load_tensors, save_tensors
from robust_prefix.errors import ArtifactError, ConfigError
from robust_prefix.synonyms import WORD, Substitutes
from robust_prefix.tasks import Fields

ROUNDING = 1e-4  # of a sum of some hundred scores in float32


@dataclass(frozen=True)
class Blocks:
    """Neighbouring words whose say is bounded together.

    Attributes:
        words: of a block, counted from the text's first word on; 0 takes all as one.
        limit: how far ahead of another a block can put one of two classes.
    """

    words: int = 0
    limit: float = math.inf

    def held(self, sums: Tensor) -> Tensor:
        """Sums of blocks ``(..., classes)``, each within half the limit of zero."""
        return sums.clamp(-self.limit / 2, self.limit / 2) if self.words else sums


@dataclass(frozen=True)
class WordScores:
    """What each word says for each class.

    Attributes:
        words: lower-case words, the rows of ``scores``; any other word says nothing.
        scores: float32 ``(words, classes)``.
        bias: float32 ``(classes,)``.
        prefix_fingerprint: of the prefix that they stand beside.
        config: of the fit; its ``block`` and ``block_limit`` are part of the sum.
    """

    words: tuple[str, ...]
    scores: Tensor
    bias: Tensor
    prefix_fingerprint: str
    config: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits from the words and the numbers."""
        digest = hashlib.blake2b("\0".join(self.words).encode(), digest_size=4)
        for tensor in (self.scores, self.bias):
            digest.update(tensor.float().contiguous().numpy().tobytes())
        if self.blocks.words:
            digest.update(str(self.blocks).encode())
        return digest.hexdigest()

    @cached_property
    def blocks(self) -> Blocks:
        """How words are put together."""
        if not self.config.get("block"):
            return Blocks()
        return Blocks(int(self.config["block"]), float(self.config["block_limit"]))

    @cached_property
    def centred(self) -> Tensor:
        """The scores without what a word says for all classes alike."""
        return self.scores - self.scores.mean(1, keepdim=True)

    @cached_property
    def rows(self) -> Mapping[str, int]:
        """The row of each word."""
        return {word: row for row, word in enumerate(self.words)}

    def shuffled(self, seed: int) -> Self:
        """The same scores, dealt out among the words anew."""
        order = torch.randperm(len(self.words), generator=torch.Generator().manual_seed(seed))
        return dataclasses.replace(self, scores=self.scores[order])

    def scaled(self, factor: float) -> Self:
        """Scores whose sums are ``factor`` times as large."""
        config = dict(self.config)
        if self.blocks.words:
            config["block_limit"] = self.blocks.limit * factor
        scores, bias = self.scores * factor, self.bias * factor
        return dataclasses.replace(self, scores=scores, bias=bias, config=config)

    def in_blocks_of(self, limit: float) -> Self:
        """The same scores in the same blocks, of which none puts a class ahead by more.

        Raises:
            ConfigError: the scores were fitted without blocks.
        """
        if not self.blocks.words:
            raise ConfigError(
                f"expected word scores in blocks for block_limit={limit}, got some that were "
                "fitted with block=0; leave block_limit out, or fit them with blocks"
            )
        return dataclasses.replace(self, config={**self.config, "block_limit": limit})

    def beside(self, prefix_fingerprint: str) -> Self:
        """The same scores for a prefix that was trained beside them, without what was measured
        beside another."""
        config = {key: value for key, value in self.config.items() if not key.startswith("dev_")}
        return dataclasses.replace(self, prefix_fingerprint=prefix_fingerprint, config=config)

    def strength(self, texts: Sequence[Fields]) -> float:
        """How far the words put one class ahead of the last, on average over texts."""
        sums = self.sums(texts) - self.bias
        return float((sums.max(1).values - sums.min(1).values).mean())

    def sums(self, texts: Sequence[Fields]) -> Tensor:
        """What the words of each text's last column say together, float32 ``(texts, classes)``."""
        return self.limited_and_free(texts)[0]

    def limited_and_free(self, texts: Sequence[Fields]) -> tuple[Tensor, Tensor]:
        """``sums``, and what they are where blocks may say more than their limit."""
        places = Places.of([words_in(fields) for fields in texts], self.rows, self.blocks.words)
        free = places.of_blocks(self.centred)
        limited = self.blocks.held(free)
        return self.bias + places.of_texts(limited), self.bias + places.of_texts(free)

    def ahead(self, fields: Fields, label: int, substitutes: Substitutes) -> tuple[Tensor, Tensor]:
        """How far the words put ``label`` ahead, and the most of it that substitutes can take.

        Of two classes that is exact where all words are exchanged. Of more it is a bound: a word is
        taken to stand for a class and against another as two different substitutes. It is a bound,
        too, where some words of a block with a limit are exchanged.

        Returns:
            float32 ``(classes,)``, zero at ``label``, and ``(words, classes)``, never negative: the
            sum of the ``n`` largest is what ``n`` exchanged words can take from that class's lead.
        """
        ahead = self.bias[label] - self.bias
        words = words_in(fields)
        size = self.blocks.words or max(1, len(words))
        taken = [torch.zeros(0, len(self.bias))]
        for start in range(0, len(words), size):
            own, least, most = self._range(words[start : start + size], substitutes)
            now = self._lead(own.sum(0), own.sum(0), label)
            worst = self._lead(least.sum(0), most.sum(0), label)
            each = self._lead(own - least, own - most, label, limited=False)
            most_together = (now - worst).clamp_min(0)
            together = each.sort(0, descending=True).values.cumsum(0).minimum(most_together)
            taken.append(together.diff(dim=0, prepend=torch.zeros(1, len(self.bias))))
            ahead = ahead + now
        return ahead, torch.cat(taken)

    def _range(
        self, words: Sequence[str], substitutes: Substitutes
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of each word its scores, and the least and the most that it may stand for, each
        ``(words, classes)``."""
        found = []
        for word in words:
            choices = dict.fromkeys([word, *map(str.lower, substitutes(word))])
            scores = torch.stack([self.says(choice) for choice in choices])
            found.append((scores[0], scores.min(0).values, scores.max(0).values))
        own, least, most = (torch.stack(each) for each in zip(*found, strict=True))
        return own, least, most

    def _lead(self, own: Tensor, others: Tensor, label: int, limited: bool = True) -> Tensor:
        """How far ``label``, by ``own``, is ahead of the classes by ``others``; zero of itself."""
        if limited:
            own, others = self.blocks.held(own), self.blocks.held(others)
        lead = own[..., [label]] - others
        lead[..., label] = 0
        return lead

    def worst(self, fields: Fields, label: int, substitutes: Substitutes) -> float:
        """How far the words put ``label`` ahead of every other class at least, whichever
        substitutes they stand as."""
        ahead, lost = self.ahead(fields, label, substitutes)
        return float(besides(ahead - lost.sum(0), label).min())

    def says(self, word: str) -> Tensor:
        """What one word says, in whatever case and before any limit, float32 ``(classes,)``."""
        row = self.rows.get(word.lower())
        return torch.zeros(len(self.bias)) if row is None else self.centred[row]

    def save(self, path: str | Path) -> None:
        """Write one safetensors file.

        Raises:
            StorageError: writing failed; nothing is left behind.
        """
        tensors = {"scores": self.scores, "bias": self.bias}
        metadata = {
            "words": list(self.words),
            "prefix_fingerprint": self.prefix_fingerprint,
            "config": dict(self.config),
        }
        save_tensors(path, "word scores", tensors, metadata)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file of :meth:`save`.

        Raises:
            ArtifactError: the file is missing, damaged or does not hold word scores.
        """
        tensors, metadata = load_tensors(path, "word scores")
        try:
            words, config = tuple(metadata["words"]), metadata["config"]
            prefix = metadata["prefix_fingerprint"]
            scores, bias = tensors["scores"], tensors["bias"]
            fits = scores.shape == (len(words), len(bias)) and float(config["limit"]) > 0
            found = cls(words, scores, bias, prefix, config)
            fits = fits and found.blocks.words >= 0 and found.blocks.limit > 0
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"expected word scores in {path}, got {error!r}") from None
        if not fits or not all(isinstance(word, str) for word in words):
            raise ArtifactError(f"expected a row of scores for each word in {path}, got others")
        return found


@dataclass(frozen=True)
class CrossFitted:
    """Scores for texts that they were fitted on, each from a fit that left the text out.

    Of its own texts a fit is too sure. A classifier that is trained beside scores is to stand
    beside what they are of texts to come (stacked generalisation: Wolpert, Neural Networks 1992).

    Attributes:
        whole: fitted on all texts, for others.
        folds: fitted without every ``len(folds)``-th text, from the first on, the second, ...
        limit: how far ahead the classifier beside them can put a class when it answers.
    """

    whole: WordScores
    folds: tuple[WordScores, ...]
    limit: float

    def in_blocks_of(self, limit: float) -> Self:
        """See ``WordScores.in_blocks_of``."""
        return dataclasses.replace(
            self,
            whole=self.whole.in_blocks_of(limit),
            folds=tuple(fold.in_blocks_of(limit) for fold in self.folds),
        )

    def leaving_out(self, place: int) -> WordScores:
        """The scores for the text of that place."""
        return self.folds[place % len(self.folds)]


def words_in(fields: Fields) -> list[str]:
    """The words of the last column, lower-case."""
    return [match.group().lower() for match in WORD.finditer(fields[-1])]


def besides(values: Tensor, label: int) -> Tensor:
    """``(..., classes)`` without the column of ``label``."""
    return torch.cat([values[..., :label], values[..., label + 1 :]], dim=-1)


def bounded(scores: Tensor, limit: float) -> Tensor:
    """Scores ``(texts, classes)`` relative to the best class's, none further behind than ``limit``:
    no class is ahead of another by more."""
    return (scores - scores.max(-1, keepdim=True).values).clamp(min=-limit)


@dataclass(frozen=True)
class Places:
    """Where words stand.

    Scores are looked up as embeddings are, whose gradients, unlike those of an index, are summed in
    one order on any number of threads: the same data gives the same scores to the last bit.

    Attributes:
        row: of each word in the texts that has scores.
        block: the number of its block.
        text: of each block, the number of its text.
        texts: how many there are.
    """

    row: Tensor
    block: Tensor
    text: Tensor
    texts: int

    @classmethod
    def of(cls, texts: Sequence[Sequence[str]], rows: Mapping[str, int], size: int) -> Places:
        """Of the words of texts, in blocks of ``size``."""
        found: list[int] = []
        block: list[int] = []
        text: list[int] = []
        for number, words in enumerate(texts):
            step = size or max(1, len(words))
            for start in range(0, len(words), step):
                known = [rows[word] for word in words[start : start + step] if word in rows]
                found += known
                block += [len(text)] * len(known)
                text.append(number)
        of_row, of_block, of_text = (
            torch.tensor(each, dtype=torch.long) for each in (found, block, text)
        )
        return cls(of_row, of_block, of_text, len(texts))

    def of_blocks(self, scores: Tensor) -> Tensor:
        """``(blocks, classes)`` from the scores of words ``(words, classes)``."""
        empty = scores.new_zeros(len(self.text), scores.shape[1])
        return empty.index_add(0, self.block, embedding(self.row, scores))

    def of_texts(self, of_blocks: Tensor) -> Tensor:
        """``(texts, classes)`` from those of blocks."""
        empty = of_blocks.new_zeros(self.texts, of_blocks.shape[1])
        return empty.index_add(0, self.text, of_blocks)

    def sums(self, scores: Tensor, blocks: Blocks) -> Tensor:
        """``(texts, classes)`` from the scores of words ``(words, classes)``."""
        return self.of_texts(blocks.held(self.of_blocks(scores)))
