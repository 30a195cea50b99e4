"""A moving average of the weights in training, kept in their place.

The mean of the states that stochastic gradient steps pass through generalises better than the last
of them (Izmailov, Podoprikhin, Garipov, Vetrov & Wilson, UAI 2018, "Averaging Weights Leads to
Wider Optima and Better Generalization"), under adversarial training above all (Gowal, Qin, Uesato,
Mann & Kohli, 2020, "Uncovering the Limits of Adversarial Training against Norm-Bounded
Adversarial Examples", who take the exponential one).
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from robust_prefix.backbones import Backbone
from robust_prefix.prefixes.learned import Learned
from robust_prefix.prefixes.method import Trainable


class MovingAverage(Trainable):
    """The parameters in training mode; in evaluation the moving average of what they were.

    Both are in the checkpoints, so that a killed training goes on to the same average.

    Args:
        parameters: what is trained.
        decay: share of the average that stays in a step. It begins lower, so that where training
            started is soon forgotten: step ``n`` keeps no more than ``(n + 1) / (n + 10)``.
    """

    def __init__(self, parameters: Trainable, decay: float) -> None:
        super().__init__()

        def moved(average: Tensor, now: Tensor, steps: Tensor | int) -> Tensor:
            count = int(steps)
            return average.lerp(now, 1 - min(decay, (count + 1) / (count + 10)))

        self.current = parameters
        self.average = AveragedModel(parameters, avg_fn=moved).requires_grad_(False)

    def forward(self, backbone: Backbone) -> Learned:
        """See ``Trainable``."""
        learned: Learned = (self.current if self.training else self.average)(backbone)
        return learned

    def notes(self) -> dict[str, Any]:
        """See ``Trainable``; of the average."""
        return cast(Trainable, self.average.module).notes()

    def update(self) -> None:
        """Take in the parameters of now; to be called after each step."""
        self.average.update_parameters(self.current)


def averaged(parameters: Trainable, decay: float) -> Trainable:
    """The parameters with a moving average of them, or as they are where ``decay`` is 0."""
    return MovingAverage(parameters, decay) if decay else parameters


def update_averages(module: nn.Module) -> None:
    """Tell every moving average in ``module`` that a step was made."""
    for part in module.modules():
        if isinstance(part, MovingAverage):
            part.update()
