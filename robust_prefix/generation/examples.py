"""Labelled texts that a model writes class by class, for a classifier to be trained on.

What holds of a robust classifier on new text is short of data sooner than accuracy is (Schmidt,
Santurkar, Tsipras, Talwar & Madry, NeurIPS 2018, "Adversarially Robust Generalization Requires More
Data"), and of images generated data serves (Gowal et al., NeurIPS 2021, "Improving Robustness using
Generated Data"). Here a prefix is trained to write the last column of a task's rows behind the name
of the class, texts are drawn from it, and those are kept that classifiers say are of their class.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robust_prefix.classifier import PrefixClassifier
from robust_prefix.configs import ExamplesConfig
from robust_prefix.data import fingerprint_rows, load_file, load_split, rows_as_fields
from robust_prefix.errors import ConfigError, InputError
from robust_prefix.files import check_same, read_json, write_json, write_text
from robust_prefix.generation.generator import PrefixGenerator
from robust_prefix.generation.tasks import class_source
from robust_prefix.progress import progress
from robust_prefix.tasks import SPLITS, Fields, Task

_PATIENCE = 20  # batches without a text to keep
_COUNTS = ("written", "unfinished", "known", "doubted")


def generate_examples(
    generator: PrefixGenerator,
    task: Task,
    judges: Sequence[PrefixClassifier],
    count: int,
    out: str | Path,
    *,
    config: ExamplesConfig | None = None,
    seed: int = 0,
) -> dict[str, int]:
    """Write a CSV of texts and classes, in the columns of the task.

    Beside it, as ``NAME.json``, stands how it was made. A killed call goes on from its last batch
    when it is made again.

    Args:
        generator: trained on the classes of ``task``, see ``class_task``.
        judges: classifiers of ``task``. A text is kept where each answers with the class that it
            was written for, and their mean probability of it is ``min_probability`` or more.
        count: rows to write.
        out: a path that ends in ``.csv``.
        config: of the draws.
        seed: of the draws.

    Returns:
        How many texts were ``kept``, ``written`` in all, ``unfinished``, already ``known`` (they,
        or seven words of them in a row, stand in the task's dev or test split, or the text itself
        in train or before), and ``doubted`` by a judge.

    Raises:
        ConfigError: the generator was trained on something else, there is no judge, or at ``out``
            is a file that was made in another way.
        InputError: the judges keep none of many texts.
    """
    config = config or ExamplesConfig()
    out = Path(out)
    _check(generator, task, judges, out)
    told = out.with_suffix(".json")
    rows = load_split(task, "train")
    given = [fields[:-1] for fields in rows_as_fields(task, rows)]
    about = {
        "generator": generator.prefix.fingerprint,
        "judges": [f"{judge.model.prefix.fingerprint}: {judge.defense.spec}" for judge in judges],
        "config": dataclasses.asdict(config),
        "seed": seed,
        "train": fingerprint_rows(rows),
    }
    check_same(told, about)
    counts = dict.fromkeys(_COUNTS, 0)
    kept: list[tuple[Fields, int]] = []
    batches = 0
    if out.is_file():  # its .json is beside it, see _check
        before = load_file(task, out)
        kept = list(zip(rows_as_fields(task, before), before["label"], strict=True))
        state = read_json(told)
        batches, counts = state["batches"], state["counts"]
    else:  # first what it is, so that no file is left that cannot be gone on with
        write_json(told, {**about, "batches": batches, "counts": counts})
    known = _Known(task, [fields for fields, _ in kept])
    idle = 0
    with progress("examples", count, len(kept)) as advance:
        while len(kept) < count:
            drawn = _draw(generator, task, given, config, (seed, batches))
            counts["written"] += len(drawn)
            finished = [(fields, label) for fields, label in drawn if fields is not None]
            new = [each for each in finished if known.add(each[0])]
            good = _judged(new, judges, config)
            counts["unfinished"] += len(drawn) - len(finished)
            counts["known"] += len(finished) - len(new)
            counts["doubted"] += len(new) - len(good)
            kept += good[: count - len(kept)]
            batches += 1
            idle = 0 if good else idle + 1
            if idle == _PATIENCE:
                raise InputError(
                    f"expected texts that the judges take for their class, got none of the last "
                    f"{_PATIENCE * config.batch_size}; train the generator longer or lower "
                    "min_probability"
                )
            if kept:
                _write(out, task, kept)
            write_json(told, {**about, "batches": batches, "counts": counts})
            advance(len(kept), f"{len(kept) / counts['written']:.0%} kept")
    return {"kept": len(kept), **counts}


def _check(
    generator: PrefixGenerator, task: Task, judges: Sequence[PrefixClassifier], out: Path
) -> None:
    of = generator.task.classes_of
    if of is None or (of["name"], list(of["labels"])) != (task.name, list(task.labels)):
        raise ConfigError(
            f"expected a generator of the classes of {task.name}, got one of the task "
            f"{generator.task.name!r}; train it with train-generation --task {task.name}"
        )
    if not judges:
        raise ConfigError("expected at least one judge of what is written, got none")
    for judge in judges:
        if judge.task.labels != task.labels:
            raise ConfigError(
                f"expected judges of the classes {list(task.labels)}, got one of "
                f"{list(judge.task.labels)}"
            )
    if out.suffix != ".csv":
        raise ConfigError(f"expected a path that ends in .csv to write examples to, got {out}")
    if out.is_file() and not out.with_suffix(".json").is_file():
        raise ConfigError(
            f"expected nothing at {out}, or examples with {out.stem}.json beside them to go on "
            "with, got another file; choose another path with --out"
        )


def _draw(
    generator: PrefixGenerator,
    task: Task,
    given: Sequence[Fields],
    config: ExamplesConfig,
    seed: tuple[int, int],
) -> list[tuple[Fields | None, int]]:
    """A batch of texts with the numbers of their classes; None in place of one that did not end."""
    rng = np.random.default_rng(seed)
    labels = [place % len(task.labels) for place in range(config.batch_size)]
    before = [given[place] for place in rng.integers(len(given), size=config.batch_size)]
    sources = [
        class_source(task.labels[label], fields)
        for label, fields in zip(labels, before, strict=True)
    ]
    texts = generator.sample(sources, config.sampling, seed=int(rng.integers(2**32)))
    return [
        ((*fields, " ".join(text.split())) if text else None, label)
        for text, fields, label in zip(texts, before, labels, strict=True)
    ]


def _judged(
    examples: Sequence[tuple[Fields, int]],
    judges: Sequence[PrefixClassifier],
    config: ExamplesConfig,
) -> list[tuple[Fields, int]]:
    if not examples:
        return []
    texts = [fields for fields, _ in examples]
    labels = np.array([label for _, label in examples])
    decided = [judge.decide(texts, config.batch_size) for judge in judges]
    found = np.stack([each.logits.softmax(-1).numpy() for each in decided])
    answered = ~np.stack([each.abstained.numpy() for each in decided]).any(0)
    agree = answered & (found.argmax(-1) == labels).all(0)
    sure = found[:, np.arange(len(labels)), labels].mean(0) >= config.min_probability
    return [each for each, keep in zip(examples, agree & sure, strict=True) if keep]


class _Known:
    """Texts that are not to be written again, and rows of words of those that are to be new."""

    _WORDS = 7

    def __init__(self, task: Task, before: Iterable[Fields]) -> None:
        self._texts = set(before)
        self._runs: set[tuple[str, ...]] = set()
        for split in (name for name in SPLITS if name in task.splits):
            for fields in rows_as_fields(task, load_split(task, split)):
                self._texts.add(fields)
                if split != "train":
                    self._runs |= self._runs_of(fields)

    def add(self, fields: Fields) -> bool:
        """Whether the text is new; it is known from now on."""
        if fields in self._texts or not self._runs.isdisjoint(self._runs_of(fields)):
            return False
        self._texts.add(fields)
        return True

    def _runs_of(self, fields: Fields) -> set[tuple[str, ...]]:
        words = fields[-1].lower().split()
        return {
            tuple(words[start : start + self._WORDS])
            for start in range(len(words) - self._WORDS + 1)
        }


def _write(path: Path, task: Task, rows: Sequence[tuple[Fields, int]]) -> None:
    text = io.StringIO()
    writer: Any = csv.writer(text, lineterminator="\n")
    writer.writerow([*task.columns, task.label_column])
    writer.writerows([*fields, task.labels[label]] for fields, label in rows)
    write_text(path, text.getvalue())
