"""Accuracy on clean text, with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from robust_prefix.backbones import Backbone
from robust_prefix.data import load_split, rows_as_fields
from robust_prefix.defenses import Defense, Fitted, NoDefense
from robust_prefix.evaluation.statistics import wilson
from robust_prefix.prefixes import Prefix, PrefixModel
from robust_prefix.runs import Run
from robust_prefix.tasks import Task

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
        return describe(self.to_dict())


def describe(accuracy: Mapping[str, Any]) -> str:
    """``90.3% [88.8%, 91.6%] (n=1821)`` from :meth:`Accuracy.to_dict`."""
    low, high = accuracy["interval"]
    return f"{accuracy['value']:.1%} [{low:.1%}, {high:.1%}] (n={accuracy['n']})"


def measure_accuracy(
    model: PrefixModel, rows: Dataset, defense: Defense[Any] | None = None
) -> Accuracy:
    """Share of ``rows`` whose class is the argmax over the label words; a refusal is wrong.

    Args:
        rows: from :func:`robust_prefix.data.load_split`.
        defense: none where not given.
    """
    decisions = (defense or NoDefense()).decide(model, rows_as_fields(model.task, rows))
    predictions = decisions.labels
    correct = sum(p == label for p, label in zip(predictions, rows["label"], strict=True))
    return Accuracy(correct, len(rows))


def measured_run(
    backbone: Backbone,
    task: Task,
    prefix: Prefix,
    max_examples: int = 0,
    defense: Defense[Any] | None = None,
    kept: Fitted | None = None,
) -> Run:
    """A run of a newly trained prefix, with its accuracy and its size.

    The accuracy is on the test split, or on dev where the task has no test split.

    Args:
        defense: what the prefix was trained behind; the run's default, and in the accuracy.
        kept: what goes into the run of it: synonym clusters and vocabulary, which are the task's;
            what else is fitted is one prefix's.
        max_examples: measure on the first so many rows only; 0 takes all.
    """
    split = "test" if "test" in task.splits else "dev"
    rows = load_split(task, split)
    if max_examples:
        rows = rows.select(range(min(max_examples, len(rows))))
    kept = kept or Fitted()
    accuracy = measure_accuracy(PrefixModel(backbone, task, prefix), rows, defense)
    return Run(
        task=task,
        prefix=prefix,
        synonyms=kept.synonyms,
        vocabulary=kept.vocabulary,
        defense=defense.spec if defense is not None else "none",
        measurements={
            "clean_accuracy": {"split": split, **accuracy.to_dict()},
            **{key: prefix.config[key] for key in ("dev_accuracy",) if key in prefix.config},
            "parameters": parameter_counts(backbone, prefix),
            **{key: prefix.config[key] for key in ("seed",) if key in prefix.config},
        },
    )


def parameter_counts(backbone: Backbone, prefix: Prefix) -> dict[str, float]:
    """How many numbers a prefix holds and how many were trained, with the model's for comparison.

    ``trainable`` is what was learned and kept, ``percent`` its share of the ``frozen`` ones;
    ``during_training`` counts what was dropped after training, too.
    """
    frozen = sum(weight.numel() for weight in backbone.model.parameters())
    kept = prefix.parameters
    return {
        "trainable": kept,
        "during_training": prefix.config.get("trained_parameters", kept),
        "frozen": frozen,
        "percent": 100 * kept / frozen,
    }
