"""Gradient substitution: greedy substitution by someone who has the weights.

Not a paper's attack: the first-order estimate of HotFlip (Ebrahimi et al. 2018,
https://aclanthology.org/P18-2006/) over the neighbours in the counter-fitted vectors (Mrksic et
al. 2016, https://aclanthology.org/N16-1018/). It has the words, the candidates, the share and the
budget of ``greedy-substitution``, so what it finds more is what the gradient is worth, and where
it finds less, the gradient through the defence misleads: a sign of gradient masking (Athalye et
al. 2018, https://arxiv.org/abs/1802.00420).

Of the text as it is so far the gradient says which neighbours would raise the loss most. The best
few are asked about, and the one that lowers the score of the true class most is taken; where none
does, the next few are. Then the gradient is taken anew, until the class changes, the share of
words is used up or the budget is gone. A gradient costs one query, as a text does.

Against a defence that tunes a prefix at inference the gradient is taken with that prefix held
constant (``through=fixed``) or back-propagated through its tuning (``through=unrolled``).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from pydantic import PositiveInt

from attacks.gradients import Gradients
from attacks.substitution import (
    Queries,
    Slot,
    SubstitutionAttack,
    SubstitutionConfig,
    place,
    substitute,
)
from robust_prefix.gradients import Through
from robust_prefix.tasks import Fields


@dataclass(frozen=True, kw_only=True)
class GradientSubstitutionConfig(SubstitutionConfig):
    """Settings of gradient substitution."""

    through: Through = "fixed"  # see ``GradientConfig``
    verified: PositiveInt = 8  # substitutions asked about at once, the most promising first


class GradientSubstitution(SubstitutionAttack[GradientSubstitutionConfig]):
    """The neighbours that the gradient through the defence promises most of."""

    name = "gradient-substitution"
    paper = "own; estimate of Ebrahimi et al. 2018, https://aclanthology.org/P18-2006/"
    knowledge = "gradient"
    edits = "listed neighbours in max_changed of the words, no other constraint"
    config_class = GradientSubstitutionConfig

    def _search(
        self,
        queries: Queries,
        fields: Fields,
        score: float,
        slots: list[Slot],
        limit: int,
        rng: random.Random,
    ) -> None:
        """See ``SubstitutionAttack``. Nothing is left to chance."""
        gradients = Gradients(queries, self.config.through)
        words: dict[Slot, str] = {}
        while len(words) < limit:
            choices = _by_gain(gradients, fields, words, slots)
            for start in range(0, len(choices), self.config.verified):
                some = choices[start : start + self.config.verified]
                scores = queries.ask([substitute(fields, words | choice) for choice in some])
                if queries.over:
                    return
                if scores.min() < score:
                    score = float(scores.min())
                    words |= some[int(scores.argmin())]
                    break
            else:
                return


def _by_gain(
    gradients: Gradients, fields: Fields, words: dict[Slot, str], slots: list[Slot]
) -> list[dict[Slot, str]]:
    """The substitutions left beside ``words``, those with the highest estimated loss first."""
    choices: list[dict[Slot, str]] = []
    gains: list[float] = []
    for found in gradients.of([substitute(fields, words)]):
        for slot in slots:
            if slot not in words:
                choices += [{slot: word} for word in slot.candidates]
                gains += gradients.gains(found, place(slot, words), slot.candidates).tolist()
    # What the text was cut before is nothing that the victim sees.
    order = [i for i in np.argsort(-np.array(gains), kind="stable") if np.isfinite(gains[i])]
    return [choices[i] for i in order]
