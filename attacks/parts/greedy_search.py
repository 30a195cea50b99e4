"""Greedy search under a budget. Imports TextAttack: import it only from a recipe."""

from __future__ import annotations

from typing import Any

from textattack.goal_function_results import GoalFunctionResultStatus
from textattack.search_methods import SearchMethod


def standing(result: Any) -> tuple[bool, float]:
    """How good a result is: the highest score, and before all others one that reaches the goal,
    which of three and more classes need not have it."""
    return result.goal_status == GoalFunctionResultStatus.SUCCEEDED, result.score


class GreedySearch(SearchMethod):
    """The best of all next steps, over and over.

    TextAttack's class of that name fails where the budget is gone between two steps.
    """

    is_black_box = True

    def perform_search(self, initial_result: Any) -> Any:
        """The first result that reaches the goal, else the last step's best."""
        best = initial_result
        while best.goal_status != GoalFunctionResultStatus.SUCCEEDED:
            candidates = self.get_transformations(
                best.attacked_text, original_text=initial_result.attacked_text
            )
            results, over = self.get_goal_results(candidates) if candidates else ([], True)
            best = max(results, key=standing, default=best)
            if over:
                break
        return best
