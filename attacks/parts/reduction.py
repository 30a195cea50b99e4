"""Reducing a text while its answer stays. Imports TextAttack: import it only from a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textattack.goal_function_results import GoalFunctionResultStatus
from textattack.goal_functions import InputReduction
from textattack.search_methods import SearchMethod


class KeepAnswer(InputReduction):
    """A text of few words that gets the answer of the original.

    Its score is how sure of that answer the victim is. TextAttack's goal counts the words of all
    columns, those that must stay included, and fails on a text without words.

    Args:
        model_wrapper: the victim.
        reducible: for each column whether its words may go.
        target_words: how many of these words may be left; a text that has no more from the
            start is no success.
        **settings: as TextAttack's goal functions have them.
    """

    def __init__(
        self, model_wrapper: Any, reducible: Sequence[bool], target_words: int, **settings: Any
    ) -> None:
        super().__init__(model_wrapper, target_num_words=target_words, **settings)
        self._reducible = tuple(reducible)

    def words_left(self, text: Any) -> int:
        """How many words that may go ``text`` has."""
        columns = zip(text.words_per_input, self._reducible, strict=True)
        return sum(len(words) for words, reducible in columns if reducible)

    def is_kept(self, result: Any) -> bool:
        """Whether the victim answers as it does to the original."""
        return bool(result.raw_output.argmax() == self.ground_truth_output)

    def _is_goal_complete(self, model_output: Any, attacked_text: Any) -> bool:
        return bool(
            model_output.argmax() == self.ground_truth_output
            and attacked_text.text != self.initial_attacked_text.text
            and self.words_left(attacked_text) <= self.target_num_words
        )

    def _get_score(self, model_output: Any, attacked_text: Any) -> Any:
        return model_output[self.ground_truth_output]


class ReductionSearch(SearchMethod):
    """Removes word after word, the least important first, as long as the answer stays.

    In rounds: the words that are left are ranked by how sure of its answer the victim is without
    them, then removed in that order, those that are needed left in place. The last round is one
    that removes nothing.

    TextAttack ranks once, and takes the ranks for places in a text that has become shorter.
    """

    is_black_box = True

    def perform_search(self, initial_result: Any) -> Any:
        """The shortest text that was found."""
        best, over = initial_result, False
        while not (over or self._is_done(best)):
            before = best
            best, over = self._round(before)
            if best is before:
                break
        return best

    def _is_done(self, result: Any) -> bool:
        goal = self.goal_function
        return bool(
            result.goal_status == GoalFunctionResultStatus.SUCCEEDED
            or goal.words_left(result.attacked_text) <= goal.target_num_words
        )

    def _round(self, start: Any) -> tuple[Any, bool]:
        """One ranking and the removals after it; whether the budget is gone."""
        goal, text = self.goal_function, start.attacked_text
        indices = sorted(self.get_indices_to_order(text)[1])
        results, over = self.get_goal_results([text.delete_word_at_index(i) for i in indices])
        kept = [
            (result, index)
            for result, index in zip(results, indices, strict=False)  # the budget may cut it short
            if goal.is_kept(result)
        ]
        kept.sort(key=lambda item: item[0].score, reverse=True)
        if not kept:
            return start, over
        best, first = kept[0]
        removed = [first]
        for _, index in kept[1:]:
            if over or self._is_done(best):
                break
            place = index - sum(gone < index for gone in removed)
            results, over = self.get_goal_results([best.attacked_text.delete_word_at_index(place)])
            if results and goal.is_kept(results[0]):
                best = results[0]
                removed.append(index)
        return best, over
