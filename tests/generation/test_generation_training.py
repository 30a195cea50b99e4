"""A prefix learns what to say, the model stays frozen, and a killed training goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from robust_prefix import trainer
from robust_prefix.backbones import CausalBackbone
from robust_prefix.configs import DecodingConfig, PrefixTuningConfig, TrainingConfig
from robust_prefix.errors import ConfigError
from robust_prefix.generation import GenerationTask, Pair, PrefixGenerator, train_generation
from robust_prefix.generation.prompts import pair_rows
from robust_prefix.generation.training import GenerationObjective, _collate, _labelled
from robust_prefix.prefixes.prefix_tuning import build_parameters

from ..families import tiny_encoder, tiny_seq2seq
from .conftest import PAIRS, backwards, task_of

PREFIX = PrefixTuningConfig(length=5, init="random")
TRAINING = TrainingConfig(epochs=8, batch_size=4, learning_rate=0.02, evaluations_per_epoch=1)
SHORT = TrainingConfig(epochs=1, batch_size=4, learning_rate=0.02, evaluations_per_epoch=4)
DECODING = DecodingConfig(max_new_tokens=12)


def test_two_prefixes_make_one_model_say_two_things(talker: CausalBackbone, tmp_path: Path) -> None:
    """Every pair exactly, each way round, with the model as it was before."""
    before = {name: weight.clone() for name, weight in talker.model.named_parameters()}
    for name, pairs in (("forwards", PAIRS), ("backwards", [backwards(pair) for pair in PAIRS])):
        (tmp_path / name).mkdir()
        task = task_of(tmp_path / name, pairs)
        prefix = train_generation(talker, task, prefix=PREFIX, training=TRAINING)
        generator = PrefixGenerator(talker, task, prefix)
        found = generator.generate([pair.source for pair in pairs], DECODING)
        assert found == [pair.target for pair in pairs]
        assert generator.generate(["film, good"], DecodingConfig(beams=4)) == [pairs[0].target]
    for name, weight in talker.model.named_parameters():
        assert torch.equal(weight, before[name])


def test_the_loss_is_that_of_the_targets_tokens_alone(
    any_backbone: CausalBackbone, reviews: GenerationTask
) -> None:
    """Against the whole model's own forward behind real tokens as the prefix."""
    lead = any_backbone.tokenize(["the film is"])[0]
    start = any_backbone.token_keys_and_values(lead)
    config = PrefixTuningConfig(length=len(lead))
    objective = GenerationObjective(any_backbone, build_parameters(start, config))
    rows = pair_rows(any_backbone, reviews, PAIRS)
    batch = _collate(any_backbone, [_labelled(*row) for row in rows])
    found = objective(**batch)["loss"].item()
    # In evaluation the mean over rows is that over tokens, however the rows are put together.
    said = sum(len(tokens) - prompt for tokens, prompt in rows)
    counted = GenerationObjective(
        any_backbone, build_parameters(start, config), said / len(rows)
    ).eval()
    for size in (1, len(rows)):
        batches = [rows[n : n + size] for n in range(0, len(rows), size)]
        parts = [
            counted(**_collate(any_backbone, [_labelled(*row) for row in each]))["loss"].item()
            for each in batches
        ]
        assert sum(parts) / len(parts) == pytest.approx(found, rel=1e-4)
    losses = []
    for tokens, prompt in rows:
        scores = any_backbone.model(torch.tensor([[*lead, *tokens]])).logits[0].log_softmax(-1)
        for place in range(prompt, len(tokens)):
            losses.append(-scores[len(lead) + place - 1, tokens[place]])
        assert tokens[-1] == any_backbone.tokenizer.eos_token_id
    assert len(losses) == sum(len(tokens) - prompt for tokens, prompt in rows)
    assert found == pytest.approx(float(torch.stack(losses).mean()), rel=1e-4)
    assert set(objective.state_dict()) == {"prefix.tensor"}


class Killed(Exception):
    """Stands for a process that is gone."""


@contextmanager
def _killed_after(*_: Any, **__: Any) -> Iterator[Any]:
    def advance(step: int, note: str = "") -> None:
        if step >= 6:
            raise Killed

    yield advance


def test_a_killed_training_ends_in_the_same_prefix(
    talker: CausalBackbone, reviews: GenerationTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train() -> Any:
        return train_generation(
            talker, reviews, prefix=PREFIX, training=SHORT, seed=3, out=tmp_path / "run"
        )

    whole = train_generation(talker, reviews, prefix=PREFIX, training=SHORT, seed=3)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "progress", _killed_after)
        with pytest.raises(Killed):
            train()
    assert list((tmp_path / "run" / "checkpoints").glob("checkpoint-*"))
    with pytest.raises(ConfigError, match="expected the settings of the run begun in"):
        train_generation(talker, reviews, prefix=PREFIX, training=TRAINING, out=tmp_path / "run")
    resumed = train()
    torch.testing.assert_close(resumed.tensor, whole.tensor)
    history = json.loads((tmp_path / "run" / "training.json").read_text())["history"]
    losses = [row["dev_loss"] for row in history if "dev_loss" in row]
    assert resumed.config["dev_loss"] == min(losses)
    assert resumed.config["generation_task"] == reviews.to_dict()
    monkeypatch.setattr(trainer, "run_trainer", None)
    assert torch.equal(train().tensor, resumed.tensor), "it was trained again"


@pytest.mark.parametrize(
    ("prefix", "training", "message"),
    [
        ({"layers": "0-1"}, {}, "a prefix in every layer to generate with, got layers=0-1"),
        ({"answer": "head"}, {}, "settings that need no classes, got answer=head"),
        ({"init": "labels"}, {}, "settings that need no classes, got init=labels"),
        ({"init": "activations"}, {}, "got init=activations"),
        ({}, {"adversary": "pgd"}, "expected adversary=none to train generation, got 'pgd'"),
        ({"length": 250}, {}, "at most 256 positions .* lower the length"),
    ],
    ids=["layers", "head", "labels", "activations", "adversary", "length"],
)
def test_settings_for_classifiers_are_refused(
    talker: CausalBackbone,
    reviews: GenerationTask,
    prefix: dict[str, Any],
    training: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(ConfigError, match=message):
        train_generation(
            talker,
            reviews,
            prefix=PrefixTuningConfig(**prefix),
            training=TrainingConfig(**training),
        )


@pytest.mark.parametrize("init", ["text", "vocabulary", "random"])
def test_every_start_can_be_trained_from(
    talker: CausalBackbone, reviews: GenerationTask, init: Any
) -> None:
    config = PrefixTuningConfig(length=4, init=init, reparameterization="mlp", mlp_width=8)
    prefix = train_generation(talker, reviews, prefix=config, training=SHORT)
    assert prefix.tensor.shape == talker.prefix_shape(4)
    assert prefix.config["prefix"]["init"] == init


def test_only_decoders_are_trained(reviews: GenerationTask) -> None:
    for other in (tiny_encoder("bert"), tiny_seq2seq("bart")):
        with pytest.raises(ConfigError, match="expected a decoder to generate text with"):
            train_generation(other, reviews)


def test_a_target_is_told_from_its_prompt(talker: CausalBackbone, reviews: GenerationTask) -> None:
    [(tokens, prompt)] = pair_rows(talker, reviews, [Pair("film", "  is good ")])
    assert talker.decode(tokens[:prompt]) == "film ->"
    assert talker.decode(tokens[prompt:-1]) == " is good"
