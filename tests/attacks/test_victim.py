"""The victim as TextAttack sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from attacks.base import Recipe
from attacks.victim import VictimWrapper
from robust_prefix.errors import InputError


class Fixed:
    """Answers every text with the rows it was given, in turn."""

    columns = ("text",)

    def __init__(self, rows: Sequence[Sequence[float]], classes: int | None = None) -> None:
        self.rows = np.array(rows, dtype=np.float32)
        self.labels = tuple(map(str, range(classes or self.rows.shape[1])))
        self.asked: list[tuple[str, ...]] = []

    def logits(self, texts: Sequence[tuple[str, ...]]) -> np.ndarray:
        self.asked.extend(texts)
        return self.rows[: len(texts)]


def wrapped(victim: Fixed) -> VictimWrapper:
    wrapper = VictimWrapper()
    wrapper.victim = victim
    return wrapper


ROWS = {
    "plain": [[1.0, -2.0], [0.5, 0.5]],
    "logits whose rows sum to 1": [[3.0, -2.0], [0.25, 0.75]],
    "a sure victim": [[40.0, -40.0], [45.0, -40.0]],
    "many classes": np.random.default_rng(0).normal(0, 5, (2, 1000)).tolist(),
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_textattack_takes_the_probabilities_as_they_are(
    rows: list[list[float]], build: Callable[..., Recipe]
) -> None:
    goal = build("deepwordbug")._attack.goal_function
    answers = wrapped(Fixed(rows))(["one", "two"])
    expected = torch.softmax(torch.tensor(rows, dtype=torch.float32).double(), dim=1)
    torch.testing.assert_close(goal._process_model_outputs(["one", "two"], answers), expected)
    # No second softmax, however the batch is cut.
    alone = goal._process_model_outputs(["one"], answers[:1])
    assert torch.equal(alone, goal._process_model_outputs(["one", "two"], answers)[:1])


def test_a_deletion_that_leaves_nothing_is_asked_about_as_a_sign() -> None:
    """No classifier takes an empty text; a text of one word, ranked by deletion, leaves one."""
    victim = Fixed([[1.0, 0.0], [0.0, 1.0]])
    wrapped(victim)([("a premise", " "), ("", "b")])
    assert victim.asked == [("a premise", "_"), ("_", "b")]


def test_a_sure_victims_answers_stay_apart() -> None:
    answers = wrapped(Fixed([[40.0, 0.0], [45.0, 0.0]]))(["one", "two"])
    assert answers.dtype == torch.float64
    assert answers[0, 1] > answers[1, 1] > 0


@pytest.mark.parametrize(
    ("texts", "fields"),
    [(["one", "two"], [("one",), ("two",)]), ([("a", "b")], [("a", "b")])],
    ids=["strings", "pairs"],
)
def test_the_victim_is_asked_for_fields(texts: list, fields: list) -> None:
    victim = Fixed([[0.0, 1.0], [1.0, 0.0]])
    wrapped(victim)(texts)
    assert victim.asked == fields


@pytest.mark.parametrize(
    ("victim", "message"),
    [
        (Fixed([[0.0, 1.0]]), r"expected logits of shape \(2, 2\) .* got \(1, 2\)"),
        (Fixed([[0.0], [1.0]], classes=3), r"expected logits of shape \(2, 3\)"),
        (Fixed([[0.0, 1.0], [float("nan"), 0.0]]), r"expected finite logits .*\('two',\)"),
    ],
    ids=["rows", "columns", "nan"],
)
def test_answers_that_are_no_logits_are_refused(victim: Fixed, message: str) -> None:
    with pytest.raises(InputError, match=message):
        wrapped(victim)(["one", "two"])
