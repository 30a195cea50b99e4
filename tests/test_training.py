"""Training learns, keeps the model frozen, and continues to the same result."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from robust_prefix import trainer, training
from robust_prefix.backbones import CausalBackbone
from robust_prefix.configs import PrefixTuningConfig, TrainingConfig
from robust_prefix.data import load_split, rows_as_fields
from robust_prefix.defenses import NoDefense
from robust_prefix.errors import ConfigError, RobustPrefixError
from robust_prefix.objectives import PrefixObjective
from robust_prefix.prefixes import PREFIX_FILE, Prefix, PrefixModel, build_method
from robust_prefix.prefixes.model import Prompter
from robust_prefix.prefixes.prefix_tuning import MLPPrefix, build_parameters, initial_prefix
from robust_prefix.tasks import Task
from robust_prefix.training import train_prefix

from .conftest import tiny_backbone

SHORT = TrainingConfig(epochs=2, batch_size=4, learning_rate=0.02, evaluations_per_epoch=2)


@pytest.mark.parametrize(("reparameterization", "learning_rate"), [("none", 0.05), ("mlp", 0.005)])
def test_training_learns_and_leaves_the_model_as_it_was(
    backbone: CausalBackbone,
    task: Task,
    tmp_path: Path,
    reparameterization: Literal["none", "mlp"],
    learning_rate: float,
) -> None:
    """A random model cannot be taught the task; that only label words are answers, it can."""
    before = {name: weight.clone() for name, weight in backbone.model.named_parameters()}
    prefix = train_prefix(
        backbone,
        task,
        prefix=PrefixTuningConfig(length=4, reparameterization=reparameterization, mlp_width=32),
        training=TrainingConfig(epochs=8, batch_size=8, learning_rate=learning_rate),
        out=tmp_path,
    )
    assert prefix.tensor.shape == backbone.prefix_shape(4)
    history = json.loads((tmp_path / "training.json").read_text())["history"]
    losses = [row["dev_loss"] for row in history if "dev_loss" in row]
    assert losses[-1] < 0.8 * losses[0]
    for name, weight in backbone.model.named_parameters():
        assert torch.equal(weight, before[name])


def test_the_loss_is_next_token_cross_entropy_of_the_label_word(
    backbone: CausalBackbone, task: Task
) -> None:
    """Against the whole model's own loss-free forward and the definition."""
    prompter = Prompter(backbone, task)
    start = initial_prefix(backbone, task, PrefixTuningConfig(length=3))
    objective = PrefixObjective(prompter, build_parameters(start, PrefixTuningConfig(length=3)))
    text = "the film is good and warm"
    batch = backbone.pad(prompter.encode([(text,)]).rows)
    loss = objective(batch.ids, batch.answer, torch.tensor([1]))["loss"]
    # A prefix of real keys and values is the text before the text.
    lead = backbone.tokenize([task.render(("",)) + "".join(task.label_words)])[0][:3]
    ids = torch.tensor([[*lead, *batch.ids[0].tolist()]])
    log_probabilities = backbone.model(ids).logits[0, -1].log_softmax(-1)
    positive = backbone.word_token(" positive")
    assert loss.item() == pytest.approx(-float(log_probabilities[positive]), rel=1e-4)


def test_dev_is_answered_as_the_classifier_answers(
    tokenizer: PreTrainedTokenizerFast, task: Task
) -> None:
    """Not from scores that bfloat16 has rounded, among which label words tie."""
    backbone = tiny_backbone("llama", tokenizer)
    backbone.model.bfloat16()
    start = initial_prefix(backbone, task, PrefixTuningConfig(length=3)).bfloat16().float()
    prompter = Prompter(backbone, task)
    objective = PrefixObjective(prompter, build_parameters(start, PrefixTuningConfig(length=3)))
    texts = rows_as_fields(task, load_split(task, "dev"))
    batch = backbone.pad(prompter.encode(texts).rows)
    with torch.no_grad():
        labels = torch.zeros(len(texts), dtype=torch.int64)
        found = objective.eval()(batch.ids, batch.answer, labels)
    prefix = Prefix(start, backbone.name, backbone.fingerprint)
    model = PrefixModel(backbone, task, prefix)
    with torch.no_grad():
        expected = model.logits(model.pad(prompter.encode(texts)))
    margins = [scores[:, 1] - scores[:, 0] for scores in (found["logits"], expected)]
    torch.testing.assert_close(*margins, atol=1e-3, rtol=0)


def test_a_checkpoint_holds_the_prefix_alone(backbone: CausalBackbone, task: Task) -> None:
    start = initial_prefix(backbone, task, PrefixTuningConfig(length=3))
    objective = PrefixObjective(
        Prompter(backbone, task), build_parameters(start, PrefixTuningConfig(length=3))
    )
    assert set(objective.state_dict()) == {"prefix.tensor"}


def test_the_mlp_starts_at_the_start_tensor(backbone: CausalBackbone) -> None:
    start = torch.randn(3, 2, 2, 4, 8)
    assert torch.equal(MLPPrefix(start, 16)(backbone).tensor, start)


class _Killed(BaseException):
    pass


def _kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Make training die after ``step`` steps, as it would from a signal."""

    @contextlib.contextmanager
    def deadly(description: str, total: int, done: int = 0) -> Iterator[object]:
        def advance(completed: int, note: str) -> None:
            if completed >= step:
                raise _Killed

        yield advance

    monkeypatch.setattr(trainer, "progress", deadly)


@pytest.mark.parametrize(
    ("step", "adversary", "moving_average"),
    [
        pytest.param(2, "none", 0, id="before any checkpoint"),
        pytest.param(5, "none", 0, id="mid-epoch"),
        pytest.param(13, "none", 0, id="later"),
        pytest.param(5, "substitution(edits=typos, variants=2)", 0, id="with an adversary"),
        pytest.param(5, "pgd", 0.9, id="with a moving average"),
    ],
)
def test_a_killed_training_ends_in_the_same_prefix(
    backbone: CausalBackbone,
    task: Task,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    adversary: str,
    moving_average: float,
) -> None:
    config = dataclasses.replace(SHORT, adversary=adversary, moving_average=moving_average)
    whole = train_prefix(backbone, task, training=config, seed=3, out=tmp_path / "whole")
    with monkeypatch.context() as patch:
        _kill_at(patch, step)
        with pytest.raises(_Killed):
            train_prefix(backbone, task, training=config, seed=3, out=tmp_path / "killed")
    resumed = train_prefix(backbone, task, training=config, seed=3, out=tmp_path / "killed")
    assert torch.equal(whole.tensor, resumed.tensor)
    curves = [
        json.loads((tmp_path / name / "training.json").read_text())["history"]
        for name in ("whole", "killed")
    ]
    assert curves[0] == curves[1]
    assert not (tmp_path / "killed" / "checkpoints").exists()


def test_a_finished_training_is_not_lost_and_not_done_again(
    backbone: CausalBackbone, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes after training may crash: hours of work must be there all the same."""
    trained = train_prefix(backbone, task, training=SHORT, seed=3, out=tmp_path)
    with monkeypatch.context() as patch:
        _kill_at(patch, 1)
        again = train_prefix(backbone, task, training=SHORT, seed=3, out=tmp_path)
        assert torch.equal(again.tensor, trained.tensor)
        assert again.config == json.loads(json.dumps(trained.config))
        # and another training does not take its place
        with pytest.raises(ConfigError, match="got a prefix with other seed; give another --out"):
            train_prefix(backbone, task, training=SHORT, seed=4, out=tmp_path)


@pytest.mark.parametrize("adversary", ["none", "pgd"])
def test_less_than_an_evaluation_interval_is_trained_and_measured(
    backbone: CausalBackbone, task: Task, tmp_path: Path, adversary: str
) -> None:
    config = TrainingConfig(epochs=0.5, batch_size=4, evaluations_per_epoch=1, adversary=adversary)
    prefix = train_prefix(backbone, task, training=config, out=tmp_path)
    history = json.loads((tmp_path / "training.json").read_text())["history"]
    assert [row["step"] for row in history if "dev_accuracy" in row] == [4]
    assert 0 <= prefix.config["dev_accuracy"] <= 1


def test_the_last_state_is_measured(backbone: CausalBackbone, task: Task, tmp_path: Path) -> None:
    """Wherever it lies between two evaluations: it is kept, or may be the best."""
    config = TrainingConfig(epochs=1.5, batch_size=4, evaluations_per_epoch=1, adversary="pgd")
    prefix = train_prefix(backbone, task, training=config, out=tmp_path)
    history = json.loads((tmp_path / "training.json").read_text())["history"]
    assert [row["step"] for row in history if "dev_accuracy" in row] == [8, 12]
    dev = load_split(task, "dev")
    model = PrefixModel(backbone, task, prefix)
    found = NoDefense().logits(model, rows_as_fields(task, dev)).argmax(-1)
    right = (found == torch.tensor(dev["label"])).float().mean()
    assert right == pytest.approx(prefix.config["dev_accuracy"])


def test_other_data_is_another_training(
    backbone: CausalBackbone, task: Task, data_dir: Path, tmp_path: Path
) -> None:
    """Of the same settings and as many rows: a label that was mended, or another folder."""
    given: dict[str, Any] = {"training": TrainingConfig(epochs=0.5), "out": tmp_path / "run"}
    shutil.copytree(data_dir / "sst2", tmp_path / "data" / "sst2")
    path = tmp_path / "data" / "sst2" / "train.csv"
    first = train_prefix(backbone, task, **given)
    moved = dataclasses.replace(task, data_dir=path.parents[1])
    assert train_prefix(backbone, moved, **given).fingerprint == first.fingerprint
    path.write_text(path.read_text().replace("good", "fine"))
    with pytest.raises(ConfigError, match="got a prefix with other data; give another --out"):
        train_prefix(backbone, moved, **given)


def test_with_an_adversary_the_last_state_is_kept(
    backbone: CausalBackbone, task: Task, tmp_path: Path
) -> None:
    config = dataclasses.replace(SHORT, adversary="pgd", learning_rate=0.05)
    prefix = train_prefix(backbone, task, training=config, out=tmp_path)
    history = json.loads((tmp_path / "training.json").read_text())["history"]
    accuracies = [row["dev_accuracy"] for row in history if "dev_accuracy" in row]
    assert prefix.config["dev_accuracy"] == accuracies[-1]
    model = PrefixModel(backbone, task, prefix)
    dev = load_split(task, "dev")
    found = NoDefense().logits(model, rows_as_fields(task, dev)).argmax(-1)
    assert (found == torch.tensor(dev["label"])).float().mean() == pytest.approx(accuracies[-1])


def test_checkpoints_of_other_settings_are_refused(
    backbone: CausalBackbone, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        _kill_at(patch, 5)
        with pytest.raises(_Killed):
            train_prefix(backbone, task, training=SHORT, seed=3, out=tmp_path)
    with pytest.raises(ConfigError, match=r"seed=3\), got seed=4; delete"):
        train_prefix(backbone, task, training=SHORT, seed=4, out=tmp_path)


@pytest.mark.parametrize("adversary", ["none", "pgd(steps=1)"])
def test_a_training_that_diverged_says_so_and_keeps_its_checkpoints(
    backbone: CausalBackbone, task: Task, tmp_path: Path, adversary: str
) -> None:
    wild = dataclasses.replace(SHORT, learning_rate=1e39, adversary=adversary)
    with pytest.raises(RobustPrefixError, match="it diverged; lower the learning rate"):
        train_prefix(backbone, task, training=wild, out=tmp_path)
    assert (tmp_path / "checkpoints").is_dir()
    assert not (tmp_path / PREFIX_FILE).exists()


def test_the_curve_and_the_settings_are_saved(
    backbone: CausalBackbone, task: Task, tmp_path: Path
) -> None:
    prefix = train_prefix(backbone, task, training=SHORT, out=tmp_path)
    saved = json.loads((tmp_path / "training.json").read_text())
    assert saved["settings"]["training"]["learning_rate"] == SHORT.learning_rate
    losses = [row["loss"] for row in saved["history"] if "loss" in row]
    accuracies = [row["dev_accuracy"] for row in saved["history"] if "dev_accuracy" in row]
    assert len(losses) >= 4
    assert prefix.config["dev_accuracy"] == max(accuracies)


@pytest.mark.parametrize(
    ("spec", "rate"),
    [
        ("prefix-tuning", 5e-3),
        ("prefix-tuning(reparameterization=mlp, mlp_width=4)", 3e-4),
        ("prompt-tuning", 3e-2),
        ("p-tuning(encoder_width=4)", 3e-4),
    ],
)
def test_a_method_has_its_own_learning_rate(
    backbone: CausalBackbone, task: Task, tmp_path: Path, spec: str, rate: float
) -> None:
    """Written out in the settings: a run that was made when 5e-3 was that of all still counts."""
    config = build_method(spec).config
    short = TrainingConfig(epochs=0.5, batch_size=16)
    prefix = train_prefix(backbone, task, prefix=config, training=short, out=tmp_path)
    assert prefix.config["training"]["learning_rate"] == rate
    named = dataclasses.replace(short, learning_rate=rate)
    again = train_prefix(backbone, task, prefix=config, training=named)
    assert again.fingerprint == prefix.fingerprint
    before = (tmp_path / "prefix.safetensors").stat().st_mtime_ns
    train_prefix(backbone, task, prefix=config, training=named, out=tmp_path)
    assert (tmp_path / "prefix.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("adversary", ["none", "pgd"])
@pytest.mark.parametrize("patience", [0, 2])
def test_killed_behind_its_last_checkpoint_a_training_is_over(
    backbone: CausalBackbone,
    task: Task,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    adversary: str,
    patience: int,
) -> None:
    """As on a disk that is full when the prefix is written: no step more is taken."""
    config = TrainingConfig(
        epochs=1.5 if not patience else 10,
        batch_size=8,
        learning_rate=0.02 if not patience else 1e-6,
        evaluations_per_epoch=1,
        patience=patience,
        adversary=adversary,
    )
    whole = train_prefix(backbone, task, training=config, out=tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(training, "keep", _die)
        with pytest.raises(_Killed):
            train_prefix(backbone, task, training=config, out=tmp_path / "killed")
    resumed = train_prefix(backbone, task, training=config, out=tmp_path / "killed")
    assert torch.equal(whole.tensor, resumed.tensor)
    assert (tmp_path / "whole" / "training.json").read_bytes() == (
        tmp_path / "killed" / "training.json"
    ).read_bytes()


def test_a_training_that_is_over_may_have_moved(
    backbone: CausalBackbone, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainingConfig(epochs=1, batch_size=8)
    whole = train_prefix(backbone, task, training=config)
    with monkeypatch.context() as patch:
        patch.setattr(training, "keep", _die)
        with pytest.raises(_Killed):
            train_prefix(backbone, task, training=config, out=tmp_path / "killed")
    (tmp_path / "killed").rename(tmp_path / "moved")
    resumed = train_prefix(backbone, task, training=config, out=tmp_path / "moved")
    assert torch.equal(whole.tensor, resumed.tensor)


def test_other_word_lists_are_another_training(
    backbone: CausalBackbone, task: Task, tmp_path: Path
) -> None:
    config = TrainingConfig(epochs=0.5, batch_size=16, adversary="substitution(variants=2)")

    def trained(word: str, config: TrainingConfig = config) -> Prefix:
        out = tmp_path / config.adversary
        return train_prefix(backbone, task, training=config, out=out, substitutes=lambda _: [word])

    first = trained("dull")
    assert trained("dull").fingerprint == first.fingerprint
    with pytest.raises(ConfigError, match="got a prefix with other substitutes"):
        trained("warm")
    unread = dataclasses.replace(config, adversary="none")
    trained("dull", unread)
    made = (tmp_path / "none" / "prefix.safetensors").stat().st_mtime_ns
    trained("warm", unread)
    assert (tmp_path / "none" / "prefix.safetensors").stat().st_mtime_ns == made


def _die(*_: Any) -> None:
    raise _Killed


@pytest.mark.parametrize("step", [None, 9, 12])
def test_training_stops_early(
    backbone: CausalBackbone,
    task: Task,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int | None,
) -> None:
    """After two evaluations without progress, whether it was killed before them or not."""
    config = TrainingConfig(
        epochs=10, batch_size=8, learning_rate=1e-9, evaluations_per_epoch=1, patience=2
    )
    if step is not None:  # the evaluations are at 4, 8 and 12
        with monkeypatch.context() as patch:
            _kill_at(patch, step)
            with pytest.raises(_Killed):
                train_prefix(backbone, task, training=config, out=tmp_path)
    train_prefix(backbone, task, training=config, out=tmp_path)
    history = json.loads((tmp_path / "training.json").read_text())["history"]
    assert [row["step"] for row in history if "dev_accuracy" in row] == [4, 8, 12]
