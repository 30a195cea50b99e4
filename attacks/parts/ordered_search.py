"""Greedy search in the order of the text. Imports TextAttack: import it only from a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textattack.goal_function_results import GoalFunctionResultStatus
from textattack.search_methods import SearchMethod

from attacks.parts.greedy_search import standing


class OrderedSearch(SearchMethod):
    """The best substitute of each word in turn, from the first to the last.

    Where that does not reach the goal, once more from the original, from the last to the first.
    """

    is_black_box = True

    def perform_search(self, initial_result: Any) -> Any:
        """The first result that reaches the goal, else the better of the two passes'."""
        indices = sorted(self.get_indices_to_order(initial_result.attacked_text)[1])
        best, over = self._pass(initial_result, indices)
        if over or best.goal_status == GoalFunctionResultStatus.SUCCEEDED:
            return best
        other, _ = self._pass(initial_result, indices[::-1])
        return max(best, other, key=standing)

    def _pass(self, initial_result: Any, indices: Sequence[int]) -> tuple[Any, bool]:
        """The result after all words or at the goal; whether the budget is gone."""
        best, over = initial_result, False
        for index in indices:
            candidates = self.get_transformations(
                best.attacked_text,
                original_text=initial_result.attacked_text,
                indices_to_modify=[index],
            )
            results, over = self.get_goal_results(candidates) if candidates else ([], over)
            best = max([best, *results], key=standing)
            if over or best.goal_status == GoalFunctionResultStatus.SUCCEEDED:
                break
        return best, over
