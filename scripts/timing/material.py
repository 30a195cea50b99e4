"""The texts that are measured on: real sentences, or the few that come with the package."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from robust_prefix.data import load_file, load_split, rows_as_fields
from robust_prefix.runs import ZOO
from robust_prefix.tasks import Fields, Task


@dataclass(frozen=True)
class Material:
    """Labelled texts in an order drawn from the seed.

    Attributes:
        source: what they are, in words.
    """

    texts: Sequence[Fields]
    labels: Sequence[int]
    source: str

    def window(self, number: int, size: int) -> Material:
        """The ``size`` texts of round ``number``; from the front again where they run out."""
        places = [(number * size + offset) % len(self.texts) for offset in range(size)]
        return Material(
            [self.texts[place] for place in places],
            [self.labels[place] for place in places],
            self.source,
        )


def load_material(task: Task, split: str, seed: int) -> Material:
    """A split of the task's data, or without a data folder the reviews of the demo.

    Raises:
        ResourceError: there is a data folder, but not the split.
        InputError: the data does not fit the task.
    """
    if task.data_dir is None:
        rows = load_file(task, ZOO / "demo_reviews.csv")
        source = f"the {len(rows)} reviews of the demo, for want of a data folder"
    else:
        rows = load_split(task, split)
        source = f"{task.name} {split}, {len(rows)} texts"
    pairs = list(zip(rows_as_fields(task, rows), rows["label"], strict=True))
    random.Random(seed).shuffle(pairs)
    texts, labels = zip(*pairs, strict=True)
    return Material(texts, labels, source)
