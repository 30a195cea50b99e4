"""``train-generation`` and ``generate``: from pairs in files to texts on stdout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from robust_prefix.backbones import load_backbone
from robust_prefix.configs import DecodingConfig
from robust_prefix.generation import PrefixGenerator

from .conftest import Cli

FLOAT32 = ("--dtype", "float32")
SHORT = ("--epochs", 1, "--batch-size", 2, "--length", 4, "--learning-rate", 0.02)


@pytest.fixture
def own_task(tmp_path: Path) -> Path:
    """A task of pairs in files, with its TOML file."""
    rows = [("film, good", "the film is good"), ("plot, dull", "the plot is dull")]
    text = "table,said\n" + "".join(f'"{source}",{target}\n' for source, target in rows)
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.csv").write_text(text)
    path = tmp_path / "own.toml"
    path.write_text(
        'name = "own"\nsource_column = "table"\ntarget_column = "said"\nmax_tokens = 64\n'
        '[splits]\ntrain = "train.csv"\ndev = "dev.csv"\ntest = "test.csv"\n'
    )
    return path


def test_pairs_are_trained_on_and_texts_are_written(
    cli: Cli, tmp_path: Path, model_dir: Path, own_task: Path
) -> None:
    pytest.importorskip("sacrebleu", reason="the extra 'generation' is not installed")
    run = tmp_path / "run"
    arguments = ("--task", own_task, "--model", model_dir, "--out", run, *SHORT, *FLOAT32)
    result = cli("train-generation", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["settings"]["generation_task"]["name"] == "own"
    assert told["settings"]["training"]["learning_rate"] == 0.02
    assert told["bleu"]["split"] == "test"
    assert told["bleu"]["n"] == 2
    assert 0 <= told["bleu"]["score"] <= 100
    assert not (run / "checkpoints").exists()
    sources = ["film, good", "emoji 😀 {source}", "film, good"]
    lines = "".join(source + "\n" for source in sources)
    given = ("--beams", 2, "--max-new-tokens", 5)
    said = cli("generate", run, *given, *FLOAT32, input=lines)
    assert (said.exit_code, said.stderr) == (0, "")
    answers = [json.loads(line) for line in said.stdout.split("\n")[:-1]]
    assert [answer["source"] for answer in answers] == sources
    backbone = load_backbone(str(model_dir), dtype="float32")
    generator = PrefixGenerator.from_pretrained(run, backbone=backbone)
    decoding = DecodingConfig(beams=2, max_new_tokens=5)
    assert [answer["text"] for answer in answers] == generator.generate(sources, decoding)
    assert generator.measurements["bleu"] == told["bleu"]


@pytest.mark.parametrize(
    ("lines", "arguments", "message"),
    [
        ("", (), "at least one line of text on stdin, got nothing"),
        ("film\n \n", (), "words without NUL bytes as source 1, got ' '"),
        (b"caf\xe9\n", (), "UTF-8 text on stdin, got byte 0xe9"),
        ("good " * 80, (), "at most 64 tokens in the prompt of source 0"),
        ("film\n", ("--beams", 0), "a valid beams for generate, got 0"),
        ("film\n", ("--max-new-tokens", 500), "at most 256 positions"),
    ],
    ids=["nothing", "spaces", "latin-1", "long", "beams", "positions"],
)
def test_what_cannot_be_written_about(
    cli: Cli,
    refused: Callable[..., str],
    tmp_path: Path,
    model_dir: Path,
    own_task: Path,
    lines: str | bytes,
    arguments: tuple[object, ...],
    message: str,
) -> None:
    run = tmp_path / "run"
    trained = ("--task", own_task, "--model", model_dir, "--out", run, *SHORT, *FLOAT32)
    assert cli("train-generation", *trained).exit_code == 0
    assert message in refused("generate", run, *arguments, *FLOAT32, input=lines)


def test_runs_of_the_other_kind_are_refused(
    cli: Cli,
    refused: Callable[..., str],
    tmp_path: Path,
    model_dir: Path,
    own_task: Path,
    pristine_run: Path,
) -> None:
    run = tmp_path / "run"
    trained = ("--task", own_task, "--model", model_dir, "--out", run, *SHORT, *FLOAT32)
    assert cli("train-generation", *trained).exit_code == 0
    assert "with generation.json at" in refused("generate", pristine_run, input="film\n")
    assert "a run directory with run.json at" in refused("predict", run, input="film\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "trials"), "got 'trials'; did you mean 'trails'?"),
        (("--length", 0), "a valid length for train-generation, got 0"),
        (("--init", "labels"), "settings that need no classes, got init=labels"),
        (("--epochs", -1), "a valid epochs for train-generation"),
    ],
)
def test_bad_settings(
    refused: Callable[..., str],
    tmp_path: Path,
    model_dir: Path,
    arguments: tuple[object, ...],
    message: str,
) -> None:
    given = ("--model", model_dir, "--out", tmp_path / "run", *arguments, *FLOAT32)
    assert message in refused("train-generation", *given)
    assert not (tmp_path / "run").exists()


def test_texts_of_each_class_are_written_judged_and_trained_on(
    cli: Cli,
    refused: Callable[..., str],
    tmp_path: Path,
    model_dir: Path,
    data_dir: Path,
    run_dir: Path,
) -> None:
    generator, more, run = tmp_path / "generator", tmp_path / "more.csv", tmp_path / "trained"
    common = ("--data-dir", data_dir, *FLOAT32)
    task = ("--task", "sst2", "--template", "A {source} one:", "--model", model_dir)
    trained = cli("train-generation", *task, "--out", generator, *SHORT, *common)
    assert trained.exit_code == 0, trained.stderr
    assert "BLEU not measured; a class can be written of in any way" in trained.stderr
    given = ("--judge", run_dir, "--out", more, "--num-examples", 5, *common)
    loose = ("--min-probability", 0, "--max-new-tokens", 8, "--batch-size", 64)
    said = cli("generate-examples", generator, *given, *loose, "--json")
    assert said.exit_code == 0, said.stderr
    told = json.loads(said.stdout)
    assert told["kept"] == 5
    assert f"5 texts of {told['written']:,} drawn" in " ".join(said.stderr.split())
    lines = more.read_text().splitlines()
    assert lines[0] == "text,label"
    assert {line.rpartition(",")[2] for line in lines[1:]} <= {"negative", "positive"}
    fit = ("--model", model_dir, "--length", 2, "--epochs", 0.1, "--max-examples", 0)
    plain = cli("train", "--out", run, *fit, *common, "--more-data", more, "--json")
    assert plain.exit_code == 0, plain.stderr
    assert json.loads(plain.stdout)["settings"]["train_examples"] == 32 + 5
    splits = json.loads((run / "run.json").read_text())["task"]["splits"]
    assert splits["train"] == ["sst2/train.csv", str(more)]  # and so are later fits
    fitted = cli("fit-subspaces", run, *common, "--json")
    assert json.loads(fitted.stdout)["examples"] == 32 + 5
    more.unlink()
    message = refused("fit-subspaces", run, *common)
    assert f"data for task 'sst2' at {more}, got no file there" in message


def test_bad_requests_for_examples(
    refused: Callable[..., str], tmp_path: Path, model_dir: Path, own_task: Path, cli: Cli
) -> None:
    run = tmp_path / "run"
    trained = ("--task", own_task, "--model", model_dir, "--out", run, *SHORT, *FLOAT32)
    assert cli("train-generation", *trained).exit_code == 0
    given = ("--judge", tmp_path / "none", "--out", tmp_path / "more.csv", *FLOAT32)
    assert "a run directory with run.json at" in refused("generate-examples", run, *given)
    wrong = refused("generate-examples", run, *given, "--temperature", 0)
    assert "a valid temperature for generate-examples, got 0" in wrong
    assert "a valid min_probability" in refused(
        "generate-examples", run, *given, "--min-probability", 2
    )
    assert not (tmp_path / "more.csv").exists()
