"""An adversary that hides words: training for ``masked-vote``, whose copies show few of them.

Levine & Feizi, AAAI 2020, and Zeng et al., Computational Linguistics 2023, train the classifier
that they smooth on what it is going to be asked about: texts with as many words masked. Here the
share is drawn anew for each text, so that one prefix serves votes of several settings, and short
texts, of which a vote leaves a larger part.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass as checked_dataclass

from robust_prefix.masks import (
    DROP,
    STAND_IN,
    count_words,
    mask_fields,
    random_masks,
    visible_words,
)
from robust_prefix.objectives.base import Adversary, Minibatch, Prompts
from robust_prefix.tasks import Fields


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class MaskingConfig:
    """Settings of the masks.

    Attributes:
        low: the smallest share of a text's words that is masked.
        high: the largest; each text's share is drawn between the two. One word is left.
        copies: masked versions of each text a step.
        stand_in: what a masked word reads as, the vote's own; ``none`` leaves it out.
        columns: which of a task's columns are masked, ``all`` or the ``last``.
    """

    low: float = Field(default=0.5, ge=0, le=1)
    high: float = Field(default=0.9, ge=0, le=1)
    copies: int = Field(default=1, ge=1)
    stand_in: str = Field(default=STAND_IN, pattern=r"^[^\s,()=]+$")
    columns: Literal["all", "last"] = "all"

    @model_validator(mode="after")
    def _ordered(self) -> MaskingConfig:
        if self.low > self.high:
            raise ValueError(f"low={self.low} is more than high={self.high}")
        return self


class Masking(Adversary[MaskingConfig]):
    """Texts with some of their words masked, every choice of so many equally likely."""

    name = "masking"
    summary = "texts with words masked at random, for masked-vote"
    config_type = MaskingConfig

    def perturb(self, minibatch: Minibatch, seed: int) -> list[Prompts]:
        """The prompts of each version."""
        rng = np.random.default_rng((seed, minibatch.step))
        return [
            minibatch.embed([self._masked(fields, rng) for fields in minibatch.fields])
            for _ in range(self.config.copies)
        ]

    def _masked(self, fields: Fields, rng: np.random.Generator) -> Fields:
        first = 0 if self.config.columns == "all" else len(fields) - 1
        words = count_words(fields, first)
        visible = visible_words(words, rng.uniform(self.config.low, self.config.high))
        [shown] = random_masks(words, visible, 1, rng)
        stand_in = "" if self.config.stand_in == DROP else self.config.stand_in
        return tuple(column.text for column in mask_fields(fields, shown, stand_in, first))
