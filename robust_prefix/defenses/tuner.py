"""Descent on one tensor that stacks independent problems, one an example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Losses = Callable[[Tensor, Tensor], Tensor]
"""``(parameters, rows)`` to the losses ``(len(rows),)`` of these rows of the parameters."""


class Rule(Protocol):
    """How one step is made of a gradient."""

    def init_state(self, parameters: Tensor) -> Any:
        """The state before the first step."""
        ...

    def update(
        self, parameters: Tensor, gradient: Tensor, losses: Tensor, state: Any
    ) -> tuple[Tensor, Any]:
        """One step: parameters and state after it.

        Args:
            gradient: of each row's loss, of the parameters' shape.
            losses: one a row ``(rows,)``.
        """
        ...


@dataclass(frozen=True)
class AdamState:
    """Step count and running moments, each of the parameters' shape."""

    step: int
    first: Tensor
    second: Tensor


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba, ICLR 2015, algorithm 1); what the paper uses."""

    learning_rate: float
    first_decay: float = 0.9
    second_decay: float = 0.999
    epsilon: float = 1e-8

    def init_state(self, parameters: Tensor) -> AdamState:
        """See ``Rule``."""
        zeros = torch.zeros_like(parameters)
        return AdamState(0, zeros, zeros)

    def update(
        self, parameters: Tensor, gradient: Tensor, losses: Tensor, state: AdamState
    ) -> tuple[Tensor, AdamState]:
        """See ``Rule``; element by element."""
        step = state.step + 1
        first = self.first_decay * state.first + (1 - self.first_decay) * gradient
        second = self.second_decay * state.second + (1 - self.second_decay) * gradient.square()
        # Far below epsilon: it changes no step, and at 0 the square root has no derivative.
        variance = (second / (1 - self.second_decay**step)).clamp_min(1e-30)
        direction = first / (1 - self.first_decay**step) / (variance.sqrt() + self.epsilon)
        return parameters - self.learning_rate * direction, AdamState(step, first, second)


@dataclass(frozen=True)
class Polyak:
    """Gradient steps of Polyak's length ("Introduction to Optimization", 1987, section 5.3).

    ``p - l / ||g||^2 g``: where the smallest loss is known to be 0, as that of a sum of squares
    with more parameters than terms is, the length needs no tuning, and falls with the loss.
    """

    def init_state(self, parameters: Tensor) -> None:
        """See ``Rule``; there is none."""

    def update(
        self, parameters: Tensor, gradient: Tensor, losses: Tensor, state: None
    ) -> tuple[Tensor, None]:
        """See ``Rule``."""
        squares = gradient.flatten(1).square().sum(1).clamp_min(torch.finfo(gradient.dtype).tiny)
        lengths = (losses / squares).view(-1, *[1] * (gradient.dim() - 1))
        return parameters - lengths * gradient, None


def descend(
    rule: Rule,
    start: Tensor,
    losses: Losses,
    steps: int,
    tolerance: float = 0.0,
    unrolled: bool = False,
) -> Tensor:
    """Parameters after ``steps`` steps from ``start``, each row as it would be alone.

    Args:
        start: ``(rows, ...)``.
        tolerance: a row whose loss is at most so large a part of its first one is left as it is,
            and its loss is not computed again.
        unrolled: keep the graph of every step, so that the result can be differentiated by
            whatever the losses depend on; they must have second derivatives. Otherwise the result
            is a constant.
    """
    state = rule.init_state(start)
    active = torch.arange(len(start), device=start.device)
    goals = torch.zeros(len(start), device=start.device)
    with torch.set_grad_enabled(unrolled):
        parameters = start.detach().requires_grad_(unrolled)
        for step in range(steps):
            with torch.enable_grad():
                at = parameters if unrolled else parameters.detach().requires_grad_()
                values = losses(at, active)
                (gradient,) = torch.autograd.grad(values.sum(), at, create_graph=unrolled)
            if step == 0:
                goals = tolerance * values.detach()
            everyone = torch.zeros_like(goals).index_put((active,), values)
            after, state = rule.update(at, gradient, everyone, state)
            active = active[values.detach() > goals[active]]
            if len(active) < len(start):
                moves = torch.zeros_like(goals, dtype=torch.bool)
                moves[active] = True
                after = after.where(moves.view(-1, *[1] * (after.dim() - 1)), at)
            parameters = after
            if not len(active):
                break
    return parameters if unrolled else parameters.detach()
