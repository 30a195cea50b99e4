"""Training a prefix on a task with the language model frozen, on ``transformers.Trainer``.

A method whose result is words is searched by :mod:`robust_prefix.search` instead.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robust_prefix.backbones import Backbone
from robust_prefix.configs import MethodConfig, PrefixTuningConfig, TrainingConfig
from robust_prefix.data import fingerprint_rows, load_split, rows_as_fields
from robust_prefix.errors import ConfigError
from robust_prefix.moving_average import averaged
from robust_prefix.objectives import (
    PrefixObjective,
    ReadingPrompter,
    Rewriter,
    TextReader,
    build_adversary,
    needs_substitutes,
)
from robust_prefix.prefixes import Prefix, method_of
from robust_prefix.prefixes.hard_prompt import HardPrompt
from robust_prefix.prefixes.model import Prompter
from robust_prefix.prefixes.searched import Searched
from robust_prefix.search import check_searchable, search_words
from robust_prefix.synonyms import Substitutes, word_counts
from robust_prefix.tasks import Task
from robust_prefix.trainer import (
    check_finite,
    checkpoint_folder,
    finished,
    keep,
    run_trainer,
    trained_parameters,
)
from robust_prefix.word_scores import CrossFitted

if TYPE_CHECKING:
    from datasets import Dataset


def train_prefix(
    backbone: Backbone,
    task: Task,
    *,
    prefix: MethodConfig | None = None,
    training: TrainingConfig | None = None,
    start: Prefix | None = None,
    substitutes: Substitutes | None = None,
    reader: TextReader | None = None,
    words: CrossFitted | None = None,
    behind_words: Rewriter | None = None,
    seed: int = 0,
    out: str | Path | None = None,
) -> Prefix:
    """Train a prefix on the task's train split.

    The state with the best accuracy on the dev split is returned; with an adversary the last one.

    Args:
        prefix: settings of a method, which name it; of prefix-tuning where not given.
        training: settings of the optimisation, the adversary among them.
        start: a trained prefix to go on from, in place of the method's ``init``.
        substitutes: what may stand for a word, for an adversary that substitutes synonyms; see
            ``attacks.lexicon``.
        reader: a defence that rewrites text, such as ``Synonyms``; the prefix is trained and
            measured on what it makes of each text, and so is to be used behind it.
        words: scores of words that are added to the classifier's, in the loss and on dev, so that
            the prefix learns what they leave open; it is to be used behind ``word-scores``.
        behind_words: a defence that rewrites text for the model and not for the word scores, such
            as ``Synonyms`` in ``word-scores+synonyms``.
        seed: of the start, where it is random, and of the order of the data.
        out: a folder for checkpoints, from which a killed run continues to the same result, for
            the loss curve ``training.json`` and the prefix; without it nothing is written. A
            training that was finished there with the same settings is not done again.

    Returns:
        The prefix; its ``config`` holds the settings and the dev accuracy.

    Raises:
        ArtifactError: ``start`` belongs to another base model.
        ConfigError: a label word is several tokens, the adversary is unknown, ``prefix`` does not
            fit the model, the task or ``start``, ``words`` are of other classes, or ``out`` holds
            checkpoints of other settings.
        InputError: the data does not fit the task.
    """
    from transformers import set_seed

    method = method_of(prefix or PrefixTuningConfig())
    training = training or TrainingConfig()
    rate = training.learning_rate or method.own_learning_rate()
    training = dataclasses.replace(training, learning_rate=rate)
    if isinstance(method, Searched):
        check_searchable(method, training)
        if words is not None:
            raise ConfigError(
                f"expected a method that is optimised beside word scores, got {method.name}, whose "
                "result is words; leave the word scores out"
            )
    set_seed(seed)
    head = method.has_head(backbone)
    prompter = (
        Prompter(backbone, task, head)
        if behind_words is None
        else ReadingPrompter(behind_words, backbone, task, head)
    )
    train_rows = load_split(task, "train")
    if training.max_examples:
        train_rows = train_rows.select(range(min(training.max_examples, len(train_rows))))
    dev_rows = load_split(task, "dev")
    settings = {
        "method": method.name,
        "prefix": dataclasses.asdict(method.config),
        "training": dataclasses.asdict(training),
        "seed": seed,
        "task": task.to_dict(),
        "train_examples": len(train_rows),
        # What the rows are: a file may change its place or what stands in it.
        "data": {"train": fingerprint_rows(train_rows), "dev": fingerprint_rows(dev_rows)},
        "dtype": str(backbone.dtype).removeprefix("torch."),
    }
    # What is not given stands there, too: without it another training is meant.
    settings["start"] = start.fingerprint if start is not None else None
    settings["reader"] = reader.spec if reader is not None else None
    settings["behind_words"] = behind_words.spec if behind_words is not None else None
    settings["word_scores"] = None
    if reader is not None:
        train_rows, dev_rows = (_read(task, rows, reader) for rows in (train_rows, dev_rows))
        substitutes = substitutes and _read_substitutes(substitutes, reader)
    if words is not None:
        if len(words.whole.bias) != len(task.labels):
            raise ConfigError(
                f"expected word scores for the {len(task.labels)} classes of {task.name}, got some "
                f"for {len(words.whole.bias)}; fit them on a run of this task"
            )
        # of the folds their number: the same scores and data give the same again; the limit
        # decides which state is the best on dev
        settings["word_scores"] = [words.whole.fingerprint, len(words.folds), words.limit]
    if substitutes is not None and needs_substitutes(training.adversary):
        settings["substitutes"] = _fingerprint_lists(train_rows, task, substitutes)
    folder = Path(out) if out is not None else None
    if folder is not None and (before := finished(folder, settings, backbone)) is not None:
        return before
    objective = PrefixObjective(
        prompter,
        averaged(method.trainable(backbone, task, start), training.moving_average),
        build_adversary(training.adversary, prompter, substitutes, reader),
        rows_as_fields(task, train_rows),
        training.adversarial_weight,
        seed,
        words,
    )
    train, dev = (_encode(prompter, rows) for rows in (train_rows, dev_rows))
    if words is not None:
        # Rows are in the order of ``texts`` above, as ``index`` says.
        for row, fields in zip(train, rows_as_fields(task, train_rows), strict=True):
            row["beside"] = words.leaving_out(row["index"]).sums([fields])[0]
        for row, fields in zip(dev, rows_as_fields(task, dev_rows), strict=True):
            row["beside"] = words.whole.sums([fields])[0]
    longest = max(len(row["ids"]) for row in (*train, *dev))
    if method.length(task) + longest > backbone.max_positions:
        raise ConfigError(
            f"expected at most {backbone.max_positions} positions for {backbone.name}, got "
            f"{method.length(task)} virtual tokens and a text of {longest}; lower the length or "
            "the task's max_tokens"
        )
    with checkpoint_folder(folder, {**settings, "base": backbone.fingerprint}) as checkpoints:
        given = (prompter, train, dev, training, seed, checkpoints)
        history = (
            search_words(method, cast(HardPrompt, objective.prefix), *given)
            if isinstance(method, Searched)
            else _run_trainer(objective, rate, *given)
        )
    accuracies = [row["dev_accuracy"] for row in history if "dev_accuracy" in row]
    kept = max(accuracies) if training.adversary == "none" else accuracies[-1]
    found = {
        "dev_accuracy": kept,
        "dev_examples": len(dev_rows),
        "trained_parameters": trained_parameters(objective),
        **objective.prefix.notes(),
    }
    objective.eval()  # a moving average is what is measured, and so what is kept
    with torch.no_grad():
        trained = Prefix.of(objective.prefix(backbone), backbone, {**settings, **found})
    check_finite(trained)
    if folder is not None:
        keep(folder, trained, settings, history)
    return trained


def _read(task: Task, rows: Dataset, reader: TextReader) -> Dataset:
    """The rows as ``reader`` rewrites them."""

    def rewrite(row: dict[str, Any]) -> dict[str, Any]:
        read = reader.read(tuple(row[column] for column in task.columns))
        return {**row, **dict(zip(task.columns, read, strict=True))}

    return type(rows).from_list([rewrite(row) for row in rows], features=rows.features)


def _fingerprint_lists(rows: Dataset, task: Task, substitutes: Substitutes) -> str:
    """A hash of what may stand for each word of the training texts."""
    digest = hashlib.sha256()
    for word in sorted(word_counts(rows_as_fields(task, rows))):
        digest.update(json.dumps([word, *substitutes(word)]).encode())
    return digest.hexdigest()[:16]


def _read_substitutes(substitutes: Substitutes, reader: TextReader) -> Substitutes:
    """What is left of a word's substitutes once ``reader`` has rewritten them."""

    @cache
    def found(word: str) -> tuple[str, ...]:
        read = dict.fromkeys(text for w in substitutes(word) for text in reader.read((w,)))
        return tuple(text for text in read if text != word)

    return found


def _run_trainer(
    objective: PrefixObjective,
    learning_rate: float,
    prompter: Prompter,
    train: list[dict[str, Any]],
    dev: list[dict[str, Any]],
    config: TrainingConfig,
    seed: int,
    folder: Path,
) -> list[dict[str, float]]:
    """Train ``objective`` in place and load its best state; return the loss and dev curve."""
    return run_trainer(
        objective,
        learning_rate,
        train,
        dev,
        lambda rows: _collate(prompter.backbone, rows),
        config,
        seed,
        folder,
        prompter.backbone.device,
        # Clean dev accuracy would choose the state that has seen least of the adversary.
        keep_best=config.adversary == "none",
        measure=lambda output: {
            "accuracy": float(_right(output.predictions, output.label_ids).mean())
        },
    )


def _right(scores: NDArray[np.float32], labels: NDArray[np.int_]) -> NDArray[np.bool_]:
    """Which rows are answered right; scores that are not finite answer nothing."""
    found: NDArray[np.bool_] = (scores.argmax(-1) == labels) & np.isfinite(scores).all(-1)
    return found


def _encode(prompter: Prompter, rows: Dataset) -> list[dict[str, Any]]:
    encoded = prompter.encode(rows_as_fields(prompter.task, rows))
    return [
        {"ids": ids, "labels": label, "index": index}
        for index, (ids, label) in enumerate(zip(encoded.rows, rows["label"], strict=True))
    ]


def _collate(backbone: Backbone, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    batch = backbone.pad([row["ids"] for row in rows])
    labels = torch.tensor([row["labels"] for row in rows], device=backbone.device)
    index = torch.tensor([row["index"] for row in rows])
    found = {"ids": batch.ids, "answer": batch.answer, "labels": labels, "index": index}
    if batch.lengths is not None:
        found["lengths"] = batch.lengths
    if "beside" in rows[0]:
        found["beside"] = torch.stack([row["beside"] for row in rows]).to(backbone.device)
    return found
