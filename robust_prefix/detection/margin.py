"""How unsure the plain answer is: attacks that stop at the first success stop at the boundary."""

from __future__ import annotations

from torch import Tensor

from robust_prefix.detection.base import Score, Seen
from robust_prefix.prefixes import margins


class Margin(Score):
    """The first class's lead over the second in logits, negated.

    The baseline of Hendrycks & Gimpel (ICLR 2017, "A Baseline for Detecting Misclassified and
    Out-of-Distribution Examples in Neural Networks"), in logits, for probabilities saturate.
    """

    name = "margin"
    summary = "how unsure the plain answer is"
    paper = "Hendrycks & Gimpel, ICLR 2017, A Baseline for Detecting Misclassified Examples"

    def __call__(self, seen: Seen) -> Tensor:
        """See ``Score``."""
        return -margins(seen.logits)
