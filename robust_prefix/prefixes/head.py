"""A linear classification head beside what a method learns, where no label words answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from robust_prefix.backbones import Backbone
from robust_prefix.prefixes.base import Prefix
from robust_prefix.prefixes.learned import Learned
from robust_prefix.prefixes.method import Trainable
from robust_prefix.tasks import Task


class WithHead(Trainable):
    """What a method learns, and a head.

    Args:
        inner: the method's parameters.
        start: ``(classes, hidden + 1)``, see :class:`robust_prefix.prefixes.Learned`.
    """

    def __init__(self, inner: Trainable, start: Tensor) -> None:
        super().__init__()
        self.inner = inner
        self.head = nn.Parameter(start.clone())

    def forward(self, backbone: Backbone) -> Learned:
        learned: Learned = self.inner(backbone)
        return replace(learned, head=self.head)

    def notes(self) -> dict[str, Any]:
        """See ``Trainable``."""
        return self.inner.notes()


def answers_by_head(answer: str, backbone: Backbone) -> bool:
    """Whether a head answers where the settings say ``answer``; by itself, ``auto``, only where
    the model has no words to answer with."""
    return answer == "head" or (answer == "auto" and not backbone.vocabulary)


def with_head(inner: Trainable, backbone: Backbone, task: Task, start: Prefix | None) -> WithHead:
    """``inner`` with the head of ``start``, or a new one where that has none."""
    head = start.head if start is not None else None
    return WithHead(inner, initial_head(backbone, task) if head is None else head)


def initial_head(backbone: Backbone, task: Task) -> Tensor:
    """Small weights at random and biases of zero, ``(classes, hidden + 1)``."""
    head = torch.zeros(len(task.labels), backbone.hidden_size + 1)
    head[:, :-1] = torch.randn(len(task.labels), backbone.hidden_size) * 0.02
    return head
