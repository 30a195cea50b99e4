"""``ensemble`` and ``average``: runs put together and used as one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from robust_prefix.defenses import Fitted, build_defense
from robust_prefix.errors import ArtifactError, ConfigError
from robust_prefix.runs import Run
from robust_prefix.word_scores import WordScores

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


def test_an_average_lies_between(
    cli: Cli, run_dir: Path, other_run: Path, data_dir: Path, tmp_path: Path
) -> None:
    dataclasses.replace(Run.load(run_dir), defense="projection").save(run_dir)
    common = ("--shares", "0.25,0.75", *FLOAT32, "--data-dir", data_dir, "--json")
    said = cli("average", run_dir, other_run, "--out", tmp_path / "between", *common)
    assert said.exit_code == 0, said.stderr
    told = json.loads(said.stdout)
    run, parts = Run.load(tmp_path / "between"), [Run.load(run_dir), Run.load(other_run)]
    expected = 0.25 * parts[0].prefix.tensor + 0.75 * parts[1].prefix.tensor
    torch.testing.assert_close(run.prefix.tensor, expected)
    assert [part["share"] for part in run.prefix.config["averaged"]] == [0.25, 0.75]
    assert (run.subspaces, run.defense) == (None, "none")  # they are of another prefix
    assert "no default defence: projection" in said.stderr
    assert told["clean_accuracy"]["n"] > 0


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        pytest.param("0.5,0.6", "2 shares of 0 to 1 that add up to 1", id="sum"),
        pytest.param("1", "2 shares", id="one"),
        pytest.param("a,b", "expected numbers with commas", id="words"),
    ],
)
def test_bad_shares_are_one_line(
    refused: Callable[..., str],
    run_dir: Path,
    other_run: Path,
    tmp_path: Path,
    shares: str,
    message: str,
) -> None:
    out = ("--out", tmp_path / "between", "--shares", shares)
    assert message in refused("average", run_dir, other_run, *out)
    assert not (tmp_path / "between").exists()


def test_prefixes_of_other_sizes_or_models_are_not_averaged(run_dir: Path) -> None:
    prefix = Run.load(run_dir).prefix
    longer = dataclasses.replace(prefix, tensor=torch.cat([prefix.tensor] * 2, dim=3))
    with pytest.raises(ConfigError, match="one method and size"):
        prefix.averaged([longer], [0.5, 0.5])
    foreign = dataclasses.replace(prefix, base_fingerprint="0" * 16)
    with pytest.raises(ArtifactError, match="for one base model"):
        prefix.averaged([foreign], [0.5, 0.5])
    words = dataclasses.replace(prefix, config={**prefix.config, "words": [1]})
    with pytest.raises(ConfigError, match="without words or soft tokens"):
        words.averaged([words], [0.5, 0.5])


def test_runs_with_word_scores_of_their_own_are_averaged(
    cli: Cli,
    refused: Callable[..., str],
    run_dir: Path,
    other_run: Path,
    data_dir: Path,
    tmp_path: Path,
) -> None:
    """Of two that were trained from one another behind ``word-scores`` each has other scores."""
    for scale, folder in enumerate((run_dir, other_run), 1):
        run = Run.load(folder)
        scores = torch.tensor([[0.1, -0.1]]) * scale
        words = WordScores(
            ("film",), scores, torch.zeros(2), run.prefix.fingerprint, {"limit": 1.0}
        )
        built = build_defense("word-scores", Fitted(words=words)).spec
        dataclasses.replace(run, words=words, defense=built).save(folder)
    out = ("--out", tmp_path / "mean", *FLOAT32, "--data-dir", data_dir)
    said = cli("average", run_dir, other_run, *out)
    assert said.exit_code == 0, said.stderr
    averaged = Run.load(tmp_path / "mean")
    first = Run.load(run_dir)
    assert averaged.defense == first.defense  # those of the first, until they are fitted anew
    assert averaged.words is not None
    assert torch.equal(averaged.words.scores, first.words.scores)
    said = cli("predict", tmp_path / "mean", *FLOAT32, input="a good film\n")
    assert said.exit_code == 0, said.stderr
    said_no = refused("ensemble", run_dir, other_run, "--out", tmp_path / "both")
    assert "defences before the prefix" in said_no  # scores are for one prefix


def test_an_average_inside_a_bfloat16_model_is_kept_in_bfloat16(
    cli: Cli, model_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    """As what was trained there: halves of numbers that bfloat16 keeps are often none."""
    common = ("--model", model_dir, "--data-dir", data_dir, "--dtype", "bfloat16")
    method = ("--method", "adapters(width=2)", "--epochs", 1)
    runs = [tmp_path / name for name in ("one", "two")]
    for seed, run in enumerate(runs):
        trained = cli("train", "--out", run, *common, *method, "--seed", seed)
        assert trained.exit_code == 0, trained.stderr
    said = cli("average", *runs, "--out", tmp_path / "mean", *common[2:])
    assert said.exit_code == 0, said.stderr
    one, two, mean = (Run.load(run).prefix.adapters for run in (*runs, tmp_path / "mean"))
    assert one is not None
    assert two is not None
    assert mean is not None
    half = (one.down + two.down) / 2
    assert not torch.equal(half, half.bfloat16().float())
    assert torch.equal(mean.down, half.bfloat16().float())
