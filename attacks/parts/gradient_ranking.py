"""Words in the order of their gradients. Imports TextAttack: import it only from a recipe."""

from __future__ import annotations

from typing import Any

import numpy as np

from attacks.parts.importance_search import ImportanceSearch
from attacks.victim import gradient_victim, tokens_at
from attacks.words import places_in_columns
from robust_prefix.gradients import Through


class GradientRanking(ImportanceSearch):
    """Greedy search, the words ranked by our victims' gradients.

    A word's importance is the L1 norm of the mean gradient over its tokens. The gradient costs one
    query, which TextAttack does not count.

    Args:
        through: how to differentiate a defence that tunes at inference.
    """

    def __init__(self, through: Through) -> None:
        super().__init__(wir_method="gradient")
        self._through = through

    def _get_index_order(self, initial_text: Any, max_len: int = -1) -> tuple[np.ndarray, bool]:
        """The words that may change, the most important first; whether the budget is gone.

        Raises:
            ConfigError: the victim gives no gradients.
        """
        goal = self.goal_function
        victim = gradient_victim(goal.model.victim)
        indices = np.array(sorted(self.get_indices_to_order(initial_text)[1]), dtype=np.intp)
        if goal.num_queries >= goal.query_budget or not len(indices):
            return indices, True
        given = initial_text.tokenizer_input
        fields = (given,) if isinstance(given, str) else tuple(given)
        goal.num_queries += 1
        [found] = victim.gradients([fields], [goal.ground_truth_output], self._through)
        places = places_in_columns(fields, initial_text.words)
        scores = np.zeros(len(indices))
        for row, index in enumerate(indices):
            tokens = tokens_at(found, places[index])
            if tokens:
                scores[row] = np.abs(found.gradient[tokens].mean(axis=0)).sum()
        return indices[np.argsort(-scores, kind="stable")], goal.num_queries == goal.query_budget
