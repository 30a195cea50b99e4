"""Scores of words whose sum is right in the worst case over a word list's substitutions.

A sum of word scores has an exact worst case: every word stands as the substitute that hurts most.
It is what a robust linear classifier minimises (Xu, Caramanis & Mannor, JMLR 2009), here with the
discrete substitutions of Jia, Raghunathan, Goeksel & Liang (EMNLP 2019, "Certified Robustness to
Adversarial Word Substitutions"), for which interval bounds of a sum are no relaxation. The sum is
fitted to stand beside a classifier whose own say is bounded, and so to what that gets wrong.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from robust_prefix.artifacts import load_tensors, save_tensors
from robust_prefix.configs import WordScoresConfig
from robust_prefix.errors import ArtifactError, InputError
from robust_prefix.progress import progress
from robust_prefix.synonyms import WORD, Substitutes
from robust_prefix.tasks import Fields

ROUNDING = 1e-4  # of a sum of some hundred scores in float32


@dataclass(frozen=True)
class WordScores:
    """What each word says for each class.

    Attributes:
        words: lower-case words, the rows of ``scores``; any other word says nothing.
        scores: float32 ``(words, classes)``.
        bias: float32 ``(classes,)``.
        prefix_fingerprint: of the prefix that they were fitted beside.
        config: of the fit.
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
        return digest.hexdigest()

    @cached_property
    def rows(self) -> Mapping[str, int]:
        """The row of each word."""
        return {word: row for row, word in enumerate(self.words)}

    def shuffled(self, seed: int) -> Self:
        """The same scores, dealt out among the words anew."""
        order = torch.randperm(len(self.words), generator=torch.Generator().manual_seed(seed))
        return dataclasses.replace(self, scores=self.scores[order])

    def sums(self, texts: Sequence[Fields]) -> Tensor:
        """What the words of each text's last column say together, float32 ``(texts, classes)``."""
        found = self.bias.repeat(len(texts), 1)
        for number, fields in enumerate(texts):
            rows = [self.rows[word] for word in words_in(fields) if word in self.rows]
            if rows:
                found[number] += self.scores[rows].sum(0)
        return found

    def ahead(self, fields: Fields, label: int, substitutes: Substitutes) -> tuple[Tensor, Tensor]:
        """How far the words put ``label`` ahead, and how much of that each of them can lose.

        A word loses most where it stands as the substitute that is worst against a class; the
        classes are taken one by one, so that several may not all lose that much at once.

        Returns:
            float32 ``(classes,)``, zero at ``label``, and ``(words, classes)``, never negative.
        """
        ahead = self.bias[label] - self.bias
        lost = []
        for word in words_in(fields):
            choices = dict.fromkeys([word, *map(str.lower, substitutes(word))])
            scores = torch.stack([self.says(choice) for choice in choices])
            differences = scores[:, [label]] - scores
            ahead = ahead + differences[0]
            lost.append(differences[0] - differences.min(0).values)
        return ahead, torch.stack(lost) if lost else torch.zeros(0, len(self.bias))

    def worst(self, fields: Fields, label: int, substitutes: Substitutes) -> float:
        """How far the words put ``label`` ahead of every other class at least, whichever
        substitutes they stand as."""
        ahead, lost = self.ahead(fields, label, substitutes)
        return float(besides(ahead - lost.sum(0), label).min())

    def says(self, word: str) -> Tensor:
        """What one word says, in whatever case, float32 ``(classes,)``."""
        row = self.rows.get(word.lower())
        return torch.zeros(len(self.bias)) if row is None else self.scores[row]

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
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"expected word scores in {path}, got {error!r}") from None
        if not fits or not all(isinstance(word, str) for word in words):
            raise ArtifactError(f"expected a row of scores for each word in {path}, got others")
        return cls(words, scores, bias, prefix, config)


@dataclass(frozen=True)
class CrossFitted:
    """Scores for texts that they were fitted on, each from a fit that left the text out.

    Of its own texts a fit is too sure. A classifier that is trained beside scores is to stand
    beside what they are of texts to come (stacked generalisation: Wolpert, Neural Networks 1992).

    Attributes:
        whole: fitted on all texts, for others.
        folds: fitted without every ``len(folds)``-th text, from the first on, the second, ...
    """

    whole: WordScores
    folds: tuple[WordScores, ...]

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


def fit_scores(
    texts: Sequence[Fields],
    labels: Sequence[int],
    said: Tensor,
    substitutes: Substitutes,
    prefix_fingerprint: str,
    config: WordScoresConfig | None = None,
) -> WordScores:
    """Fit the scores of all words of the texts and of all that may stand for them.

    Args:
        texts: training texts; the words of the last column count.
        labels: class numbers.
        said: what the classifier beside the scores says of the texts ``(texts, classes)``.
        substitutes: what may stand for a lower-case word.
        prefix_fingerprint: of the classifier beside the scores.
        config: settings of the fit.

    Raises:
        InputError: there is no text.
    """
    config = config or WordScoresConfig()
    if not texts:
        raise InputError("expected texts to fit word scores on, got none")
    corpus = _Corpus.of(texts, substitutes)
    truth = torch.tensor(labels)
    classes = said.shape[1]
    beside = bounded(said.float(), config.limit)
    against = config.pessimism * config.limit * (1 - torch.eye(classes)[truth])
    raw = torch.zeros(len(corpus.words), classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.Adam([raw, bias], lr=config.learning_rate)

    def scores() -> Tensor:
        return config.largest * torch.tanh(raw / config.largest)

    with progress("word scores", config.steps) as advance:
        for step in range(config.steps):
            now = scores()
            clean = cross_entropy(corpus.sums(now) + bias + beside, truth)
            worst = cross_entropy(corpus.worst(now, truth) + bias + against, truth)
            loss = (1 - config.robust_weight) * clean + config.robust_weight * worst
            loss = loss + config.weight_decay * raw.square().sum() / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            advance(step + 1, f"loss {loss.item():.3f}")
    return WordScores(
        corpus.words,
        scores().detach(),
        bias.detach(),
        prefix_fingerprint,
        {**dataclasses.asdict(config), "examples": len(texts)},
    )


def cross_fit(
    whole: WordScores,
    texts: Sequence[Fields],
    labels: Sequence[int],
    said: Tensor,
    substitutes: Substitutes,
    folds: int = 5,
) -> CrossFitted:
    """Fit scores as ``whole`` was fitted, without a part of the texts at a time.

    Args:
        whole: of all texts.
        texts, labels, said, substitutes: see :func:`fit_scores`.

    Raises:
        InputError: there are fewer texts than ``folds``, or fewer than two folds.
    """
    if not 2 <= folds <= len(texts):
        raise InputError(f"expected 2 to {len(texts)} folds, as many as texts, got {folds}")
    known = {each.name for each in dataclasses.fields(WordScoresConfig)}
    config = WordScoresConfig(**{k: v for k, v in whole.config.items() if k in known})
    found = []
    for fold in range(folds):
        kept = [place for place in range(len(texts)) if place % folds != fold]
        found.append(
            fit_scores(
                [texts[place] for place in kept],
                [labels[place] for place in kept],
                said[kept],
                substitutes,
                whole.prefix_fingerprint,
                config,
            )
        )
    return CrossFitted(whole, tuple(found))


@dataclass(frozen=True)
class _Corpus:
    """Texts as rows of words, and what may stand for each word.

    Attributes:
        words: of the texts first, then those that only stand for others.
        row, text: of each word in the texts, its row and its text's number.
        texts: how many there are.
        replaced, choice: pairs of rows, a word of the texts and what may stand there, itself too.
    """

    words: tuple[str, ...]
    row: Tensor
    text: Tensor
    texts: int
    replaced: Tensor
    choice: Tensor

    @classmethod
    def of(cls, texts: Sequence[Fields], substitutes: Substitutes) -> _Corpus:
        rows: dict[str, int] = {}
        row, text = [], []
        for number, fields in enumerate(texts):
            for word in words_in(fields):
                row.append(rows.setdefault(word, len(rows)))
                text.append(number)
        replaced, choice = [], []
        for word in list(rows):
            for other in dict.fromkeys([word, *map(str.lower, substitutes(word))]):
                replaced.append(rows[word])
                choice.append(rows.setdefault(other, len(rows)))
        tensors = (torch.tensor(each, dtype=torch.long) for each in (row, text, replaced, choice))
        of_row, of_text, of_replaced, of_choice = tensors
        return cls(tuple(rows), of_row, of_text, len(texts), of_replaced, of_choice)

    def sums(self, scores: Tensor) -> Tensor:
        """``(texts, classes)`` from the scores of words ``(words, classes)``."""
        empty = scores.new_zeros(self.texts, *scores.shape[1:])
        return empty.index_add(0, self.text, scores[self.row])

    def worst(self, scores: Tensor, truth: Tensor) -> Tensor:
        """How far each class can get ahead of the true one ``(texts, classes)``, all words at
        their worst; zero at the true one."""
        chosen = scores[self.choice]
        ahead = chosen[:, None, :] - chosen[:, :, None]  # (pairs, true class, class)
        count = int(self.replaced.max()) + 1 if len(self.replaced) else 0
        index = self.replaced[:, None, None].expand_as(ahead)
        start = ahead.new_zeros(count, *ahead.shape[1:])
        most = start.scatter_reduce(0, index, ahead, "amax", include_self=False)
        empty = scores.new_zeros(self.texts, scores.shape[1])
        return empty.index_add(0, self.text, most[self.row, truth[self.text]])
