"""``defend`` and ``attack --leave-one-out``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from robust_prefix.runs import Run

from .conftest import Cli, needs_attacks

FLOAT32 = ("--dtype", "float32")
ATTACK = ("--attack", "deepwordbug(max_queries=20)")


@needs_attacks
def test_the_best_within_the_limits_becomes_the_default(
    cli: Cli, run_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    asked = "normalize(spelling=none), projection, masked-vote(copies=3, mask=0.5), normalize"
    common = ("--data-dir", data_dir, *FLOAT32, *ATTACK, "--num-examples", 6)
    second = ("--attack", "pruthi(max_queries=4)")
    limits = ("--budget", "2x", "--max-clean-loss", 1, "--candidates", asked, *second)
    out = tmp_path / "out"
    said = cli("defend", run_dir, *common, *limits, "--out", out, "--json")
    assert said.exit_code == 0, said.stderr
    told = json.loads(said.stdout)
    assert told == json.loads((run_dir / "defend.json").read_text())
    by_name = {each["defense"].split("(")[0]: each for each in told["candidates"]}
    assert list(by_name) == ["none", "normalize", "projection", "masked-vote"]
    assert by_name["masked-vote"]["objection"] == "over the budget"
    assert by_name["masked-vote"]["robust_accuracy"] is None
    assert by_name["masked-vote"]["cost"] == pytest.approx(3, abs=0.2)
    attacked = [each for each in told["candidates"] if each["robust_accuracy"] is not None]
    weakest = {}
    for each in attacked:
        held = [found["value"] for found in each["robust_accuracy"].values()]
        assert len(held) == 2
        weakest[each["defense"]] = min(held)
    assert weakest[told["chosen"]] == max(weakest.values())
    assert Run.load(run_dir).defense == told["chosen"]
    # the same command again finds everything measured
    before = (
        (out / "deepwordbug" / "run.sqlite").stat().st_mtime_ns,
        (out / "clean.json").stat().st_mtime_ns,
    )
    again = cli("defend", run_dir, *common, *limits, "--out", out, "--json")
    assert json.loads(again.stdout) == told
    assert (out / "clean.json").stat().st_mtime_ns == before[1]
    assert "default defence of" in again.stderr


@needs_attacks
def test_each_part_is_left_out_in_turn(
    cli: Cli, run_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    common = ("--data-dir", data_dir, *FLOAT32, *ATTACK, "--num-examples", 6)
    spec = ("--defense", "normalize+projection", "--protocol", "direct", "--leave-one-out")
    said = cli("attack", run_dir, *common, *spec, "--out", tmp_path / "out", "--json")
    assert said.exit_code == 0, said.stderr
    assert json.loads(said.stdout)["defense"].startswith("normalize(")
    told = json.loads((tmp_path / "out" / "leave-one-out.json").read_text())
    assert [each["part"].split("(")[0] for each in told["parts"]] == ["normalize", "projection"]
    assert [each["without"].split("(")[0] for each in told["parts"]] == ["projection", "normalize"]
    for each in told["parts"]:
        low, high = each["gain"]["interval"]
        assert low <= each["gain"]["value"] <= high
        assert 0 <= each["p_value"] <= 1
    # neither adds a pass to a prediction, though the attack on the plain classifier is cheaper
    assert [each["cost"] for each in told["parts"]] == [pytest.approx(0, abs=0.01)] * 2
    assert "left out" in said.stderr


@needs_attacks
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(("--budget", "cheap"), "a budget of 1x or more", id="budget"),
        pytest.param(("--max-clean-loss", 3), "loss of 0 to 1", id="loss"),
        pytest.param(("--candidates", "normalise"), "did you mean 'normalize'", id="candidate"),
        pytest.param(("--candidates", "synonyms"), "fit-synonyms", id="not-fitted"),
        pytest.param(("--attack", "pwwss"), "pwws", id="attack"),
        pytest.param(ATTACK, "each attack once, got deepwordbug, deepwordbug", id="twice"),
    ],
)
def test_bad_input_is_one_line(
    refused: Callable[..., str],
    run_dir: Path,
    data_dir: Path,
    arguments: tuple[object, ...],
    message: str,
) -> None:
    given = ("--data-dir", data_dir, *FLOAT32, *ATTACK, *arguments)
    assert message in refused("defend", run_dir, *given)
    assert Run.load(run_dir).defense == "robust-prefix(steps=2)"
