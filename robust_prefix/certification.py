"""Certificates of a classifier's answers behind ``masked-vote``, whatever words are exchanged for,
and behind ``word-scores``, within word lists; the reasoning is in
:mod:`robust_prefix.certificates` and :mod:`robust_prefix.word_scores`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import comb
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass
from torch import Tensor

from robust_prefix.certificates import lower_bound, smoothed_radius, vote_radius
from robust_prefix.defenses import (
    Defense,
    Ensemble,
    Gate,
    MaskedVote,
    RobustPrefix,
    TextDefense,
    WordScoresDefense,
    layers,
)
from robust_prefix.errors import ConfigError
from robust_prefix.masks import Masks, count_words, every_mask, random_masks, visible_words
from robust_prefix.prefixes import PrefixModel, margins
from robust_prefix.synonyms import Substitutes
from robust_prefix.tasks import Fields
from robust_prefix.word_scores import words_in

Method = Literal["vote", "smoothed", "lists"]

MARGIN_ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 0.4}
"""By how much the margin of one text may differ between two batches: more than twice the most that
was met, which in bfloat16 was 0.15 in 280 copies of sentences."""


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class CertifyConfig:
    """Settings of a certificate.

    Attributes:
        method: ``vote`` certifies the answer that is given, ``smoothed`` that of the vote of all
            masks, ``lists`` the answer behind ``word-scores`` against listed substitutes.
        confidence: of ``smoothed``, for each text.
        select: masks drawn to choose the answer of ``smoothed``.
        estimate: masks drawn anew to count how often it is given.
        rounding: a copy whose two best classes are no further apart than this counts against the
            answer from the start, for in other company it may be given the other; by the model's
            number format where not given.
        seed: of the draws of ``smoothed``.
    """

    method: Method = "vote"
    confidence: float = Field(default=0.999, gt=0.5, lt=1)
    select: int = Field(default=20, ge=1)
    estimate: int = Field(default=200, ge=1)
    rounding: float | None = Field(default=None, ge=0)
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class Certificate:
    """What holds for one text.

    Attributes:
        label: class number of the answer; None where ``smoothed`` abstained.
        radius: substitutions of words that cannot change the answer, whatever they are; of
            ``lists`` listed ones.
        words: how many words of the text can be masked.
        support: of ``vote`` the share of the copies' ballots for the answer, of ``smoothed`` the
            lower bound of its share of all masks, of ``lists`` how far the words put it ahead at
            least, in logits.
        first_column: the words may be in any column from this one on; those before must stay.
    """

    label: int | None
    radius: int
    words: int
    support: float
    first_column: int = 0


def certify(
    model: PrefixModel,
    defense: Defense[Any],
    texts: Sequence[Fields],
    config: CertifyConfig | None = None,
    batch_size: int = 32,
    substitutes: Substitutes | None = None,
) -> Iterator[Certificate]:
    """The certificate of each text, in order, as soon as it is known.

    The number of words in a radius is that of the text as it is given. Defences before the vote
    must read each word for itself, so that no more words change behind them; the vote may wrap any
    defence that answers the same text the same way.

    Args:
        substitutes: what may stand for a lower-case word; ``lists`` needs it.

    Raises:
        ConfigError: the defence is not certified, and why.
    """
    config = config or CertifyConfig()
    if config.method == "lists":
        yield from _listed(model, defense, texts, substitutes, batch_size)
        return
    outer, vote = _certifiable(defense, config.method)
    read = [_read(outer, fields) for fields in texts]
    if config.method == "vote":
        yield from _votes(model, vote, read, config, batch_size)
    else:
        for number, fields in enumerate(read):
            rng = np.random.default_rng((config.seed, number))
            yield _smoothed(model, vote, fields, config, rng, batch_size)


def _listed(
    model: PrefixModel,
    defense: Defense[Any],
    texts: Sequence[Fields],
    substitutes: Substitutes | None,
    batch_size: int,
) -> Iterator[Certificate]:
    if not isinstance(defense, WordScoresDefense) or substitutes is None:
        raise ConfigError(
            f"expected {WordScoresDefense.name} in front and word lists for method lists, got "
            f"{defense.spec!r}{'' if substitutes else ' and no lists'}; what rewrites words before "
            "it may rewrite substitutes, and other defences are certified by method vote"
        )
    answers = defense.logits(model, texts, batch_size).argmax(-1).tolist()
    for fields, label in zip(texts, answers, strict=True):
        yield Certificate(
            label,
            defense.radius(fields, label, substitutes) or 0,
            words=len(words_in(fields)),
            support=defense.fitted.worst(fields, label, substitutes),
            first_column=len(fields) - 1,
        )


def _certifiable(
    defense: Defense[Any], method: Method
) -> tuple[list[TextDefense[Any]], MaskedVote]:
    """What stands before the vote, and the vote.

    Raises:
        ConfigError: there is no vote, or nothing can be certified of it.
    """
    outer: list[TextDefense[Any]] = []
    for layer in layers(defense):
        if not isinstance(layer, TextDefense):
            break
        outer.append(layer)
    if not isinstance(layer, MaskedVote):
        raise ConfigError(
            f"expected {MaskedVote.name}, alone or behind defences that rewrite text, got "
            f"{defense.spec!r}; others come without a certificate"
        )
    vote = layer
    for layer in outer:
        if not layer.keeps_words:
            raise ConfigError(
                f"expected only defences that read each word for itself before {vote.name}, got "
                f"{layer.name!r}, behind which one changed word may be several; certify "
                f"{vote.spec!r} without it"
            )
    unstable = any(_decides_by_rounding(layer) for layer in layers(vote.inner))
    if vote.inner.batch_dependent or vote.inner.randomized or unstable:
        raise ConfigError(
            f"expected a defence inside {vote.name} that answers a copy the same way each time, "
            f"got {vote.inner.spec!r}; choose another setting of it"
        )
    if method == "vote" and vote.config.draw != "length":
        raise ConfigError(
            f"expected {vote.name}(draw=length), got draw={vote.config.draw}, where a changed "
            "word changes every mask; certify with method smoothed, or draw=length"
        )
    return outer, vote


def _decides_by_rounding(layer: Defense[Any]) -> bool:
    """Whether rounding may turn an answer whose margin is large: at a gate's threshold it decides
    who answers, at a tolerance when tuning ends, and in a vote what a member near a tie says."""
    return (
        isinstance(layer, Gate)
        or (isinstance(layer, Ensemble | MaskedVote) and layer.config.combine == "vote")
        or (isinstance(layer, RobustPrefix) and layer.config.tolerance > 0)
    )


def _read(outer: Sequence[TextDefense[Any]], fields: Fields) -> Fields:
    for layer in outer:
        [fields] = layer.passed_on(fields)
    return fields


def _votes(
    model: PrefixModel,
    vote: MaskedVote,
    texts: Sequence[Fields],
    config: CertifyConfig,
    batch_size: int,
) -> Iterator[Certificate]:
    rounding = _rounding(model, config)
    for start in range(0, len(texts), batch_size):
        some = texts[start : start + batch_size]
        copies = [vote.passed_on(fields) for fields in some]
        answers = vote.answers(model, copies, batch_size)
        for fields, scores in zip(some, answers, strict=True):
            found = vote_certificate(vote, scores, vote.masks(fields), rounding)
            yield replace(found, first_column=vote.first_column(fields))


def _rounding(model: PrefixModel, config: CertifyConfig) -> float:
    if config.rounding is not None:
        return config.rounding
    return MARGIN_ROUNDING.get(model.backbone.dtype, max(MARGIN_ROUNDING.values()))


def vote_certificate(
    vote: MaskedVote, answers: Tensor, masks: Masks, rounding: float = 0.0
) -> Certificate:
    """The certificate of one text from what its copies were answered.

    Args:
        answers: scores ``(copies, classes)``.
        masks: which words each copy shows ``(copies, words)``.
        rounding: see ``CertifyConfig``.
    """
    label = int(vote.combined(answers).argmax())
    ballots = vote.ballots(answers)
    support = float(ballots[:, label].mean())
    if vote.config.combine == "mean":
        # the difference of two probabilities moves no more than that of their scores
        radius = vote_radius(ballots, masks, label, slack=rounding * len(ballots))
    else:
        sure = _sure(answers, rounding)
        # at worst every copy in doubt votes for the runner-up, whatever it shows
        radius = vote_radius(ballots[sure], masks[sure], label, slack=float((~sure).sum()))
    return Certificate(label, radius, masks.shape[1], support)


def _sure(answers: Tensor, rounding: float) -> NDArray[np.bool_]:
    """Whether a copy's answer is the same in any company ``(copies,)``."""
    sure: NDArray[np.bool_] = (margins(answers.double()) > rounding).numpy()
    return sure


def _smoothed(
    model: PrefixModel,
    vote: MaskedVote,
    fields: Fields,
    config: CertifyConfig,
    rng: np.random.Generator,
    batch_size: int,
) -> Certificate:
    """The certificate of one text for the vote of all masks of one size."""
    first = vote.first_column(fields)
    words = count_words(fields, first)
    visible = visible_words(words, vote.config.mask)
    rounding = _rounding(model, config)

    def answered(masks: Masks) -> NDArray[np.int_]:
        """How many copies are surely given each class."""
        copies = [tuple(column.text for column in copy) for copy in vote.masked(fields, masks)]
        [scores] = vote.answers(model, [copies], batch_size)
        chosen = scores.argmax(-1).numpy()[_sure(scores, rounding)]
        return np.bincount(chosen, minlength=scores.shape[1])

    share: float | Fraction
    if comb(words, visible) <= config.select + config.estimate:
        every = every_mask(words, visible)
        counts = answered(every)
        label = int(counts.argmax())
        share = Fraction(int(counts[label]), len(every))
    else:
        label = int(answered(random_masks(words, visible, config.select, rng)).argmax())
        counts = answered(random_masks(words, visible, config.estimate, rng))
        share = lower_bound(int(counts[label]), config.estimate, config.confidence)
    radius = smoothed_radius(share, words, visible)
    return Certificate(None if radius is None else label, radius or 0, words, float(share), first)
