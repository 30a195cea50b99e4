"""How many virtual tokens, where, and which words: the script on the tiny model."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import prompts
from robust_prefix.backbones import CausalBackbone
from robust_prefix.prefixes.manual_prompt import manual_prompt
from robust_prefix.runs import Run
from robust_prefix.tasks import TASKS, Task, load_task


@pytest.fixture
def common(tmp_path: Path, model_dir: Path, data_dir: Path) -> list[str]:
    """Options of a small experiment; the tiny model has 256 positions."""
    (tmp_path / "own.toml").write_text(
        'name = "own"\ncolumns = ["text"]\nlabels = ["a", "b"]\n'
        'label_words = [" no", " yes"]\ntemplate = "{text} is it good ?"\nmax_tokens = 64\n'
        '[splits]\ntrain = "sst2/train.csv"\ndev = "sst2/dev.csv"\ntest = "sst2/test.csv"\n'
    )
    places = ["--task", tmp_path / "own.toml", "--model", model_dir, "--data-dir", data_dir]
    more = ["--epochs", "0.5", "--dtype", "float32", "--out", tmp_path / "out", "--quick"]
    return [str(option) for option in (*places, *more)]


@pytest.mark.parametrize("question", ["length", "position"])
def test_it_trains_draws_and_resumes(
    common: list[str], tmp_path: Path, question: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [question, *common, "--methods", "prefix-tuning", "prompt-tuning", "p-tuning"]
    more = ["--method", "p-tuning(encoder=mlp, encoder_width=8)"]
    assert prompts.main([*options, *more]) == 0
    out = tmp_path / "out"
    with (out / f"{question}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == (4 if question == "length" else 2)
    assert all(float(r["low"]) <= float(r["accuracy"]) <= float(r["high"]) for r in rows)
    assert {int(row["n"]) for row in rows} == {32}
    document = json.loads((out / f"{question}.json").read_text())
    assert document["settings"]["seed"] == 0
    if question == "length":
        assert {row["length"] for row in document["rows"]} == {1, 2}
        assert sum(row["chosen"] for row in document["rows"]) == 2
    assert (out / f"{question}.png").stat().st_size > 5000
    assert "accuracy" in (out / f"{question}.svg").read_text()
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == len(rows)
    again = (out / f"{question}.csv").read_bytes()
    assert prompts.main([*options, *more]) == 0
    assert (out / f"{question}.csv").read_bytes() == again


@pytest.mark.parametrize("name", TASKS)
def test_every_place_has_all_virtual_tokens(name: str) -> None:
    task = load_task(name)
    made = dict(prompts.templates(task, 11))
    assert len(made) == 5
    for place, template in made.items():
        placed = Task.from_dict({**task.to_dict(), "template": template})
        assert sum(placed.virtual_tokens) == 11, place
    assert Task.from_dict({**task.to_dict(), "template": made["before"]}).virtual_tokens == (11, 0)


def test_bad_input_is_one_line(common: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert prompts.main(["position", *common, "--method", "prefix-tuning"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = printed.err.splitlines()
    assert line.startswith("prompts: expected a valid length for prefix-tuning")


def test_each_word_is_changed_and_drawn(
    common: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prompts.main(["sensitivity", *common]) == 0
    out = tmp_path / "out"
    with (out / "sensitivity.csv").open(newline="") as file:
        first, *rows = list(csv.DictReader(file))
    assert first["kind"] == "as it is"
    assert {row["word"] for row in rows} == {"is", "it", "good", "?"}
    assert {int(row["n"]) for row in rows} == {16}
    assert all(float(r["low"]) <= float(r["accuracy"]) <= float(r["high"]) for r in rows)
    document = json.loads((out / "sensitivity.json").read_text())
    assert document["settings"]["template"] == "{text} is it good ?"
    assert (out / "sensitivity.png").stat().st_size > 5000
    assert "dropped" in (out / "sensitivity.svg").read_text()
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == len(rows) + 1
    assert "without synonyms" in printed.err  # the small data has no word lists


def test_the_words_of_a_hard_prompt_are_part_of_its_template(
    common: list[str], tmp_path: Path, backbone: CausalBackbone, data_dir: Path
) -> None:
    task = load_task(str(tmp_path / "own.toml"), data_dir)
    prefix = manual_prompt(backbone, task, "the film")
    Run(task, prefix).save(tmp_path / "run")
    assert prompts.main(["sensitivity", *common, "--run", str(tmp_path / "run")]) == 0
    document = json.loads((tmp_path / "out" / "sensitivity.json").read_text())
    assert document["settings"]["template"] == "the film\n{text} is it good ?"
    words = [row["word"] for row in document["rows"] if row["kind"] == "dropped"]
    assert words == ["the", "film", "is", "it", "good", "?"]
