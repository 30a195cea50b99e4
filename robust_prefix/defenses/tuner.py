"""Adam as a pure function of parameters and state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AdamState:
    """Step count and running moments, each of the parameters' shape."""

    step: int
    first: Tensor
    second: Tensor


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba, ICLR 2015, algorithm 1) on one tensor.

    Element by element, so one tensor that stacks independent problems, one an example, is tuned
    as each of them would be alone.
    """

    learning_rate: float
    first_decay: float = 0.9
    second_decay: float = 0.999
    epsilon: float = 1e-8

    def init_state(self, parameters: Tensor) -> AdamState:
        """The state before the first step."""
        zeros = torch.zeros_like(parameters)
        return AdamState(0, zeros, zeros)

    def update(
        self, parameters: Tensor, gradient: Tensor, state: AdamState
    ) -> tuple[Tensor, AdamState]:
        """One step down the gradient."""
        step = state.step + 1
        first = self.first_decay * state.first + (1 - self.first_decay) * gradient
        second = self.second_decay * state.second + (1 - self.second_decay) * gradient.square()
        # Far below epsilon: it changes no step, and at 0 the square root has no derivative.
        variance = (second / (1 - self.second_decay**step)).clamp_min(1e-30)
        direction = first / (1 - self.first_decay**step) / (variance.sqrt() + self.epsilon)
        return parameters - self.learning_rate * direction, AdamState(step, first, second)

    def run(
        self,
        parameters: Tensor,
        loss: Callable[[Tensor], Tensor],
        steps: int,
        unrolled: bool = False,
    ) -> Tensor:
        """``steps`` steps from ``parameters`` down a scalar ``loss``.

        Args:
            unrolled: keep the graph of every step, so that the result can be differentiated by
                whatever ``loss`` depends on; ``loss`` must have second derivatives. Otherwise the
                result is a constant.
        """
        state = self.init_state(parameters)
        with torch.set_grad_enabled(unrolled):
            parameters = parameters.detach().requires_grad_(unrolled)
            for _ in range(steps):
                with torch.enable_grad():
                    at = parameters if unrolled else parameters.detach().requires_grad_()
                    (gradient,) = torch.autograd.grad(loss(at), at, create_graph=unrolled)
                parameters, state = self.update(parameters, gradient, state)
        return parameters
