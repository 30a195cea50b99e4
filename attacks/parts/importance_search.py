"""Greedy search by importance. Imports TextAttack: import it only from a recipe."""

from __future__ import annotations

import math
from typing import Any

from textattack.goal_function_results import GoalFunctionResultStatus
from textattack.search_methods import GreedyWordSwapWIR


class ImportanceSearch(GreedyWordSwapWIR):
    """The best substitute of each word in turn, the most important word first.

    TextAttack's search does the same, with two differences. It looks for a word where it stood in
    the original, which after a word was split is another's place. And it looks at the text with
    the highest score alone, which of three and more classes need not be the one that succeeds.
    """

    def perform_search(self, initial_result: Any) -> Any:
        """Of the first substitutes that reach the goal the most similar one, else the last."""
        order, over = self._get_index_order(initial_result.attacked_text)
        best = initial_result
        for index in order:
            if over:
                break
            candidates = self.get_transformations(
                best.attacked_text,
                original_text=initial_result.attacked_text,
                indices_to_modify=[index],
                shifted_idxs=True,
            )
            if not candidates:
                continue
            results, over = self.get_goal_results(candidates)
            results = sorted(results, key=lambda result: -result.score)
            fooled = [r for r in results if r.goal_status == GoalFunctionResultStatus.SUCCEEDED]
            if fooled:
                return max(fooled, key=_similarity)
            if results and results[0].score > best.score:
                best = results[0]
        return best


def _similarity(result: Any) -> float:
    """With the original, where a constraint has measured it."""
    found = result.attacked_text.attack_attrs.get("similarity_score", -math.inf)
    return float(found)
