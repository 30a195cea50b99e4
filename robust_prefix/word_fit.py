"""Fitting scores of words that hold where each stands as whichever substitute hurts most."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, embedding

from robust_prefix.configs import WordScoresConfig
from robust_prefix.errors import InputError
from robust_prefix.progress import progress
from robust_prefix.synonyms import Substitutes
from robust_prefix.tasks import Fields
from robust_prefix.word_scores import Blocks, CrossFitted, Places, WordScores, bounded, words_in


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
    blocks = Blocks(config.block, config.block_limit)
    corpus = _Corpus.of(texts, substitutes, blocks.words)
    truth = torch.tensor(labels)
    classes = said.shape[1]
    beside = bounded(said.float(), config.limit)
    against = config.pessimism * config.limit * (1 - torch.eye(classes)[truth])
    raw = torch.zeros(len(corpus.words), classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.Adam([raw, bias], lr=config.learning_rate)

    def scores() -> Tensor:
        bounded_scores = config.largest * torch.tanh(raw / config.largest)
        return bounded_scores - bounded_scores.mean(1, keepdim=True)

    with progress("word scores", config.steps) as advance:
        for step in range(config.steps):
            now = scores()
            clean = cross_entropy(corpus.places.sums(now, blocks) + bias + beside, truth)
            worst = cross_entropy(corpus.worst(now, truth, blocks) + bias + against, truth)
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
    return CrossFitted(whole, tuple(found), float(whole.config["limit"]))


@dataclass(frozen=True)
class _Corpus:
    """Texts as rows of words, and what may stand for each word.

    Attributes:
        words: of the texts first, then those that only stand for others.
        places: of the words in the texts.
        replaced, choice: pairs of rows, a word of the texts and what may stand there, itself too.
    """

    words: tuple[str, ...]
    places: Places
    replaced: Tensor
    choice: Tensor

    @classmethod
    def of(cls, texts: Sequence[Fields], substitutes: Substitutes, size: int) -> _Corpus:
        split = [words_in(fields) for fields in texts]
        rows: dict[str, int] = {}
        for words in split:
            for word in words:
                rows.setdefault(word, len(rows))
        places = Places.of(split, rows, size)
        replaced, choice = [], []
        for word in list(rows):
            for other in dict.fromkeys([word, *map(str.lower, substitutes(word))]):
                replaced.append(rows[word])
                choice.append(rows.setdefault(other, len(rows)))
        pairs = (torch.tensor(each, dtype=torch.long) for each in (replaced, choice))
        return cls(tuple(rows), places, *pairs)

    def worst(self, scores: Tensor, truth: Tensor, blocks: Blocks) -> Tensor:
        """How far each class can get ahead of the true one ``(texts, classes)``, all words at
        their worst, as in :meth:`WordScores.ahead`; zero at the true one."""
        chosen = embedding(self.choice, scores)
        count = int(self.replaced.max()) + 1 if len(self.replaced) else 0
        index = self.replaced[:, None].expand_as(chosen)
        empty = chosen.new_zeros(count, chosen.shape[1])
        most, least = (
            blocks.held(
                self.places.of_blocks(
                    empty.scatter_reduce(0, index, chosen, which, include_self=False)
                )
            )
            for which in ("amax", "amin")
        )
        true = truth[self.places.text][:, None]
        ahead = (most - least.gather(1, true)).scatter(1, true, 0.0)
        return self.places.of_texts(ahead)
