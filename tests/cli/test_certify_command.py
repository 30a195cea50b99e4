"""``certify``: the files it writes, what it prints, what it refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Cli, needs_attacks

FLOAT32 = ("--dtype", "float32")
VOTE = "masked-vote(copies=4, mask=0.75)"


def test_certificates_are_written_and_shown(
    cli: Cli, refused: Callable[..., str], run_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    common = ("--data-dir", data_dir, "--num-examples", 12, *FLOAT32)
    said = cli("certify", run_dir, *common, "--defense", VOTE, "--out", tmp_path / "c", "--json")
    assert said.exit_code == 0, said.stderr
    summary = json.loads(said.stdout)
    assert summary == json.loads((tmp_path / "c" / "summary.json").read_text())
    assert (summary["n"], summary["method"]) == (12, "vote")
    assert summary["defense"].startswith("masked-vote(copies=4, mask=0.75")
    rows = list(csv.DictReader((tmp_path / "c" / "certificates.csv").open(encoding="utf-8")))
    assert len(rows) == 12
    right = sum(row["correct"] == "true" for row in rows)
    assert summary["clean_accuracy"]["value"] == pytest.approx(right / 12)
    for level in summary["certified"]:
        certified = sum(int(row["radius"]) >= level["words"] for row in rows)
        assert level["share"]["value"] == pytest.approx(certified / 12)
    assert "certified" in said.stderr
    other = ("--out", tmp_path / "c", "--seed", 1)
    line = refused("certify", run_dir, *common, "--defense", VOTE, *other)
    assert "choose another folder" in line
    assert summary == json.loads((tmp_path / "c" / "summary.json").read_text())


def test_the_smoothed_certificate_has_a_confidence(
    cli: Cli, run_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    common = ("--data-dir", data_dir, "--num-examples", 4, *FLOAT32, "--defense", VOTE)
    smoothed = ("--method", "smoothed", "--confidence", 0.95, "--select", 2, "--estimate", 8)
    outputs = []
    for name in ("first", "second"):
        said = cli("certify", run_dir, *common, *smoothed, "--out", tmp_path / name)
        assert said.exit_code == 0, said.stderr
        assert "median certified radius" in said.stdout
        outputs.append((tmp_path / name / "certificates.csv").read_bytes())
    assert outputs[0] == outputs[1]
    assert json.loads((tmp_path / "first" / "summary.json").read_text())["confidence"] == 0.95


@needs_attacks
def test_adversaries_are_held_against_the_certificates(
    cli: Cli, run_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    common = ("--data-dir", data_dir, "--num-examples", 4, *FLOAT32, "--defense", VOTE)
    attack = ("--attack", "deepwordbug(max_queries=30)", "--out", tmp_path / "attack")
    attacked = cli("attack", run_dir, *common, *attack, "--protocol", "direct")
    assert attacked.exit_code == 0, attacked.stderr
    out = ("--out", tmp_path / "c", "--attacks", tmp_path / "attack", "--json")
    said = cli("certify", run_dir, *common, *out)
    assert said.exit_code == 0, said.stderr
    found = json.loads(said.stdout)["attacks"]
    assert found["broken"] == 0
    assert 0 <= found["inside"] <= found["attacked"] <= 4
    assert f"{found['attacked']} attacks on texts with a radius" in said.stderr
    common = (*common[:4], *out[2:4], "--out", tmp_path / "d", "--defense", VOTE)
    for more, message in (
        (("--dtype", "bfloat16"), "expected attacks in bfloat16 in"),
        ((*FLOAT32, "--method", "smoothed"), "expected --attacks with --method vote or lists"),
    ):
        wrong = cli("certify", run_dir, *common, *more)
        assert (wrong.exit_code, len(wrong.stderr.splitlines())) == (2, 1)
        assert message in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(("--defense", "none"), "expected masked-vote, alone or behind", id="no vote"),
        pytest.param(
            ("--defense", "normalize+masked-vote"), "read each word for itself", id="words change"
        ),
        pytest.param(("--method", "vote2"), "valid method", id="method"),
        pytest.param(("--confidence", 1), "valid confidence", id="confidence"),
        pytest.param(("--split", "trian"), "trian", id="split"),
        pytest.param(("--num-examples", 10**6), "examples", id="too many"),
        pytest.param(("--attacks", "nowhere"), "nowhere", id="no attacks there"),
    ],
)
def test_bad_input_is_one_line(
    refused: Callable[..., str],
    run_dir: Path,
    data_dir: Path,
    arguments: tuple[object, ...],
    message: str,
) -> None:
    common = ("--data-dir", data_dir, *FLOAT32, "--num-examples", 2)
    assert message in refused("certify", run_dir, *common, *arguments)
    assert not Path("results").exists()
