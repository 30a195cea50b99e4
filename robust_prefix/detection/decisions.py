"""Answers, and how an attacker sees them who knows that a defence abstains or hides scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

_LEAST = 1e-3
"""By how much, in logits, an answer and an abstention are kept apart, beyond rounding."""


@dataclass(frozen=True)
class Decisions:
    """Class scores and, where the defence may abstain, how near it is to that.

    Attributes:
        logits: float32 ``(n, classes)``.
        excess: how far the detector's score is above its threshold ``(n,)``, in units in which the
            median clean text has -1; the text is refused where it is above 0, or NaN. None where
            the defence always answers.
        unhidden: the scores without what in the defence hides a part of them, as a bound does,
            each float32 ``(n, classes)``: with every bound left out, then with fewer of them left
            out; none where it hides nothing.
    """

    logits: Tensor
    excess: Tensor | None = None
    unhidden: tuple[Tensor, ...] = ()

    @property
    def abstained(self) -> Tensor:
        """Which texts get no answer, bool ``(n,)``."""
        if self.excess is None:
            return torch.zeros(len(self.logits), dtype=torch.bool)
        return ~(self.excess <= 0)  # what cannot be scored is no clean text

    @property
    def labels(self) -> list[int | None]:
        """Each text's class number; None for an abstention."""
        chosen = self.logits.argmax(-1).tolist()
        refused = self.abstained.tolist()
        return [None if no else label for label, no in zip(chosen, refused, strict=True)]

    @property
    def revealed(self) -> Decisions:
        """The same answers by the scores that an attacker follows who knows the defence.

        Where a defence answers by a bounded score, changes beyond the bound do not show, and a
        search that follows the answer's scores is misled rather than withstood (Athalye, Carlini &
        Wagner, ICML 2018; Tramer et al., NeurIPS 2020, "On Adaptive Attacks to Adversarial Example
        Defenses"). So each of ``unhidden`` that gives the answer that the defence gives, and is
        still in the attacker's way, is added to the defence's own scores, and those that give
        another, and are passed, count nothing. Of two classes the margin shown rises and falls
        with each of them and makes no leap before the answer changes; the scores are the mean, so
        that an attack that weighs probabilities meets scores of the usual size.
        """
        if not self.unhidden:
            return self
        answers = self.logits.argmax(-1)
        shown = self.logits.clone()
        for scores in self.unhidden:
            shown += scores * (scores.argmax(-1) == answers)[:, None]
        shown /= 1 + len(self.unhidden)
        same = (shown.argmax(-1) == answers)[:, None]  # or rounding has made two scores one
        return dataclasses.replace(self, logits=torch.where(same, shown, self.logits), unhidden=())


def as_attacked(
    decisions: Decisions, labels: Sequence[int], goal: Literal["misclassify", "keep"]
) -> Tensor:
    """Class scores whose argmax says whether an attack has reached its goal, float32
    ``(n, classes)``.

    Carlini & Wagner 2017, "Adversarial Examples Are Not Easily Detected", section 3.2, put the
    classifier and the detector into one function with one class more, for what is detected, and
    attack that. To an attack on classes this class is as good as the true one; so with ``m`` the
    margin of the true class and ``e`` the excess the margin shown is ``max(m, e)``: it is negative
    only where the classifier errs and the detector is silent, and a search that lowers it works
    on whichever still stands in its way. Where the goal is to ``keep`` an answer it is
    ``min(m, -e)``.

    Args:
        labels: class numbers, one a text, that the attack starts from.
        goal: see ``robust_prefix.evaluation.protocols.Goal``.
    """
    logits, excess = decisions.logits, decisions.excess
    if excess is None:
        return logits
    rows = torch.arange(len(logits), device=logits.device)
    own = torch.as_tensor(labels, device=logits.device)
    others = logits.index_put((rows, own), logits.new_tensor(-torch.inf))
    best = others.max(-1).values
    # refused and accepted stay so in float32, however large the logits are
    clear = torch.where(excess > 0, excess.clamp_min(_LEAST), excess.clamp_max(-_LEAST))
    margin = logits[rows, own] - best
    shown = torch.maximum(margin, clear) if goal == "misclassify" else torch.minimum(margin, -clear)
    # what was not the detector's doing is left alone, to the last bit
    score = torch.where(shown == margin, logits[rows, own], best + shown)
    return logits.index_put((rows, own), score)
