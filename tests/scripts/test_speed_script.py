"""The command itself, on the tiny model."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

import speed
from robust_prefix.prefixes import Prefix
from robust_prefix.runs import Run
from robust_prefix.subspaces import Subspaces
from robust_prefix.tasks import Task


@pytest.fixture
def run_dir(tmp_path: Path, model_dir: Path, task: Task, prefix: Prefix, spaces: Subspaces) -> Path:
    """A run on the tiny model, which has 256 positions, the prefix included."""
    short = dataclasses.replace(task, max_tokens=64)
    named = dataclasses.replace(prefix, base_model=str(model_dir))
    Run(short, named, spaces).save(tmp_path / "run")
    return tmp_path / "run"


def test_it_measures_writes_draws_and_prints(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ["--quick", "--only", "a,e", "--dtype", "float32", "--threads", "1"]
    assert speed.main(["--run", str(run_dir), "--out", str(out), *options]) == 0
    document = json.loads((out / "speed.json").read_text())
    assert "demo" in document["texts"]
    assert document["machine"]["threads"] == 1
    assert max(document["differences"].values()) < 1e-3
    assert {row["part"].partition(":")[0] for row in document["rows"]} == {"defense", "growth"}
    assert all(row["ratio"]["median"] > 0 for row in document["rows"])
    assert {path.suffix for path in out.iterdir()} == {".json", ".csv", ".png", ".svg"}
    printed = capsys.readouterr().out
    for word in ("literal", "goals", "at least 8", "growth: batch"):
        assert word in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--only", "a,f"], "expected --only with parts of a,b,c,d,e", id="part"),
        pytest.param(["--only", ","], "expected --only with parts of", id="no part"),
        pytest.param(["--repeats", "0"], "expected --repeats of at least 1, got 0", id="repeats"),
        pytest.param(["--threads", "-1"], "expected --threads of at least 1", id="threads"),
        pytest.param(["--seed", "x"], "argument --seed: invalid int value", id="seed"),
        pytest.param(["--dtype", "int8"], "argument --dtype: invalid choice", id="dtype"),
        pytest.param(["--run", "nowhere"], "expected a run directory with run.json", id="run"),
    ],
)
def test_bad_input_is_one_line(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert speed.main(["--quick", *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = printed.err.splitlines()
    assert line.startswith("speed: ")
    assert message in line


def test_a_data_folder_without_the_data_is_one_line(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--run", str(run_dir), "--data-dir", str(tmp_path), "--only", "a"]
    assert speed.main(options) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "expected data for task 'sst2'" in line


def test_a_package_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(speed.importlib.util, "find_spec", lambda name: None)
    assert speed.main(["--only", "c"]) == 2
    assert "expected the package peft for part c" in capsys.readouterr().err
