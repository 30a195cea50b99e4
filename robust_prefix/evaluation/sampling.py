"""Which texts are attacked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from robust_prefix.data import load_split
from robust_prefix.errors import ConfigError, ResourceError
from robust_prefix.evaluation.protocols import Attack, Example, RecordedAttack
from robust_prefix.tasks import Task

if TYPE_CHECKING:
    from datasets import Dataset


def attacked_rows(task: Task, attack: Attack) -> Dataset | None:
    """The split that is attacked; None where it is not here and ``attack`` brings its own texts.

    Raises:
        ConfigError, ResourceError: there is none, and it is needed.
    """
    try:
        return load_split(task, "test")
    except (ConfigError, ResourceError):
        if isinstance(attack, RecordedAttack):
            return None
        raise


def sample_examples(task: Task, rows: Dataset, count: int, seed: int) -> list[Example]:
    """The first ``count`` rows of a seeded shuffle.

    Raises:
        ConfigError: there are not so many rows.
    """
    if not 1 <= count <= len(rows):
        raise ConfigError(
            f"expected 1 to {len(rows)} examples (the size of the split), got {count}"
        )
    chosen = shuffled(len(rows), seed)[:count]
    picked = rows.select(chosen)
    return [
        Example(index, tuple(row[column] for column in task.columns), row["label"])
        for index, row in zip(chosen, picked, strict=True)
    ]


def shuffled(count: int, seed: int) -> list[int]:
    """The numbers below ``count`` in a seeded order."""
    order: list[int] = np.random.default_rng(seed).permutation(count).tolist()
    return order
