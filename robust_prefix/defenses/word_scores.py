"""Bounds what the classifier says, and adds what the words say by themselves.

The wrapped classifier puts a class ahead of another by ``limit`` at most; word scores, fitted to be
right in the worst case over a word list, decide where they say more. Guarantee: a text whose words
put its class ahead by more than ``limit`` whichever listed substitutes they stand as keeps its
answer under every such substitution, of any number of words, whatever happens to the classifier.
See :mod:`robust_prefix.word_scores`.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass
from torch import Tensor

from robust_prefix.backbones import Backbone
from robust_prefix.defenses.base import Defense, Fitted
from robust_prefix.defenses.text import TextDefense
from robust_prefix.defenses.wrapping import WrappingDefense
from robust_prefix.detection import Decisions
from robust_prefix.errors import ArtifactError
from robust_prefix.gradients import Through, TokenGradients
from robust_prefix.prefixes import PrefixModel
from robust_prefix.prefixes.hard_prompt import readable_tokens
from robust_prefix.synonyms import Substitutes
from robust_prefix.tasks import Fields
from robust_prefix.word_scores import ROUNDING, WordScores, besides, bounded

_RIDGE = 1e-2  # of the mean squared embedding: the map from embeddings to scores stays small


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class WordScoresDefenseConfig:
    """Settings of the sum.

    Attributes:
        limit: how far ahead the classifier can put a class, in its logits; that of the fit where
            not given.
        block_limit: how far ahead a block of neighbouring words can put a class; that of the fit
            where not given. A lower one leaves triggers less.
        table: fingerprint of the word scores, so that a record says which; of those at hand.
        shuffled: seed by which words change their scores with one another, for a control whose
            scores are the same and say nothing; none where not given.
        scale: factor of what the words say, by which a control says as much; none where not given.
    """

    limit: float | None = Field(default=None, gt=0)
    block_limit: float | None = Field(default=None, gt=0)
    table: str | None = None
    shuffled: int | None = Field(default=None, ge=0)
    scale: float | None = Field(default=None, gt=0, allow_inf_nan=False)


class WordScoresDefense(WrappingDefense[WordScoresDefenseConfig]):
    """The classifier's scores, bounded, and those of the words.

    The bounds hide what becomes of the classifier until it is within ``limit``, and of a block of
    words until it is within its own: for an attacker who knows of them (``Decisions.revealed``)
    both count as they are.

    Args:
        fitted: see :func:`robust_prefix.fitting.fit_word_scores`.

    Raises:
        ArtifactError: there are no word scores, or other ones than the settings name.
        ConfigError: ``block_limit`` is given for scores that stand in no blocks.
    """

    name = "word-scores"
    summary = "bounds the classifier's say and adds scores of words that hold under substitution"
    stage = 1
    config_type = WordScoresDefenseConfig
    needs_words = True
    hides_scores = True

    def __init__(
        self, fitted: WordScores | None, inner: Defense[Any] | None = None, **settings: Any
    ) -> None:
        if fitted is None:
            raise ArtifactError(
                f"expected fitted word scores for the defence {self.name!r}, got none; "
                "run robust-prefix fit-word-scores on the run first"
            )
        super().__init__(inner, **settings)
        if self.config.table not in (None, fitted.fingerprint):
            raise ArtifactError(
                f"expected the word scores {self.config.table} for the defence {self.name!r}, got "
                f"{fitted.fingerprint}, which were fitted since; leave out table= to use them"
            )
        limit = fitted.config["limit"] if self.config.limit is None else self.config.limit
        # In the settings, and so in every record.
        self.config = dataclasses.replace(self.config, limit=limit, table=fitted.fingerprint)
        self.built_from = Fitted(words=fitted)
        if self.config.block_limit is not None:
            fitted = fitted.in_blocks_of(self.config.block_limit)
        if self.config.shuffled is not None:
            fitted = fitted.shuffled(self.config.shuffled)
        if self.config.scale is not None:
            fitted = fitted.scaled(self.config.scale)
        self.fitted = fitted
        self._directions: weakref.WeakKeyDictionary[Backbone, Tensor] = weakref.WeakKeyDictionary()

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], fitted: Fitted, inner: Defense[Any] | None = None
    ) -> Self:
        """See ``Defense``."""
        return cls(fitted.words, inner, **settings)

    @property
    def limit(self) -> float:
        """How far ahead the classifier can put a class, in its logits."""
        if self.config.limit is None:  # the constructor sets it; this is for the type checker
            raise RuntimeError("the word scores were built without a limit")
        return self.config.limit

    @property
    def behind(self) -> TextDefense[Any] | None:
        """What rewrites the text for the model and not for the scores, if anything does."""
        return self.inner if isinstance(self.inner, TextDefense) else None

    def passed_on(self, fields: Fields) -> list[Fields]:
        """See ``WrappingDefense``; the text itself."""
        return [fields]

    def radius(self, fields: Fields, label: int, substitutes: Substitutes) -> int | None:
        """How many words may stand as a listed substitute and ``label`` is the answer for certain,
        whatever the classifier says; None where it is not certain of the text itself."""
        ahead, lost = self.fitted.ahead(fields, label, substitutes)
        # at worst those words are exchanged first that lose most
        taken = lost.sort(0, descending=True).values.cumsum(0)
        left = besides(torch.cat([ahead[None], ahead - taken]), label)
        sure = (left > self.limit + ROUNDING).all(1).tolist()
        return max((number for number, held in enumerate(sure) if held), default=None)

    def _scores(self, model: PrefixModel, texts: Sequence[Fields], batch_size: int) -> Tensor:
        return self._decisions(model, texts, batch_size).logits

    def _decisions(self, model: PrefixModel, texts: Sequence[Fields], batch_size: int) -> Decisions:
        return self._combined(model, texts, self.inner.logits(model, texts, batch_size))

    def _combined(self, model: PrefixModel, texts: Sequence[Fields], said: Tensor) -> Decisions:
        """The answers to texts of which the classifier says ``said``."""
        if self.fitted.prefix_fingerprint != model.prefix.fingerprint:
            raise ArtifactError(
                f"expected word scores for the prefix {model.prefix.fingerprint}, got some for "
                f"{self.fitted.prefix_fingerprint}; run robust-prefix fit-word-scores on this run"
            )
        classes = len(model.task.labels)
        if len(self.fitted.bias) != classes:
            raise ArtifactError(
                f"expected word scores for {classes} classes, got them for "
                f"{len(self.fitted.bias)}; run robust-prefix fit-word-scores on this run"
            )
        limited, free = (each.to(said.device) for each in self.fitted.limited_and_free(texts))
        held = bounded(said, self.limit)
        # who has turned the classifier has the words left to turn, whose blocks hide them
        return Decisions(held + limited, unhidden=(said + free, held + free))

    def _slopes(
        self,
        model: PrefixModel,
        texts: Sequence[Fields],
        labels: Sequence[int],
        through: Through,
        batch_size: int,
    ) -> list[TokenGradients]:
        """What an attacker can follow: neither the bound nor the table of words has a slope.

        The bound is passed as if it were not there, and the words' scores by the linear map from
        embeddings that comes nearest to them (the stand-ins of Athalye, Carlini & Wagner, ICML
        2018, "Obfuscated Gradients Give a False Sense of Security"). With ``p`` the probability of
        the label, the classifier's own gradient counts ``(1 - p) / (1 - p of the classifier)``,
        which for two classes is exact.
        """
        found = self.inner.gradients(model, texts, labels, through, batch_size)
        said = self.inner.logits(model, texts, batch_size)
        scores = self._combined(model, texts, said).logits
        truth = torch.tensor(labels)[:, None]
        wrong, wrong_alone = (
            -torch.expm1(each.double().log_softmax(-1).gather(1, truth)[:, 0])
            for each in (scores, said)
        )
        shares = (wrong / wrong_alone.clamp_min(1e-12)).tolist()
        pull = scores.softmax(-1).scatter_add(1, truth, -torch.ones(truth.shape))
        directions = (pull @ self._map(model.backbone).T).numpy()
        losses = (-scores.log_softmax(-1).gather(1, truth)[:, 0]).tolist()
        return [
            dataclasses.replace(
                slope, gradient=_added(slope, share, direction, len(fields) - 1), loss=loss
            )
            for slope, share, direction, fields, loss in zip(
                found, shares, directions, texts, losses, strict=True
            )
        ]

    def _map(self, backbone: Backbone) -> Tensor:
        """The ridge regression of words' scores on their embeddings, float32
        ``(hidden, classes)``."""
        if backbone not in self._directions:
            tokens = readable_tokens(backbone)
            rows = self.fitted.rows
            known = [
                (token, rows[word])
                for token in tokens
                if (word := backbone.decode([token]).strip().lower()) in rows
            ]
            if not known:
                zeros = torch.zeros(backbone.hidden_size, len(self.fitted.bias))
                self._directions[backbone] = zeros
                return zeros
            vectors = backbone.embeddings[[token for token, _ in known]].double().cpu()
            wanted = self.fitted.scores[[row for _, row in known]].double()
            gram = vectors.T @ vectors
            gram += torch.eye(len(gram)) * _RIDGE * vectors.square().sum(1).mean()
            solved = torch.linalg.solve(gram, vectors.T @ wanted)
            self._directions[backbone] = solved.float()
        return self._directions[backbone]


def _added(slope: TokenGradients, share: float, direction: np.ndarray, column: int) -> np.ndarray:
    """The classifier's gradient by its share, and at each token of the column the words'."""
    gradient = slope.gradient * np.float32(share)
    of_words = [span is not None and span[0] == column for span in slope.spans]
    gradient[of_words] += direction
    return gradient
