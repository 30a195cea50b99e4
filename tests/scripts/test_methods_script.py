"""Methods side by side: the script on the tiny model."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import pytest

import methods

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("textattack") is None, reason="the extra 'attacks' is not installed"
)


@pytest.fixture
def options(tmp_path: Path, model_dir: Path, data_dir: Path) -> list[str]:
    (tmp_path / "own.toml").write_text(
        'name = "own"\ncolumns = ["text"]\nlabels = ["a", "b"]\n'
        'label_words = [" no", " yes"]\ntemplate = "{text} is it good ?"\nmax_tokens = 64\n'
        '[splits]\ntrain = "sst2/train.csv"\ndev = "sst2/dev.csv"\ntest = "sst2/test.csv"\n'
    )
    places = ["--task", tmp_path / "own.toml", "--model", model_dir, "--data-dir", data_dir]
    more = ["--dtype", "float32", "--attack", "deepwordbug(max_queries=8)", "--quick"]
    return [str(option) for option in (*places, *more, "--out", tmp_path / "out")]


def test_it_trains_attacks_times_and_resumes(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ["--methods", "prefix-tuning(length=3)", "prompt-tuning(length=4)"]
    assert methods.main([*options, *named]) == 0
    out = tmp_path / "out"
    with (out / "methods.csv").open(newline="") as file:
        first, second = list(csv.DictReader(file))
    assert first["method"] == named[1]
    assert int(first["parameters"]) > int(second["parameters"]) > 0
    for row in (first, second):
        assert float(row["accuracy_low"]) <= float(row["accuracy"]) <= float(row["accuracy_high"])
        assert float(row["robust"]) <= 1
        assert int(row["robust_n"]) == 2
        assert float(row["step_time_median"]) > 0
    assert float(first["step_time_median"]) == 1
    assert json.loads((out / "methods.json").read_text())["settings"]["seed"] == 0
    assert (out / "methods.png").stat().st_size > 5000
    table = capsys.readouterr().out
    assert all(name.partition("(")[0] in table for name in named[1:])

    untimed = [*options, *named, "--time-rounds", "0"]
    assert methods.main(untimed) == 0
    with (out / "methods.csv").open(newline="") as file:
        again = list(csv.DictReader(file))
    kept = [name for name in first if not name.startswith("step_time")]
    assert [[row[name] for name in kept] for row in again] == [
        [row[name] for name in kept] for row in (first, second)
    ]


def test_a_wrong_method_is_known_before_anything_is_trained(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert methods.main([*options, "--methods", "prefix-tuning", "prefix-tunning"]) == 2
    assert "did you mean" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
