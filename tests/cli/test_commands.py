"""The commands one after the other on the tiny model: what they print, write and take up again."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from robust_prefix.cli.app import app
from robust_prefix.evaluation.bench import DATABASE
from robust_prefix.runs import PREFIX_FILE, RUN_FILE, SUBSPACES_FILE, Run

from ..test_files import contents
from .conftest import Cli, needs_attacks

FLOAT32 = ("--dtype", "float32")
FILES = {
    "results.csv",
    "results.parquet",
    "summary.json",
    "report.md",
    "report.html",
    DATABASE,
}
HEADLINE = {
    "clean_accuracy",
    "robust_accuracy",
    "attack_success_rate",
    "n",
    "queries_mean",
    "protocol",
    "defense",
    "attack",
    "flags",
}


def last_json(stdout: str) -> Any:
    return json.loads(stdout.splitlines()[-1])


def csv_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def attack_arguments(run: Path, out: Path, data_dir: Path, *more: object) -> list[object]:
    common = ("--data-dir", data_dir, "--attack", "deepwordbug(max_queries=40)", *FLOAT32)
    return ["attack", run, "--out", out, *common, "--seed", 3, *more]


@needs_attacks
def test_the_whole_path(cli: Cli, tmp_path: Path, model_dir: Path, data_dir: Path) -> None:
    run, results = tmp_path / "run", tmp_path / "results"
    trained = cli(
        *("train", "--out", run, "--model", model_dir, "--data-dir", data_dir, *FLOAT32),
        *("--epochs", 4, "--length", 4, "--learning-rate", 0.02, "--json"),
    )
    assert trained.exit_code == 0, trained.stderr
    told = last_json(trained.stdout)
    assert len(trained.stdout.splitlines()) == 1
    assert told["out"] == str(run)
    assert told["settings"]["prefix"]["length"] == 4
    assert told["settings"]["seed"] == 0
    assert told["clean_accuracy"]["n"] == 32
    assert {path.name for path in run.iterdir()} == {PREFIX_FILE, RUN_FILE, "training.json"}
    assert json.loads((run / RUN_FILE).read_text())["measurements"]["clean_accuracy"]["n"] == 32

    fitted = cli("fit-subspaces", run, "--data-dir", data_dir, *FLOAT32, "--json")
    assert fitted.exit_code == 0, fitted.stderr
    told = last_json(fitted.stdout)
    assert list(told["ranks"]) == ["0", "1", "2"]
    assert 2 <= told["correct"] <= told["examples"] == 32
    assert (run / SUBSPACES_FILE).is_file()

    texts = ["the film is good", "the plot is dull", "NA"]
    lines = "".join(f"{text}\n" for text in texts)
    answers = {}
    for defense in ("none", "robust-prefix(steps=3)", "projection"):
        said = cli("predict", run, "--defense", defense, *FLOAT32, input=lines)
        assert (said.exit_code, said.stderr) == (0, "")
        answers[defense] = [json.loads(line) for line in said.stdout.splitlines()]
        assert [answer["text"] for answer in answers[defense]] == texts
        for answer in answers[defense]:
            assert set(answer) == {"text", "label", "probabilities", "truncated", "abstained"}
            assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].get)
            assert sum(answer["probabilities"].values()) == pytest.approx(1)
            assert answer["truncated"] is False
    assert answers["none"] != answers["robust-prefix(steps=3)"] != answers["projection"]

    more = ("--defense", "robust-prefix(steps=2)", "--num-examples", 4, "--json")
    attacked = cli(*attack_arguments(run, results, data_dir, *more))
    assert attacked.exit_code == 0, attacked.stderr
    told = last_json(attacked.stdout)
    assert len(attacked.stdout.splitlines()) == 1
    assert set(told) >= HEADLINE
    assert (told["n"], told["protocol"]) == (4, "worst")
    assert {path.name for path in results.iterdir()} == FILES

    before = contents(results)
    (results / "results.csv").unlink()
    reported = cli("report", results, "--json")
    assert reported.exit_code == 0, reported.stderr
    assert last_json(reported.stdout) == told
    assert contents(results) == before
    assert cli("report", results, "--out", tmp_path / "elsewhere").exit_code == 0
    assert contents(tmp_path / "elsewhere") == {
        name: content for name, content in before.items() if name != DATABASE
    }


@needs_attacks
@pytest.mark.parametrize("protocol", ["replay", "direct", "worst"])
def test_an_attack_under_each_protocol(
    cli: Cli, tmp_path: Path, pristine_run: Path, data_dir: Path, protocol: str
) -> None:
    more = ("--num-examples", 3, "--protocol", protocol, "--json")
    result = cli(*attack_arguments(pristine_run, tmp_path / "out", data_dir, *more))
    assert result.exit_code == 0, result.stderr
    told = last_json(result.stdout)
    assert set(told) >= HEADLINE
    assert told["protocol"] == protocol
    # the run's own defence, all of its settings spelled out
    assert told["defense"] == (
        "robust-prefix(mode=example, optimizer=adam, learning_rate=0.15, steps=2, tolerance=0.0)"
    )
    assert told["attack"].startswith("deepwordbug(max_queries=40, ")
    for name in ("clean_accuracy", "robust_accuracy", "attack_success_rate"):
        low, high = told[f"{name}_interval"] or (None, None)
        value = told[name]
        assert value is None or 0 <= low <= value <= high <= 1
    rows = csv_rows(tmp_path / "out" / "results.csv")
    kinds = {"replay": 1, "direct": 1, "worst": 2}[protocol]
    roles = [row["role"] for row in rows]
    assert {role: roles.count(role) for role in set(roles)} == {
        "undefended": 3,
        "defense": 3 * kinds,
        "control": 3 * kinds,
    }
    shown = {row["protocol"] for row in rows if row["role"] != "undefended"}
    assert shown == ({"replay", "direct"} if protocol == "worst" else {protocol})
    assert {row["outcome"] for row in rows} <= {"succeeded", "failed", "skipped"}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["manifest"]["n"] == 3


@needs_attacks
def test_another_attack_does_not_go_into_the_same_folder(
    cli: Cli, tmp_path: Path, pristine_run: Path, data_dir: Path
) -> None:
    arguments = attack_arguments(pristine_run, tmp_path / "out", data_dir, "--defense", "none")
    assert cli(*arguments, "--num-examples", 2).exit_code == 0
    before = contents(tmp_path / "out")
    assert cli(*arguments, "--num-examples", 2).exit_code == 0  # nothing left to do
    result = cli(*arguments, "--num-examples", 3)
    assert result.exit_code == 2
    assert result.stderr.startswith("robust-prefix: expected n 2 as in the run stored in")
    assert len(result.stderr.splitlines()) == 1
    assert contents(tmp_path / "out") == before


KILL_AFTER_RECORDS = """
import os, signal
from robust_prefix.classifier import PrefixClassifier
from robust_prefix.evaluation.store import RecordStore
left, add, decide = {number}, RecordStore.add, PrefixClassifier.decide
def counted(self, record):
    global left
    left -= 1
    add(self, record)
def fatal(self, texts, batch_size=32):
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return decide(self, texts, batch_size)
RecordStore.add, PrefixClassifier.decide = counted, fatal
from robust_prefix.cli import main
main()
"""


@needs_attacks
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="sends SIGKILL")
def test_a_killed_attack_ends_in_the_same_bytes(
    cli: Cli, tmp_path: Path, pristine_run: Path, data_dir: Path
) -> None:
    """Killed inside an example, for good, and started again."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    arguments = [*attack_arguments(pristine_run, killed, data_dir), "--num-examples", 4]
    root = Path(__file__).parents[2]
    process = subprocess.run(
        [sys.executable, "-c", KILL_AFTER_RECORDS.format(number=7), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert {path.name for path in killed.iterdir()} <= {
        DATABASE,
        f"{DATABASE}-journal",
        f"{DATABASE}.lock",
    }
    with sqlite3.connect(killed / DATABASE) as database:
        (finished,) = database.execute("SELECT count(*) FROM record").fetchone()
    database.close()
    assert finished == 7
    assert cli(*arguments).exit_code == 0
    assert cli(*attack_arguments(pristine_run, whole, data_dir), "--num-examples", 4).exit_code == 0
    for name in ("results.csv", "summary.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert len(csv_rows(whole / "results.csv")) == 4 * 5


def own_task(folder: Path, suffix: str) -> Path:
    """A task of an own making, its labels as names, its texts such as readers like to change."""
    texts = ["NA", "null", "007", "the film is good", "the plot is bad", "so, so"]
    rows = [
        {"stars": ("bad", "good")[place % 2], "review": text} for place, text in enumerate(texts)
    ]
    path = folder / f"data.{suffix}"
    if suffix == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["stars", "review"])
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        parquet.write_table(pa.Table.from_pylist(rows), path)
    toml = folder / "own.toml"
    toml.write_text(
        'name = "own"\ncolumns = ["review"]\nlabels = ["bad", "good"]\n'
        'label_words = [" no", " yes"]\ntemplate = "{review} is it good ?"\n'
        'label_column = "stars"\nmax_tokens = 60\n'
        f'[splits]\ntrain = "data.{suffix}"\ndev = "data.{suffix}"\n'
    )
    return toml


def run_through(cli: Cli, run: Path, train: Sequence[object], fit: Sequence[object]) -> None:
    for command in (["train", "--out", run, *train], ["fit-subspaces", run, *fit]):
        result = cli(*command, *FLOAT32)
        assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_an_own_task_from_a_file(cli: Cli, tmp_path: Path, model_dir: Path, suffix: str) -> None:
    """After training the run alone says what the task is and where in the data folder its data."""
    toml = own_task(tmp_path, suffix)
    training = ("--task", toml, "--model", model_dir, "--epochs", 1)
    run_through(cli, tmp_path / "run", training, ("--data-dir", tmp_path))
    assert Run.load(tmp_path / "run").prefix.config["train_examples"] == 6
    result = cli("predict", tmp_path / "run", *FLOAT32, input="007\nnull\n")
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["text"] for answer in answers] == ["007", "null"]
    assert {answer["label"] for answer in answers} <= {"bad", "good"}


def test_pairs_are_trained_on_and_predicted(cli: Cli, tmp_path: Path, model_dir: Path) -> None:
    """The built-in task of pairs, in the layout of its data folder."""
    (tmp_path / "data" / "snli").mkdir(parents=True)
    rows = [
        f'"the {subject}, they say, is {word}",the {subject} is good,{label}\n'
        for subject in ("film", "plot", "cast", "end")
        for label, word in enumerate(("good", "fine", "bad"))
    ]
    for split in ("train", "dev", "test"):
        path = tmp_path / "data" / "snli" / f"{split}.csv"
        path.write_text("premise,hypothesis,label\n" + "".join(rows))
    data = ("--data-dir", tmp_path / "data")
    training = ("--task", "snli", "--model", model_dir, "--epochs", 1, *data)
    run_through(cli, tmp_path / "run", training, data)
    pairs = [["the film is good", "the film is bad"], ["😀", "NA"]]
    lines = "".join(json.dumps(pair) + "\n" for pair in pairs)
    result = cli("predict", tmp_path / "run", "--defense", "robust-prefix", *FLOAT32, input=lines)
    assert result.exit_code == 0, result.stderr
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [json.loads(answer["text"]) for answer in answers] == pairs
    for answer in answers:
        assert list(answer["probabilities"]) == ["entailment", "neutral", "contradiction"]


def test_several_tasks_are_predicted_in_one_call(
    cli: Cli, tmp_path: Path, pristine_run: Path
) -> None:
    """Each line by the run of its task, behind the defence of that run."""
    run = Run.load(pristine_run)
    task = dataclasses.replace(run.task, name="other", template="{text} is it good or bad ?")
    other = dataclasses.replace(run, task=task, subspaces=None, defense="none")
    other.save(tmp_path / "other")
    texts = ["the film is good", "a dull plot", "the cast is weak and flat"]
    asked = [{"task": name, "text": text} for text in texts for name in ("other", "sst2")]
    lines = "".join(json.dumps(each) + "\n" for each in asked)
    said = cli("predict", pristine_run, tmp_path / "other", *FLOAT32, input=lines)
    assert (said.exit_code, said.stderr) == (0, "")
    answers = [json.loads(line) for line in said.stdout.splitlines()]
    assert [{"task": a["task"], "text": a["text"]} for a in answers] == asked
    for name, folder in (("sst2", pristine_run), ("other", tmp_path / "other")):
        alone = cli("predict", folder, *FLOAT32, input="".join(text + "\n" for text in texts))
        expected = [json.loads(line) for line in alone.stdout.splitlines()]
        found = [answer for answer in answers if answer["task"] == name]
        for one, other_way in zip(found, expected, strict=True):
            assert one["label"] == other_way["label"]
            assert one["probabilities"] == pytest.approx(other_way["probabilities"], abs=1e-4)


@needs_attacks
@pytest.mark.parametrize("kind", ["attacks", "defenses", "tasks", "models"])
def test_lists(cli: Cli, data_dir: Path, kind: str) -> None:
    result = cli("list", kind, "--json", "--data-dir", data_dir)
    assert (result.exit_code, result.stderr) == (0, "")
    rows = last_json(result.stdout)
    names = {row["name"] for row in rows}
    expected = {
        "attacks": {"deepwordbug", "pwws"},
        "defenses": {"none", "robust-prefix", "projection", "random-prefix"},
        "tasks": {"sst2", "ag_news", "snli"},
        "models": {"smollm2-135m"},
    }
    assert names >= expected[kind]
    table = cli("list", kind, "--data-dir", data_dir)
    assert table.exit_code == 0
    assert all(name in table.stdout for name in expected[kind])
    if kind == "tasks":
        here = {row["name"]: row["here"] for row in rows}
        assert here["sst2"] == "yes"
        assert here["snli"].startswith("missing snli/train.csv")


def test_every_command_has_help_and_the_common_options(cli: Cli) -> None:
    assert cli("--help").exit_code == 0
    names = {command.name for command in app.registered_commands}
    assert names == {
        *("demo", "train", "fit-subspaces", "fit-synonyms", "predict", "attack", "benchmark"),
        *("certify", "ensemble", "average", "import-peft", "export-peft", "report", "list"),
        *("fit-detectors", "fit-word-scores", "detect", "defend", "train-generation", "generate"),
        *("fit-spelling", "generate-examples"),
    }
    for name in ("demo", "train", "fit-subspaces", "predict", "attack", "benchmark", "certify"):
        shown = cli(name, "--help")
        assert shown.exit_code == 0
        for option in ("--seed", "--device", "--dtype", "--data-dir"):
            assert option in shown.stdout, f"{name} has no {option}"
