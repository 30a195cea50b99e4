"""Masked voting: copies of a text, each showing a part of its words, are classified and asked.

Zeng et al., Computational Linguistics 2023, "Certified Robustness to Text Adversarial Attacks by
Randomized [MASK]" (RanMASK), after the randomized ablation of Levine & Feizi, AAAI 2020. There the
masks are drawn anew for every answer; here they are fixed, as in Levine & Feizi, NeurIPS 2020,
"(De)Randomized Smoothing for Certifiable Defense against Patch Attacks", so that an answer is the
same each time and :mod:`robust_prefix.certification` can say of this very answer how many words
may change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass
from torch import Tensor

from robust_prefix.defenses.voting import Combine, combined, votes
from robust_prefix.defenses.wrapping import WrappingDefense
from robust_prefix.gradients import Through, TokenGradients
from robust_prefix.masks import (
    DROP,
    STAND_IN,
    Layout,
    MaskedText,
    Masks,
    count_words,
    mask_fields,
    masks_by_length,
    masks_by_text,
)
from robust_prefix.prefixes import PrefixModel
from robust_prefix.tasks import Fields


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class MaskedVoteConfig:
    """Settings of the vote.

    Attributes:
        copies: how many copies are classified; a text of few words has fewer.
        mask: share of the copies in which a word is masked. Rounded, so that every word is shown
            in the same number of copies, in one at least.
        stand_in: what a masked word reads as; ``none`` leaves it out.
        combine: ``vote`` counts the copies' answers, and among equals the mean of their
            probabilities decides; ``mean`` takes that mean alone.
        layout: ``scattered`` shows words from anywhere, ``blocks`` runs of neighbours.
        draw: what decides which words a copy shows: ``length``, the number of words, so that a
            text with some words changed meets the same masks; ``text``, a hash of the text, so
            that an attacker gets another draw with every candidate. Only ``length`` is certified.
        columns: which of a task's columns are masked, ``all`` or the ``last``.
        seed: of the masks.
    """

    copies: int = Field(default=5, ge=1, le=10_000)
    mask: float = Field(default=0.8, ge=0, lt=1)
    stand_in: str = Field(default=STAND_IN, pattern=r"^[^\s,()=]+$")
    combine: Combine = "vote"
    layout: Layout = "scattered"
    draw: Literal["length", "text"] = "length"
    columns: Literal["all", "last"] = "all"
    seed: int = Field(default=0, ge=0)

    @property
    def shown(self) -> int:
        """In how many copies a word is shown."""
        return max(1, round(self.copies * (1 - self.mask)))


class MaskedVote(WrappingDefense[MaskedVoteConfig]):
    """The answer of most of the copies.

    The scores are log-probabilities: of the votes and, as one vote more, the mean of the copies'
    probabilities, which so decides between equals and is what an attacker can follow.
    """

    name = "masked-vote"
    summary = "asks copies that show a part of the words each; certifies substitutions of words"
    stage = 3
    config_type = MaskedVoteConfig

    def first_column(self, fields: Fields) -> int:
        """The number of the first column that is masked."""
        return 0 if self.config.columns == "all" else len(fields) - 1

    def masks(self, fields: Fields) -> Masks:
        """Which words each copy shows ``(copies, words)``."""
        words = count_words(fields, self.first_column(fields))
        copies, shown, seed = self.config.copies, self.config.shown, self.config.seed
        if self.config.draw == "text":
            return masks_by_text(fields, words, copies, shown, self.config.layout, seed)
        return masks_by_length(words, copies, shown, self.config.layout, seed)

    def masked(self, fields: Fields, masks: Masks) -> list[tuple[MaskedText, ...]]:
        """The copies of a text that show what ``masks`` say."""
        stand_in = "" if self.config.stand_in == DROP else self.config.stand_in
        first = self.first_column(fields)
        return [mask_fields(fields, shown, stand_in, first) for shown in masks]

    def passed_on(self, fields: Fields) -> list[Fields]:
        """See ``WrappingDefense``."""
        return [_texts(copy) for copy in self.masked(fields, self.masks(fields))]

    def answers(
        self, model: PrefixModel, copies: Sequence[Sequence[Fields]], batch_size: int = 32
    ) -> list[Tensor]:
        """The wrapped defence's scores of each text's copies, float32 ``(copies, classes)``.

        Equal copies, whosever they are, are classified once. Texts of as many words that differ in
        some of them have the other copies in common.
        """
        distinct = list(dict.fromkeys(copy for each in copies for copy in each))
        scores = self.inner.logits(model, distinct, batch_size)
        place = {copy: number for number, copy in enumerate(distinct)}
        return [scores[[place[copy] for copy in each]] for each in copies]

    def combined(self, answers: Tensor) -> Tensor:
        """The scores ``(classes,)`` that copies' scores ``(copies, classes)`` come to."""
        return combined(answers, self.config.combine)

    def ballots(self, answers: Tensor) -> np.ndarray:
        """What each copy gives to each class: one vote, or for ``mean`` its probabilities.

        Returns:
            float64 ``(copies, classes)``.
        """
        voted = self.config.combine == "vote"
        return (votes(answers) if voted else answers.double().softmax(-1)).numpy()

    def _scores(self, model: PrefixModel, texts: Sequence[Fields], batch_size: int) -> Tensor:
        scores = torch.empty(len(texts), len(model.task.labels))
        copies = [self.passed_on(fields) for fields in texts]
        for row, answers in enumerate(self.answers(model, copies, batch_size)):
            scores[row] = self.combined(answers)
        return scores

    def _slopes(
        self,
        model: PrefixModel,
        texts: Sequence[Fields],
        labels: Sequence[int],
        through: Through,
        batch_size: int,
    ) -> list[TokenGradients]:
        """The gradient of the mean probability, the votes counted as they are.

        A copy's share in it belongs to the tokens of the words that it shows; the template's
        tokens are left at zero.
        """
        copies = [self.masked(fields, self.masks(fields)) for fields in texts]
        asked = [[_texts(copy) for copy in each] for each in copies]
        answers = self.answers(model, asked, batch_size)
        found = iter(
            self.inner.gradients(
                model,
                [copy for each in asked for copy in each],
                [label for each, label in zip(asked, labels, strict=True) for _ in each],
                through,
                batch_size,
            )
        )
        return [
            self._slope(model, fields, label, scores, each, [next(found) for _ in each])
            for fields, label, scores, each in zip(texts, labels, answers, copies, strict=True)
        ]

    def _slope(
        self,
        model: PrefixModel,
        fields: Fields,
        label: int,
        answers: Tensor,
        copies: Sequence[tuple[MaskedText, ...]],
        slopes: Sequence[TokenGradients],
    ) -> TokenGradients:
        """One text's gradient from its copies'.

        With ``p_i`` the label's probability in copy ``i`` and ``L_i = -log p_i`` the loss is
        ``-log(votes + mean p_i) + const``, so its gradient is the sum over the copies of
        ``p_i / (copies * (votes + mean p_i))`` times that of ``L_i``.
        """
        probabilities = answers.double().softmax(-1)[:, label]
        counted = votes(answers)[:, label].sum() if self.config.combine == "vote" else 0
        # where every copy finds the label impossible they still have slopes, and equal weight
        probabilities = probabilities.clamp_min(1e-300)
        weights = probabilities / (len(answers) * (counted + probabilities.mean()))
        tokens = model.prompter.encode([fields]).rows[0]
        spans = model.prompter.spans(fields)
        token_at = {
            (span[0], place): number
            for number, span in enumerate(spans)
            if span is not None
            for place in range(span[1], span[2])
        }
        gradient = np.zeros((len(tokens), model.backbone.hidden_size), dtype=np.float32)
        for copy, weight, slope in zip(copies, weights.tolist(), slopes, strict=True):
            for span, row in zip(slope.spans, slope.gradient, strict=True):
                shown = span and copy[span[0]].original_span(span[1], span[2])
                # by its last character: a token may begin with the space before its word
                token = token_at.get((span[0], shown[1] - 1)) if span and shown else None
                if token is not None:
                    gradient[token] += weight * row
        loss = -float(self.combined(answers)[label])
        return TokenGradients(tokens=tokens, spans=spans, gradient=gradient, loss=loss)


def _texts(copy: Sequence[MaskedText]) -> Fields:
    return tuple(column.text for column in copy)
