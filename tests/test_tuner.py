"""Descent on a stack of independent problems."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from robust_prefix.defenses import RobustPrefix
from robust_prefix.defenses.tuner import Adam, Polyak, Rule, descend
from robust_prefix.prefixes import PrefixModel
from robust_prefix.subspaces import Subspaces

WEIGHTS = torch.linspace(0.1, 4, 15).view(3, 5)
START = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
RULES = pytest.mark.parametrize("rule", [Adam(0.1), Polyak()], ids=["adam", "polyak"])


def _losses(parameters: Tensor, rows: Tensor) -> Tensor:
    return (WEIGHTS * parameters.square())[rows].sum(1)


def test_adam_is_torchs_adam() -> None:
    ours = descend(Adam(0.1), START, _losses, steps=25)
    theirs = START.clone().requires_grad_()
    optimizer = torch.optim.Adam([theirs], lr=0.1)
    for _ in range(25):
        optimizer.zero_grad()
        (WEIGHTS * theirs.square()).sum().backward()
        optimizer.step()
    torch.testing.assert_close(ours, theirs.detach(), atol=1e-6, rtol=1e-5)


def test_polyaks_step_is_its_formula() -> None:
    ours = descend(Polyak(), START, _losses, steps=1)
    for row in range(3):
        gradient = 2 * WEIGHTS[row] * START[row]
        loss = (WEIGHTS[row] * START[row].square()).sum()
        expected = START[row] - loss / gradient.square().sum() * gradient
        torch.testing.assert_close(ours[row], expected)


def test_polyak_needs_no_length_whatever_the_scale() -> None:
    far = _losses(descend(Polyak(), START, _losses, steps=200), torch.arange(3))
    assert (far < 1e-4 * _losses(START, torch.arange(3))).all()
    scaled = descend(Polyak(), START, lambda p, rows: 1e6 * _losses(p, rows), steps=200)
    torch.testing.assert_close(scaled, descend(Polyak(), START, _losses, steps=200))
    at_goal = descend(Polyak(), torch.zeros(3, 5), _losses, steps=3)
    assert torch.equal(at_goal, torch.zeros(3, 5))


@RULES
def test_each_row_is_tuned_as_it_would_be_alone(rule: Rule) -> None:
    together = descend(rule, START, _losses, steps=7)
    for row in range(3):

        def alone(parameters: Tensor, _: Tensor, row: int = row) -> Tensor:
            return (WEIGHTS[row] * parameters.square()).sum(1)

        torch.testing.assert_close(
            descend(rule, START[row : row + 1], alone, steps=7)[0], together[row]
        )


@RULES
def test_a_row_that_has_converged_is_left_alone(rule: Rule) -> None:
    asked: list[list[int]] = []
    start = START * torch.tensor([1.0, 3.0, 9.0])[:, None]

    def losses(parameters: Tensor, rows: Tensor) -> Tensor:
        asked.append(rows.tolist())
        return _losses(parameters, rows)

    reached = descend(rule, start, losses, steps=400, tolerance=0.25)
    assert asked[0] == [0, 1, 2]
    assert [] not in asked
    assert len(asked) < 400, "no row ever converged"
    assert all(set(later) <= set(earlier) for earlier, later in pairwise(asked))
    everyone = torch.arange(3)
    share = _losses(reached, everyone) / _losses(start, everyone)
    assert (share <= 0.25).all()
    for row in range(3):  # it stays where it was when it converged
        steps = max(number for number, rows in enumerate(asked) if row in rows)
        without = descend(rule, start, _losses, steps=steps)
        torch.testing.assert_close(reached[row], without[row])


def test_polyak_has_no_rate(model: PrefixModel, spaces: Subspaces) -> None:
    encoded = model.prompter.encode([("the film is good",), ("a dull plot",)])
    ours = RobustPrefix(spaces, optimizer="polyak", steps=4)
    again = RobustPrefix(spaces, optimizer="polyak", steps=4, learning_rate=0.9)
    assert torch.equal(
        ours.additional_prefix(model, encoded), again.additional_prefix(model, encoded)
    )


def test_examples_that_stop_early_cost_less(model: PrefixModel, spaces: Subspaces) -> None:
    texts = [("the film is good",), ("a dull plot",), ("warm",)]
    whole = RobustPrefix(spaces, optimizer="polyak", steps=20)
    early = RobustPrefix(spaces, optimizer="polyak", steps=20, tolerance=0.5)
    whole.logits(model, texts)
    early.logits(model, texts)
    assert 0 < early.cost.backward < 0.6 * whole.cost.backward
