"""``train --method`` and ``list methods``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from robust_prefix.prefixes import METHODS
from robust_prefix.runs import Run

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
        pytest.param(("--method", "prefix-tuning(init=zero)"), "a valid init", id="init"),
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


def test_methods_are_listed(cli: Cli) -> None:
    rows = json.loads(cli("list", "methods", "--json").stdout)
    assert [row["name"] for row in rows] == list(METHODS)
    assert all(row["learns"] and row["parameters"] and row["paper"] for row in rows)
    table = cli("list", "methods").stdout
    assert all(name in table for name in METHODS)
