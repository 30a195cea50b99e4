"""The length is chosen by a rule, on dev, and a search goes on where it was stopped."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from robust_prefix import lengths
from robust_prefix.backbones import CausalBackbone
from robust_prefix.configs import (
    ConvPromptConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    TrainingConfig,
)
from robust_prefix.errors import ArtifactError, ConfigError
from robust_prefix.lengths import LENGTHS_FILE, LengthCurve, LengthPoint, choose_length
from robust_prefix.prefixes import PREFIX_FILE, Prefix
from robust_prefix.tasks import Task
from robust_prefix.training import train_prefix

TINY = TrainingConfig(epochs=3, batch_size=16, evaluations_per_epoch=1, learning_rate=0.02)


def curve(accuracies: dict[int, float], n: int = 100) -> LengthCurve:
    points = tuple(LengthPoint(length, a, n, 32 * length) for length, a in accuracies.items())
    return LengthCurve("prompt-tuning", points, {"seed": 0})


@pytest.mark.parametrize(
    ("accuracies", "n", "chosen"),
    [
        pytest.param({1: 0.6, 5: 0.8, 20: 0.9}, 100, 20, id="clearly better"),
        pytest.param({1: 0.6, 5: 0.88, 20: 0.9}, 100, 5, id="within an error of 3 points"),
        pytest.param({1: 0.6, 5: 0.88, 20: 0.9}, 10000, 20, id="the same on more texts"),
        pytest.param({1: 0.9, 5: 0.8, 20: 0.7}, 100, 1, id="falling"),
        pytest.param({1: 0.5, 5: 1.0, 20: 1.0}, 100, 5, id="nothing is wrong"),
        pytest.param({7: 0.0}, 100, 7, id="one"),
    ],
)
def test_the_shortest_that_is_as_good(accuracies: dict[int, float], n: int, chosen: int) -> None:
    assert curve(accuracies, n).chosen == chosen


def test_a_curve_comes_back(tmp_path: Path) -> None:
    path = tmp_path / LENGTHS_FILE
    curve({1: 0.5, 5: 0.75}).save(path)
    assert LengthCurve.load(path) == curve({1: 0.5, 5: 0.75})
    assert json.loads(path.read_text())["chosen"] == 5
    path.write_text('{"points": [{"length": 1}]}')
    with pytest.raises(ArtifactError, match="a length curve in"):
        LengthCurve.load(path)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What trainings were started."""
    seen: list[dict[str, Any]] = []

    def spy(*arguments: Any, **settings: Any) -> Prefix:
        seen.append(settings)
        return train_prefix(*arguments, **settings)

    monkeypatch.setattr(lengths, "train_prefix", spy)
    return seen


def test_each_length_is_trained_shortly(
    backbone: CausalBackbone, task: Task, calls: list[dict[str, Any]]
) -> None:
    short = dataclasses.replace(task, max_tokens=64)
    config = PromptTuningConfig(length=7, init="labels")
    training = dataclasses.replace(TINY, max_examples=20)
    found = choose_length(
        backbone, short, prefix=config, training=training, grid=(3, 1, 500), seed=2
    )
    assert [call["prefix"].length for call in calls] == [1, 3]
    assert {call["prefix"].init for call in calls} == {"labels"}
    assert {call["training"].epochs for call in calls} == {1}
    assert {call["training"].max_examples for call in calls} == {20}
    assert {call["seed"] for call in calls} == {2}
    assert [point.parameters for point in found.points] == [32, 96]
    assert all(point.dev_examples == 32 for point in found.points)
    assert found.method == "prompt-tuning"
    assert {call["training"].learning_rate for call in calls} == {TINY.learning_rate}
    calls.clear()
    mlp = PrefixTuningConfig(reparameterization="mlp", mlp_width=4)
    own = dataclasses.replace(training, learning_rate=None)
    choose_length(backbone, short, prefix=mlp, training=own, grid=(1,))
    assert [call["training"].learning_rate for call in calls] == [3e-4]


def test_a_search_goes_on_and_is_not_done_again(
    backbone: CausalBackbone,
    task: Task,
    calls: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def search(seed: int = 0) -> LengthCurve:
        config = PromptTuningConfig()
        return choose_length(
            backbone, short, prefix=config, training=TINY, grid=(1, 2), seed=seed, out=tmp_path
        )

    short = dataclasses.replace(task, max_tokens=64)
    with monkeypatch.context() as patch:
        whole = lengths.train_prefix

        def killed_at_two(*arguments: Any, **settings: Any) -> Prefix:
            if settings["prefix"].length == 2:
                raise KeyboardInterrupt
            return whole(*arguments, **settings)

        patch.setattr(lengths, "train_prefix", killed_at_two)
        with pytest.raises(KeyboardInterrupt):
            search()
    trained = tmp_path / "lengths" / "1" / PREFIX_FILE
    moments = [trained.stat().st_mtime_ns]
    calls.clear()
    with monkeypatch.context() as patch:
        whole = lengths.train_prefix

        def look_at_two(*arguments: Any, **settings: Any) -> Prefix:
            if settings["prefix"].length == 2:
                moments.append(trained.stat().st_mtime_ns)
            return whole(*arguments, **settings)

        patch.setattr(lengths, "train_prefix", look_at_two)
        found = search()
    assert moments[0] == moments[1]  # it was not trained again
    assert [call["prefix"].length for call in calls] == [1, 2]
    assert search() == found
    assert len(calls) == 2
    assert search(seed=1).settings["seed"] == 1
    assert len(calls) == 4


def test_what_cannot_be_chosen(backbone: CausalBackbone, task: Task) -> None:
    with pytest.raises(ConfigError, match="with a length to choose, got 'conv-prompt'"):
        choose_length(backbone, task, prefix=ConvPromptConfig())
    long = dataclasses.replace(task, max_tokens=255)
    with pytest.raises(ConfigError, match=r"at most 1 for tiny-llama beside .* got \[2, 4\]"):
        choose_length(backbone, long, prefix=PromptTuningConfig(), grid=(4, 2))
