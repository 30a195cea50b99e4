"""Accuracy on clean text, with its interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from robust_prefix.data import rows_as_fields
from robust_prefix.defenses import Defense, NoDefense
from robust_prefix.evaluation.statistics import wilson
from robust_prefix.prefixes import PrefixModel

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Accuracy:
    """``correct`` of ``n`` texts."""

    correct: int
    n: int

    @property
    def value(self) -> float:
        """The share, 0 to 1."""
        return self.correct / self.n

    @property
    def interval(self) -> list[float]:
        """The 95% Wilson interval."""
        return wilson(self.correct, self.n).interval

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"value": self.value, "interval": self.interval, "n": self.n}

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.1%} [{low:.1%}, {high:.1%}] (n={self.n})"


def measure_accuracy(
    model: PrefixModel, rows: Dataset, defense: Defense[Any] | None = None
) -> Accuracy:
    """Share of ``rows`` whose class is the argmax over the label words.

    Args:
        rows: from :func:`robust_prefix.data.load_split`.
        defense: none where not given.
    """
    logits = (defense or NoDefense()).logits(model, rows_as_fields(model.task, rows))
    predictions = logits.argmax(-1).tolist()
    correct = sum(p == label for p, label in zip(predictions, rows["label"], strict=True))
    return Accuracy(correct, len(rows))
