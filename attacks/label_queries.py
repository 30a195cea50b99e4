"""A victim that tells its answer and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attacks.victim import checked_logits
from robust_prefix.evaluation.protocols import Victim
from robust_prefix.tasks import Fields


class LabelQueries:
    """The victim's labels under a budget.

    Args:
        victim: what is asked.
        label: the true class.
        budget: how many texts may be asked about; None is no limit.
    """

    def __init__(self, victim: Victim, label: int, budget: int | None) -> None:
        self._victim = victim
        self._label = int(label)
        self._budget = budget
        self.made = 0

    @property
    def over(self) -> bool:
        """Whether the budget is gone."""
        return self._budget is not None and self.made >= self._budget

    def first_misclassified(self, texts: Sequence[Fields]) -> Fields | None:
        """Of as many of ``texts`` as the budget allows the first whose label is wrong."""
        if self._budget is not None:
            texts = texts[: self._budget - self.made]
        if not texts:
            return None
        self.made += len(texts)
        wrong = np.flatnonzero(checked_logits(self._victim, texts).argmax(axis=1) != self._label)
        return texts[wrong[0]] if wrong.size else None
