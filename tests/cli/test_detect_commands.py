"""``fit-detectors``, ``detect`` and the defence that they are for, as commands."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from robust_prefix.defenses import build_defense
from robust_prefix.runs import Run

from .conftest import Cli, needs_attacks

FLOAT32 = ("--dtype", "float32")
FIT = ("--sources", "none", "--components", 4)


@pytest.fixture
def fitted_run(cli: Cli, run_dir: Path, data_dir: Path) -> Path:
    said = cli("fit-detectors", run_dir, "--data-dir", data_dir, *FLOAT32, *FIT, "--json")
    assert said.exit_code == 0, said.stderr
    told = json.loads(said.stdout)
    assert told["scores"] == ["margin", "residual", "mahalanobis", "density"]
    assert told["dev"] == 32
    return run_dir


def test_detectors_are_kept_with_the_run(fitted_run: Path) -> None:
    run = Run.load(fitted_run)
    assert run.detectors is not None
    assert run.detectors.config["sources"] == []
    assert run.subspaces is not None


def test_fitted_anew_the_default_defence_has_their_threshold(
    cli: Cli, fitted_run: Path, data_dir: Path
) -> None:
    run = Run.load(fitted_run)
    before = build_defense("detect(score=density, fpr=0.2)+normalize", run.fitted).spec
    dataclasses.replace(run, defense=before).save(fitted_run)
    said = cli("fit-detectors", fitted_run, "--data-dir", data_dir, *FLOAT32, *FIT, "--layer", 1)
    assert said.exit_code == 0, said.stderr
    run = Run.load(fitted_run)
    assert run.defense != before
    assert run.defense == build_defense("detect(score=density, fpr=0.2)+normalize", run.fitted).spec


def test_predictions_say_what_is_refused(cli: Cli, fitted_run: Path, data_dir: Path) -> None:
    spec = "detect(score=density, fpr=0.4)"
    with (data_dir / "sst2" / "dev.csv").open(encoding="utf-8") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    said = cli("predict", fitted_run, *FLOAT32, "--defense", spec, input="\n".join(texts))
    assert said.exit_code == 0, said.stderr
    abstained = [json.loads(line)["abstained"] for line in said.stdout.splitlines()]
    assert 0 < sum(abstained) <= 0.4 * len(texts)  # these are what the threshold was taken from


@needs_attacks
def test_detectors_are_held_against_attacks(
    cli: Cli, refused: Callable[..., str], fitted_run: Path, data_dir: Path, tmp_path: Path
) -> None:
    common = ("--data-dir", data_dir, *FLOAT32)
    attack = ("--attack", "deepwordbug(max_queries=30)", "--num-examples", 12)
    spec = "detect(score=density, fpr=0.2)"
    folder = tmp_path / "attack"
    attacked = cli("attack", fitted_run, *common, *attack, "--defense", spec, "--out", folder)
    assert attacked.exit_code == 0, attacked.stderr
    out = ("--out", tmp_path / "d", "--attacks", folder, "--json")
    said = cli("detect", fitted_run, *common, *out)
    assert said.exit_code == 0, said.stderr
    summary = json.loads(said.stdout)
    assert summary == json.loads((tmp_path / "d" / "detection.json").read_text())
    assert summary["n"] == 32
    assert [each["score"] for each in summary["clean"]] == [
        *("margin", "residual", "mahalanobis", "density")
    ]
    for each in summary["clean"]:
        assert list(each["refused"]) == ["0.05"]  # dev is too small for 1%
        assert each["selective"][0]["coverage"] == 1
    for each in summary["adversaries"]:
        low, high = each["auroc"]["interval"]
        assert low <= each["auroc"]["value"] <= high
        assert each["knowing"] in (None, "density")
        if each["knowing"] == each["score"]:  # what is refused at 20% is no adversary
            assert each["detected"]["0.05"]["value"] == 0
    assert {each["defense"].split("(")[0] for each in summary["adversaries"]} <= {"none", "detect"}
    assert summary["adversaries"]
    assert "knows of the score density" in said.stderr
    line = refused("detect", fitted_run, *common, "--out", tmp_path / "d")
    assert "choose another folder" in line
    assert summary == json.loads((tmp_path / "d" / "detection.json").read_text())
    assert "\u2026" not in said.stderr  # all of it fits a terminal of 80 columns


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        pytest.param("detect", (), "run robust-prefix fit-detectors", id="not fitted"),
        pytest.param("fit-detectors", ("--layer", 9, *FIT), "a layer of 0 to 3", id="layer"),
        pytest.param("fit-detectors", ("--layer", 0, *FIT), "take a later one", id="all alike"),
        pytest.param("fit-detectors", ("--rare", 2), "valid rare", id="share"),
        pytest.param("fit-detectors", ("--sources", "wordnets"), "wordnet", id="word list"),
        pytest.param("predict", ("--defense", "detect"), "fit-detectors", id="defence"),
    ],
)
def test_bad_input_is_one_line(
    refused: Callable[..., str],
    run_dir: Path,
    data_dir: Path,
    command: str,
    arguments: tuple[object, ...],
    message: str,
) -> None:
    given = ("--data-dir", data_dir, *FLOAT32, *arguments)
    assert message in refused(command, run_dir, *given, input="the film is good\n")
