"""What stands where a command is to write is refused, and as it was afterwards."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from robust_prefix.runs import ZOO, Run, zoo_names

from .conftest import Cli

Refused = Callable[..., str]
needs_attacks = pytest.mark.skipif(
    importlib.util.find_spec("textattack") is None, reason="no textattack"
)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_no_command_writes_over_another_run(
    refused: Refused, pristine_run: Path, run_dir: Path, data_dir: Path, model_dir: Path
) -> None:
    before = contents(run_dir)
    common = ("--data-dir", data_dir, "--dtype", "float32", "--out", run_dir)
    small = ("--model", model_dir, "--epochs", "0.5", "--length", "2")
    message = refused("train", "--task", "sst2", *small, *common)
    assert f"the same training in {run_dir}, got a prefix with other" in message
    for command in ("average", "ensemble"):
        message = refused(command, pristine_run, pristine_run, *common)
        assert f"a new folder for a run, got {run_dir}, which holds one" in message
    assert contents(run_dir) == before


def test_the_same_training_again_is_the_same_run(
    cli: Cli, tmp_path: Path, data_dir: Path, model_dir: Path
) -> None:
    out = tmp_path / "own"
    small = ("--model", model_dir, "--epochs", "0.5", "--length", "2", "--max-examples", "16")
    common = ("--task", "sst2", "--data-dir", data_dir, "--dtype", "float32", "--out", out)
    assert cli("train", *common, *small).exit_code == 0
    before = contents(out)
    assert cli("train", *common, *small).exit_code == 0
    assert contents(out) == before


@pytest.mark.parametrize("command", ["fit-subspaces", "fit-spelling", "fit-word-scores", "defend"])
def test_runs_of_the_package_are_not_changed(
    refused: Refused, data_dir: Path, command: str
) -> None:
    name = zoo_names()[-1]
    message = refused(command, f"zoo:{name}", "--data-dir", data_dir)
    assert message.startswith(f"expected a run directory of your own to change, got zoo:{name}")
    assert str(ZOO / name) in message


def test_a_run_of_ones_own_may_be_changed(run_dir: Path) -> None:
    assert Run.load_own(run_dir).prefix.fingerprint == Run.load(run_dir).prefix.fingerprint


@needs_attacks
def test_no_attack_writes_over_the_results_of_another_command(
    refused: Refused, pristine_run: Path, tmp_path: Path, data_dir: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "summary.json").write_text("{}")
    attack = ("--attack", "deepwordbug", "--num-examples", "2", "--out", out)
    message = refused("attack", pristine_run, *attack, "--data-dir", data_dir, "--dtype", "float32")
    assert f"got {out} with results of another command" in message
    assert contents(out) == {"summary.json": b"{}"}


@needs_attacks
def test_no_report_is_written_over_other_results(
    cli: Cli, refused: Refused, pristine_run: Path, tmp_path: Path, data_dir: Path
) -> None:
    attack = ("--attack", "deepwordbug(max_queries=5)", "--num-examples", "2", "--defense", "none")
    common = ("--data-dir", data_dir, "--dtype", "float32", "--protocol", "direct")
    for seed in (0, 1):
        own = ("--seed", seed, "--out", tmp_path / str(seed))
        assert cli("attack", pristine_run, *attack, *common, *own).exit_code == 0
    before = contents(tmp_path / "1")
    message = refused("report", tmp_path / "0", "--out", tmp_path / "1")
    assert f"a folder without results of its own as --out, got {tmp_path / '1'}" in message
    assert contents(tmp_path / "1") == before
    assert cli("report", tmp_path / "0", "--out", tmp_path / "0").exit_code == 0
    for _ in range(2):  # a report of its own may be written anew
        assert cli("report", tmp_path / "0", "--out", tmp_path / "report").exit_code == 0
    (tmp_path / "certified").mkdir()
    (tmp_path / "certified" / "summary.json").write_text('{"median_radius": 1}')
    message = refused("report", tmp_path / "0", "--out", tmp_path / "certified")
    assert f"got {tmp_path / 'certified'} with results of another command" in message
    assert contents(tmp_path / "certified") == {"summary.json": b'{"median_radius": 1}'}


@needs_attacks
def test_parts_can_be_left_out_of_a_defence_alone(
    refused: Refused, pristine_run: Path, tmp_path: Path, data_dir: Path
) -> None:
    attack = ("--attack", "deepwordbug", "--num-examples", "2", "--out", tmp_path / "out")
    common = ("--data-dir", data_dir, "--dtype", "float32", "--defense", "none")
    message = refused("attack", pristine_run, *attack, *common, "--leave-one-out")
    assert "a defence whose parts can be left out, got none" in message
    assert not (tmp_path / "out").exists()


def test_shares_are_shares(
    refused: Refused, pristine_run: Path, tmp_path: Path, data_dir: Path
) -> None:
    common = ("--data-dir", data_dir, "--dtype", "float32", "--out", tmp_path / "out")
    message = refused("average", pristine_run, pristine_run, "--shares", "2,-1", *common)
    assert "2 shares of 0 to 1 that add up to 1, got [2.0, -1.0]" in message


def test_no_checkpoint_is_written_over(
    cli: Cli, refused: Callable[..., str], pristine_run: Path, tmp_path: Path
) -> None:
    command = ("export-peft", pristine_run, "--out", tmp_path / "p")
    assert cli(*command).exit_code == 0
    before = contents(tmp_path / "p")
    assert "a folder without a checkpoint" in refused(*command)
    assert contents(tmp_path / "p") == before
