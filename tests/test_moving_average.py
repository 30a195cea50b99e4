"""The average is the one of the definition, it is what is measured and kept, and it is resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from robust_prefix import moving_average
from robust_prefix.backbones import CausalBackbone
from robust_prefix.configs import TrainingConfig
from robust_prefix.data import load_split, rows_as_fields
from robust_prefix.defenses import NoDefense
from robust_prefix.errors import ConfigError
from robust_prefix.moving_average import MovingAverage, averaged
from robust_prefix.prefixes import PrefixModel, build_method
from robust_prefix.prefixes.prefix_tuning import DirectPrefix
from robust_prefix.tasks import Task
from robust_prefix.training import train_prefix

DECAY = 0.9
TRAINING = TrainingConfig(epochs=2, batch_size=4, learning_rate=0.05, moving_average=DECAY)


@given(
    st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=40),
    st.floats(0.05, 0.999),
)
def test_it_is_the_exponential_average_of_what_was_passed(
    states: list[float], decay: float
) -> None:
    """Against the sum that the recursion unrolls to: each state by its own weight."""
    held = MovingAverage(DirectPrefix(torch.zeros(1, 2, 1, 1, 1)), decay)
    for value in states:
        with torch.no_grad():
            held.current.tensor.fill_(value)
        held.update()
    kept = [min(decay, (step + 1) / (step + 10)) for step in range(1, len(states))]
    weights = [1.0 if step == 0 else 1 - kept[step - 1] for step in range(len(states))]
    for step, share in enumerate(kept):
        weights[: step + 1] = [weight * share for weight in weights[: step + 1]]
    assert sum(weights) == pytest.approx(1)
    expected = sum(weight * value for weight, value in zip(weights, states, strict=True))
    assert held.average.module.tensor.unique().item() == pytest.approx(expected, abs=1e-4)


def test_it_answers_in_evaluation_alone(backbone: CausalBackbone) -> None:
    held = MovingAverage(DirectPrefix(torch.zeros(backbone.prefix_shape(2))), DECAY)
    held.update()
    with torch.no_grad():
        held.current.tensor.fill_(1)
    assert held.train()(backbone).tensor.unique().tolist() == [1]
    assert held.eval()(backbone).tensor.unique().tolist() == [0]
    assert [name for name, weight in held.named_parameters() if weight.requires_grad] == [
        "current.tensor"
    ]


def test_without_a_share_there_is_none() -> None:
    parameters = DirectPrefix(torch.zeros(1, 2, 1, 1, 1))
    assert averaged(parameters, 0.0) is parameters


@pytest.mark.parametrize("adversary", ["none", "pgd"])
def test_training_keeps_and_measures_the_average(
    backbone: CausalBackbone,
    task: Task,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    adversary: str,
) -> None:
    passed: list[Tensor] = []

    class Noted(MovingAverage):
        def update(self) -> None:
            passed.append(self.current.tensor.detach().clone())
            super().update()

    monkeypatch.setattr(moving_average, "MovingAverage", Noted)
    config = TrainingConfig(
        epochs=2,
        batch_size=4,
        learning_rate=0.05,
        moving_average=DECAY,
        evaluations_per_epoch=1,
        adversary=adversary,
    )
    prefix = train_prefix(backbone, task, training=config, out=tmp_path)
    assert len(passed) == 16
    means = [passed[0]]
    for step, state in enumerate(passed[1:], 1):
        share = min(DECAY, (step + 1) / (step + 10))
        means.append(share * means[-1] + (1 - share) * state)
    at_evaluations = [means[7], means[15]]
    wanted = at_evaluations if adversary == "none" else at_evaluations[1:]  # of them the best
    assert any(torch.allclose(prefix.tensor, mean, atol=1e-5) for mean in wanted)
    assert not torch.allclose(prefix.tensor, passed[15], atol=1e-3)
    assert prefix.config["trained_parameters"] == prefix.tensor.numel()
    dev = load_split(task, "dev")
    model = PrefixModel(backbone, task, prefix)
    found = NoDefense().logits(model, rows_as_fields(task, dev)).argmax(-1)
    right = (found == torch.tensor(dev["label"])).float().mean()
    history = json.loads((tmp_path / "training.json").read_text())["history"]
    assert right == pytest.approx(prefix.config["dev_accuracy"])
    assert prefix.config["dev_accuracy"] in [row.get("dev_accuracy") for row in history]


def test_words_that_are_searched_have_no_average(backbone: CausalBackbone, task: Task) -> None:
    with pytest.raises(ConfigError, match=r"expected no moving average for .*, got 0\.9; leave"):
        train_prefix(backbone, task, prefix=build_method("autoprompt").config, training=TRAINING)
