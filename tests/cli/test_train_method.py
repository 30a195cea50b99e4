"""``train --method`` and ``list methods``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from robust_prefix.lengths import LENGTHS_FILE, LengthCurve
from robust_prefix.prefixes import METHODS
from robust_prefix.runs import Run

from ..families import tiny_encoder
from .conftest import Cli

FLOAT32 = ("--dtype", "float32")


def test_a_method_is_trained_and_gone_on_with(
    cli: Cli, tmp_path: Path, model_dir: Path, data_dir: Path
) -> None:
    common = ("--model", model_dir, "--data-dir", data_dir, *FLOAT32, "--epochs", 0.5)
    spec = "prompt-tuning(init=labels)"
    first = cli("train", "--out", tmp_path / "a", *common, "--method", spec, "--length", 3)
    assert first.exit_code == 0, first.stderr
    told = " ".join(first.stderr.split())
    assert "96 trained parameters" in told  # 3 tokens of 32 dimensions
    second = cli("train", "--out", tmp_path / "b", *common, "--start", tmp_path / "a", "--json")
    assert second.exit_code == 0, second.stderr
    prefix = Run.load(tmp_path / "b").prefix
    assert prefix.config["method"] == "prompt-tuning"
    assert prefix.config["prefix"]["length"] == 3
    parameters = json.loads(second.stdout.splitlines()[-1])["parameters"]
    assert parameters["trainable"] == parameters["during_training"] == 96


def test_a_hard_prompt_is_searched_printed_and_gone_on_with(
    cli: Cli, tmp_path: Path, model_dir: Path, data_dir: Path
) -> None:
    common = ("--model", model_dir, "--data-dir", data_dir, *FLOAT32, "--batch-size", 8)
    spec = "autoprompt(candidates=2, steps=2)"
    first = cli("train", "--out", tmp_path / "a", *common, "--method", spec, "--length", 3)
    assert first.exit_code == 0, first.stderr
    told = " ".join(first.stderr.split())
    assert "3 trained parameters" in told
    prefix = Run.load(tmp_path / "a").prefix
    assert f"prompt: {prefix.config['written']!r}" in first.stderr
    second = cli("train", "--out", tmp_path / "b", *common, "--start", tmp_path / "a", "--json")
    assert second.exit_code == 0, second.stderr
    settings = json.loads(second.stdout.splitlines()[-1])["settings"]
    assert settings["method"] == "autoprompt"
    assert len(settings["words"]) == 3
    assert (tmp_path / "b" / "training.json").is_file()


def test_an_encoder_is_trained_with_a_head_and_defended(
    cli: Cli, tmp_path: Path, data_dir: Path
) -> None:
    encoder = tiny_encoder("bert", words=False)
    encoder.model.save_pretrained(tmp_path / "model")
    encoder.tokenizer.save_pretrained(tmp_path / "model")
    common = ("--data-dir", data_dir, *FLOAT32)
    run = tmp_path / "run"
    trained = cli(
        *("train", "--out", run, "--model", tmp_path / "model", "--length", 3, "--epochs", 0.5),
        *common,
    )
    assert trained.exit_code == 0, trained.stderr
    assert "642 trained parameters" in " ".join(trained.stderr.split())  # 576 and a head of 66
    fitted = cli("fit-subspaces", run, *common)
    assert fitted.exit_code == 0, fitted.stderr
    defended = cli(
        "predict", run, "--defense", "robust-prefix(steps=2)", input="the film is good\n"
    )
    assert defended.exit_code == 0, defended.stderr
    assert json.loads(defended.stdout)["label"] in ("negative", "positive")


@pytest.mark.parametrize(
    ("spec", "count", "rate"),
    [
        pytest.param("adapters(width=3, layers=1)", 2 * (2 * 3 * 32 + 3 + 32), 1e-3, id="adapters"),
        pytest.param("fine-tuning(layers=1)", 9280, 2e-5, id="fine-tuning"),
    ],
)
def test_a_method_that_changes_the_model(
    cli: Cli, tmp_path: Path, model_dir: Path, data_dir: Path, spec: str, count: int, rate: float
) -> None:
    data = ("--data-dir", data_dir, *FLOAT32)
    common = ("--model", model_dir, *data, "--epochs", 0.5)
    run = tmp_path / "run"
    trained = cli("train", "--out", run, *common, "--method", spec)
    assert trained.exit_code == 0, trained.stderr
    assert f"{count:,} trained parameters" in " ".join(trained.stderr.split())
    assert Run.load(run).prefix.config["training"]["learning_rate"] == rate
    gone_on = cli("train", "--out", tmp_path / "on", *common, "--start", run)
    assert gone_on.exit_code == 0, gone_on.stderr
    assert Run.load(tmp_path / "on").prefix.parameters == count
    fitted = cli("fit-subspaces", run, *data)
    assert fitted.exit_code == 0, fitted.stderr
    attack = ("--attack", "deepwordbug", "--num-examples", 2, "--protocol", "worst", "--json")
    asked = ("--defense", "robust-prefix(steps=2)", "--out", tmp_path / "results")
    attacked = cli("attack", run, *attack, *asked, *data)
    assert attacked.exit_code == 0, attacked.stderr
    assert json.loads(attacked.stdout.splitlines()[-1])["n"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(("--method", "prompt"), "a known method", id="unknown"),
        pytest.param(
            ("--method", "prompt-tuning", "--reparameterization", "mlp"),
            "a known setting of prompt-tuning",
            id="a setting of another method",
        ),
        pytest.param(("--length", "0"), "a valid length for prefix-tuning", id="length"),
        pytest.param(("--length", "some"), "a valid length for prefix-tuning", id="no number"),
        pytest.param(
            ("--length", "auto", "--start", "zoo:sst2-smollm2-135m"),
            "--length auto or --start, got both",
            id="auto and start",
        ),
        pytest.param(
            ("--length", "auto", "--method", "conv-prompt"),
            "a method with a length to choose, got 'conv-prompt'",
            id="no length",
        ),
        pytest.param(("--method", "prefix-tuning(init=zero)"), "a valid init", id="init"),
        pytest.param(
            ("--method", "autoprompt", "--adversary", "pgd"), "adversary none", id="adversary"
        ),
    ],
)
def test_bad_methods_are_found_before_training(
    refused: Callable[..., str],
    tmp_path: Path,
    model_dir: Path,
    data_dir: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    common = ("--model", model_dir, "--data-dir", data_dir, *FLOAT32)
    assert message in refused("train", "--out", tmp_path / "run", *common, *arguments)
    assert not (tmp_path / "run").exists()


def test_the_length_is_chosen_on_dev(
    cli: Cli, tmp_path: Path, model_dir: Path, data_dir: Path
) -> None:
    (tmp_path / "own.toml").write_text(
        'name = "own"\ncolumns = ["text"]\nlabels = ["a", "b"]\n'
        'label_words = [" no", " yes"]\ntemplate = "{text} is it good ?"\nmax_tokens = 250\n'
        '[splits]\ntrain = "sst2/train.csv"\ndev = "sst2/dev.csv"\n'
    )
    common = ("--model", model_dir, "--data-dir", data_dir, *FLOAT32, "--epochs", 0.5)
    more = ("--task", tmp_path / "own.toml", "--method", "prompt-tuning", "--length", "auto")
    result = cli("train", "--out", tmp_path / "run", *common, *more)
    assert result.exit_code == 0, result.stderr
    curve = LengthCurve.load(tmp_path / "run" / LENGTHS_FILE)
    assert [point.length for point in curve.points] == [1, 2, 5]  # 6 positions are free
    run = Run.load(tmp_path / "run")
    assert run.prefix.length == curve.chosen
    assert f"{curve.chosen * 32} trained parameters" in " ".join(result.stderr.split())
    assert not (tmp_path / "run" / "lengths").exists()


def test_methods_are_listed(cli: Cli) -> None:
    rows = json.loads(cli("list", "methods", "--json").stdout)
    assert [row["name"] for row in rows] == list(METHODS)
    assert all(row["learns"] and row["parameters"] and row["paper"] for row in rows)
    table = cli("list", "methods").stdout
    assert all(name in table for name in METHODS)
    by_name = {row["name"]: row for row in rows}
    assert by_name["fine-tuning"]["learning rate"] == "2e-05"
    assert by_name["adapters"]["settings"] == "width, places, activation, layers, answer"
