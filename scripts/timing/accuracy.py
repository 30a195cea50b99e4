"""Accuracy at equal steps: what a faster training would be worth nothing without.

All start, step and end alike but for what is compared: ours from real tokens, as it does by
default, and from noise; PEFT's from the noise that it draws, under ``Trainer``. Every prefix is
measured by our classifier on the same texts, PEFT's carried over number by number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from robust_prefix.classifier import PrefixClassifier
from robust_prefix.configs import PrefixTuningConfig, TrainingConfig
from robust_prefix.evaluation.statistics import wilson
from robust_prefix.prefixes import Prefix
from robust_prefix.prefixes.model import Prompter
from robust_prefix.progress import progress
from robust_prefix.training import train_prefix
from timing.material import Material
from timing.peft_baselines import causal_lm, prefix_of, prefix_weight
from timing.train_speed import OURS, PEFT, peft_rows, task_of, train_peft

FROM_NOISE = "train_prefix(init=random)"
PEFT_SMALL = "PEFT and Trainer, start times 0.02"


def measure(
    classifier: PrefixClassifier,
    train: Material,
    test: Material,
    batch_size: int,
    steps: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Train each for ``steps`` steps and measure it on ``test``: one JSON object a contestant."""
    backbone, length = classifier.model.backbone, classifier.model.prefix.length
    rows = train.window(0, batch_size * steps)

    def ours(init: Any) -> Callable[[], Prefix]:
        def learn() -> Prefix:
            with task_of(classifier.task, rows) as task:
                return train_prefix(
                    backbone,
                    task,
                    prefix=PrefixTuningConfig(length=length, init=init),
                    training=TrainingConfig(
                        epochs=1, batch_size=batch_size, evaluations_per_epoch=1
                    ),
                    seed=seed,
                )

        return learn

    def peft(scale: float) -> Callable[[], Prefix]:
        def learn() -> Prefix:
            torch.manual_seed(seed)
            model = causal_lm(backbone, length)
            with torch.no_grad():
                prefix_weight(model).mul_(scale)
            examples = peft_rows(Prompter(backbone, classifier.task), rows, causal=True)
            train_peft(model, examples, backbone, batch_size, seed)
            return prefix_of(model, backbone)

        return learn

    learners = {
        OURS: ours("text"),
        FROM_NOISE: ours("random"),
        PEFT: peft(1.0),
        PEFT_SMALL: peft(0.02),
    }
    found = []
    with progress("accuracy", len(learners)) as advance:
        for number, (name, learn) in enumerate(learners.items(), start=1):
            found.append({"contestant": name, "steps": steps, **score(classifier, learn(), test)})
            advance(number, name)
    return found


def score(classifier: PrefixClassifier, prefix: Prefix, test: Material) -> dict[str, Any]:
    """Accuracy of a prefix on ``test`` with its interval, as JSON values."""
    model = PrefixClassifier(classifier.model.backbone, classifier.task, prefix)
    scored = model.logits(test.texts)
    correct = _correct(scored, test.labels)
    estimate = wilson(correct, len(test.labels))
    return {"n": len(test.labels), "correct": correct, "accuracy": dataclasses.asdict(estimate)}


def _correct(scores: Tensor, labels: Sequence[int]) -> int:
    return int((scores.argmax(-1) == torch.tensor(labels)).sum())
