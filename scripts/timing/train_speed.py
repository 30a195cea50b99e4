"""(c) Training examples a second: ours, and PEFT's prefix-tuning under ``transformers.Trainer``.

Both train a prefix of the same length on the same examples in batches of the same size, with AdamW
and a linear decay. Two epochs are run, and the second is timed, from optimiser step to optimiser
step: set-up, the first allocations and loading are left out, and a whole epoch holds the same
examples whatever the batches.
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
from torch.optim.optimizer import register_optimizer_step_post_hook

from robust_prefix.backbones import CausalBackbone
from robust_prefix.classifier import PrefixClassifier
from robust_prefix.configs import PrefixTuningConfig, TrainingConfig
from robust_prefix.files import write_text
from robust_prefix.prefixes.model import Prompter
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

LEARNING_RATE = TrainingConfig().learning_rate


def measure(
    classifier: PrefixClassifier, material: Material, plan: Plan, batch_size: int, examples: int
) -> list[Row]:
    """One epoch of ``examples`` a round, other examples each round.

    Args:
        plan: its warm-up may be 0, for the first of two epochs is one.
    """
    backbone, length = classifier.model.backbone, classifier.model.prefix.length
    examples = min(examples, len(material.texts))
    prompter = Prompter(backbone, classifier.task)

    def theirs(make: Callable[[], Any], causal: bool, by_length: bool = False) -> Contestant:
        def train(number: int) -> float:
            rows = peft_rows(prompter, material.window(number, examples), causal)
            with second_epoch(steps, backbone.device) as took:
                train_peft(make(), rows, backbone, batch_size, 2, number, by_length)
            return took()

        return train

    def ours(number: int) -> float:
        with (
            task_of(classifier.task, material.window(number, examples)) as task,
            second_epoch(steps, backbone.device) as took,
        ):
            train_prefix(
                backbone,
                task,
                prefix=PrefixTuningConfig(length=length),
                training=TrainingConfig(epochs=2, batch_size=batch_size, evaluations_per_epoch=1),
                seed=number,
            )
        return took()

    def classify() -> Any:
        return sequence_classifier(backbone, length, prompter.label_tokens)

    steps = math.ceil(examples / batch_size)
    contestants = {
        OURS: ours,
        PEFT: theirs(lambda: causal_lm(backbone, length), causal=True),
        GROUPED: theirs(lambda: causal_lm(backbone, length), causal=True, by_length=True),
        CLASSIFIER: theirs(classify, causal=False),
    }
    with contests(PART, 1, len(contestants), plan) as run:
        return run({"batch": batch_size}, contestants, OURS, [examples] * plan.rounds)


@contextmanager
def second_epoch(steps: int, device: torch.device) -> Iterator[Callable[[], float]]:
    """Measure what any optimiser does inside: the seconds between the ends of two epochs.

    Args:
        steps: an epoch.

    Yields:
        What returns the seconds once both epochs are over.
    """
    ends: list[float] = []
    count = 0

    def after_step(*_: Any) -> None:
        nonlocal count
        count += 1
        if count in (steps, 2 * steps):
            if device.type == "cuda":
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    handle = register_optimizer_step_post_hook(after_step)
    try:
        yield lambda: ends[1] - ends[0]
    finally:
        handle.remove()


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
    backbone: CausalBackbone,
    batch_size: int,
    epochs: float,
    seed: int,
    by_length: bool = False,
) -> None:
    """Train in place with ``transformers.Trainer`` and its collator, padding to the longest."""
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
            num_train_epochs=epochs,
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
