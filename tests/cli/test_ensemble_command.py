"""``ensemble``: runs put together and used as one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from robust_prefix.runs import Run

from .conftest import Cli

FLOAT32 = ("--dtype", "float32")


@pytest.fixture
def other_run(run_dir: Path, tmp_path: Path) -> Path:
    """The same run with another prefix and without subspaces."""
    run = Run.load(run_dir)
    prefix = dataclasses.replace(run.prefix, tensor=run.prefix.tensor.flip(0))
    dataclasses.replace(run, prefix=prefix, subspaces=None, defense="none").save(tmp_path / "other")
    return tmp_path / "other"


def test_runs_become_one(
    cli: Cli, run_dir: Path, other_run: Path, data_dir: Path, tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "both", *FLOAT32)
    said = cli("ensemble", run_dir, other_run, *out, "--data-dir", data_dir, "--json")
    assert said.exit_code == 0, said.stderr
    told = json.loads(said.stdout)
    assert told["clean_accuracy"]["n"] > 0
    assert len(told["members"]) == 2
    run = Run.load(tmp_path / "both")
    assert len(run.members) == 1
    assert run.defense == told["defense"]
    answers = [
        json.loads(cli("predict", name, *FLOAT32, "--defense", spec, input="a fine film\n").stdout)
        for name, spec in (
            (run_dir, "none"),
            (other_run, "none"),
            (tmp_path / "both", "default"),
        )
    ]
    one, two, both = (answer["probabilities"]["positive"] for answer in answers)
    assert both == pytest.approx((one + two) / 2, abs=1e-4)
    bare = cli("ensemble", run_dir, other_run, "--out", tmp_path / "bare", "--combine", "vote")
    assert bare.exit_code == 0, bare.stderr
    assert "not measured" in " ".join(bare.stderr.split())


@pytest.mark.parametrize(
    ("again", "arguments", "message"),
    [
        pytest.param(True, (), "two or more different prefixes", id="the same twice"),
        pytest.param(False, ("--combine", "median"), "valid combine", id="combine"),
        pytest.param(False, ("nowhere",), "nowhere", id="no such run"),
    ],
)
def test_bad_input_is_one_line(
    refused: Callable[..., str],
    run_dir: Path,
    other_run: Path,
    tmp_path: Path,
    again: bool,
    arguments: tuple[object, ...],
    message: str,
) -> None:
    runs = (run_dir, run_dir if again else other_run)
    assert message in refused("ensemble", *runs, *arguments, "--out", tmp_path / "both")
    assert not (tmp_path / "both").exists()
