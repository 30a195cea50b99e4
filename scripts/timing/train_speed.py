"""(c) Training examples a second: ours, and PEFT's prefix-tuning under ``transformers.Trainer``.

Both train a prefix of the same length on the same examples in batches of the same size, with AdamW
and a linear decay. One epoch is timed, from the first training pass to the end of the last step:
set-up, loading and what is done after an epoch are left out, and an epoch holds the same examples
whatever the batches. It is to have many steps: the more there are, the more alike in length ours
makes the texts of a batch, as it does in a real training.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.nn import Module
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

from robust_prefix.backbones import Backbone
from robust_prefix.classifier import PrefixClassifier
from robust_prefix.configs import MethodConfig, PrefixTuningConfig, TrainingConfig
from robust_prefix.files import write_text
from robust_prefix.prefixes.model import Prompter
from robust_prefix.prefixes.prefix_tuning import PrefixTuning
from robust_prefix.tasks import Task
from robust_prefix.training import train_prefix
from timing.interleave import Contestant
from timing.material import Material
from timing.peft_baselines import causal_lm, plain_tokenizer, sequence_classifier
from timing.results import Plan, Row, contests

PART = "training"
OURS = "train_prefix"
PEFT = "PEFT and Trainer"
GROUPED = "PEFT and Trainer, by length"
CLASSIFIER = "PEFT sequence classifier and Trainer"

Learner = Callable[[Material, int], float]
"""Trains on texts with a seed and returns the seconds that the steps took."""

LEARNING_RATE = PrefixTuning.learning_rate


def measure(
    classifier: PrefixClassifier, material: Material, plan: Plan, batch_size: int, examples: int
) -> list[Row]:
    """One epoch of ``examples`` a round, other examples each round.

    Args:
        plan: its warm-up may be 0: each trains on one batch beforehand.
    """
    backbone, length = classifier.model.backbone, classifier.model.prefix.length
    examples = min(examples, len(material.texts))
    prompter = Prompter(backbone, classifier.task)

    def theirs(make: Callable[[], Any], causal: bool, by_length: bool = False) -> Learner:
        def learn(rows: Material, seed: int) -> float:
            data = peft_rows(prompter, rows, causal)
            with one_epoch(math.ceil(len(data) / batch_size), backbone.device) as took:
                train_peft(make(), data, backbone, batch_size, seed, by_length)
            return took()

        return learn

    def ours(rows: Material, seed: int) -> float:
        method = PrefixTuningConfig(length=length)
        return epoch_of_ours(backbone, classifier.task, method, rows, batch_size, seed)

    def classify() -> Any:
        return sequence_classifier(backbone, length, prompter.label_tokens)

    def contestant(learn: Learner) -> Contestant:
        return lambda number: learn(material.window(number, examples), number)

    learners = {
        OURS: ours,
        PEFT: theirs(lambda: causal_lm(backbone, length), causal=True),
        GROUPED: theirs(lambda: causal_lm(backbone, length), causal=True, by_length=True),
        CLASSIFIER: theirs(classify, causal=False),
    }
    with contests(PART, 1, len(learners), plan) as run:
        for learn in learners.values():
            learn(material.window(0, min(examples, batch_size)), 0)
        entered = {name: contestant(learn) for name, learn in learners.items()}
        return run({"batch": batch_size}, entered, OURS, [examples] * plan.rounds)


def epoch_of_ours(
    backbone: Backbone,
    task: Task,
    method: MethodConfig,
    rows: Material,
    batch_size: int,
    seed: int,
) -> float:
    """Seconds of the steps of one epoch of ``train_prefix`` on these texts."""
    with (
        task_of(task, rows) as changed,
        one_epoch(math.ceil(len(rows.texts) / batch_size), backbone.device) as took,
    ):
        train_prefix(
            backbone,
            changed,
            prefix=method,
            training=TrainingConfig(epochs=1, batch_size=batch_size, evaluations_per_epoch=1),
            seed=seed,
        )
    return took()


@contextmanager
def one_epoch(steps: int, device: torch.device) -> Iterator[Callable[[], float]]:
    """Time what any optimiser does inside, from the first training pass to the end of a step.

    Args:
        steps: after which one the clock is stopped.

    Yields:
        What returns the seconds once the steps are done.
    """
    marks: list[float] = []
    done = 0

    def mark() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()
        marks.append(time.perf_counter())

    def before_pass(module: Module, _: Any) -> None:
        if module.training and torch.is_grad_enabled():
            started.remove()  # one is enough, and every module's pass comes by here
            mark()

    def after_step(*_: Any) -> None:
        nonlocal done
        done += 1
        if done == steps:
            mark()

    started = register_module_forward_pre_hook(before_pass)
    stepped = register_optimizer_step_post_hook(after_step)
    try:
        yield lambda: marks[1] - marks[0]
    finally:
        started.remove()
        stepped.remove()


@contextmanager
def task_of(task: Task, train: Material, dev: Material | None = None) -> Iterator[Task]:
    """``task`` with a train and a dev split of these texts, in a folder that is deleted afterwards.

    Without ``dev`` that split holds one text, so that measuring on it takes no time to speak of.
    """
    with tempfile.TemporaryDirectory() as folder:
        for split, rows in (("train", train), ("dev", dev or train.window(0, 1))):
            text = io.StringIO()
            writer = csv.writer(text)
            writer.writerow([*task.columns, task.label_column])
            for fields, label in zip(rows.texts, rows.labels, strict=True):
                writer.writerow([*fields, label])
            write_text(Path(folder) / f"{split}.csv", text.getvalue())
        splits = {"train": "train.csv", "dev": "dev.csv"}
        yield dataclasses.replace(task, data_dir=Path(folder), splits=splits)


def peft_rows(prompter: Prompter, material: Material, causal: bool) -> list[dict[str, Any]]:
    """Examples as ``Trainer`` takes them.

    Args:
        causal: the label word follows the prompt and is the one token with a label; otherwise the
            label is a class number.
    """
    words = prompter.label_tokens.tolist()
    rows = []
    for ids, label in zip(prompter.encode(material.texts).rows, material.labels, strict=True):
        tokens = [*ids, words[label]] if causal else list(ids)
        labels = [-100] * len(ids) + [words[label]] if causal else label
        rows.append({"input_ids": tokens, "attention_mask": [1] * len(tokens), "labels": labels})
    return rows


def train_peft(
    peft_model: Any,
    rows: Sequence[dict[str, Any]],
    backbone: Backbone,
    batch_size: int,
    seed: int,
    by_length: bool = False,
) -> None:
    """Train in place for one epoch with ``Trainer`` and its collator, padding to the longest."""
    from transformers import (
        DataCollatorForSeq2Seq,
        DataCollatorWithPadding,
        PrinterCallback,
        Trainer,
        TrainingArguments,
    )

    tokenizer = plain_tokenizer(backbone)
    causal = isinstance(rows[0]["labels"], list)
    collator = DataCollatorForSeq2Seq if causal else DataCollatorWithPadding
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            learning_rate=LEARNING_RATE,
            per_device_train_batch_size=batch_size,
            group_by_length=by_length,
            save_strategy="no",
            logging_steps=20,
            use_cpu=backbone.device.type == "cpu",
            disable_tqdm=True,
            report_to="none",
            remove_unused_columns=False,
            label_names=["labels"],
            seed=seed,
            dataloader_pin_memory=False,
        )
        trainer = Trainer(
            model=peft_model,
            args=arguments,
            train_dataset=rows,
            data_collator=collator(tokenizer, padding="longest"),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    peft_model.eval()
