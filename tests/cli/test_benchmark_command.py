"""``benchmark`` and recorded adversaries at the command line, with real processes and attacks."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from robust_prefix.evaluation.bench import DATABASE

from ..processes import InlinePool, gone_soon, state
from ..test_files import contents
from .conftest import Cli, needs_attacks
from .test_commands import FILES, FLOAT32, csv_rows, last_json

Refused = Callable[..., str]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def matrix(tmp_path: Path, pristine_run: Path) -> Path:
    """Two typo attacks against the run's own defence and a static one."""
    path = tmp_path / "bench.toml"
    path.write_text(
        f'runs = ["{pristine_run}"]\n'
        'attacks = ["deepwordbug(max_queries=30)", "pruthi(max_queries=20)"]\n'
        'defenses = ["default", "projection"]\n'
        "num_examples = 4\n"
        "control_seeds = 1\n"
    )
    return path


STOP_AFTER_RECORDS = """
import os, signal
from robust_prefix.evaluation.store import RecordStore
left, add = {number}, RecordStore.add
def counted(self, record):
    global left
    add(self, record)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
RecordStore.add = counted
from robust_prefix.cli import main
main()
"""


def records(folder: Path) -> int:
    with sqlite3.connect(f"file:{folder / DATABASE}?mode=ro", uri=True) as database:
        (found,) = database.execute("SELECT count(*) FROM record").fetchone()
    return int(found)


def children(pid: int) -> Iterator[int]:
    """Those of a process that run, by way of the system's list of them."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            yield int(path.parent.name)


@needs_attacks
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_killed_benchmark_ends_in_the_same_bytes(
    cli: Cli, refused: Refused, tmp_path: Path, matrix: Path, data_dir: Path
) -> None:
    """Killed with its two workers at work, and taken up by one; read while it runs."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    arguments = ["benchmark", matrix, "--data-dir", data_dir, *FLOAT32, "--out"]
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", STOP_AFTER_RECORDS.format(number=5)),
            *map(str, [*arguments, killed, "--workers", 2]),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        deadline = time.monotonic() + 300
        while state(process.pid) != "T":  # it writes no more, and its lock is held
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        workers = list(children(process.pid))
        live = cli("report", killed, "--out", tmp_path / "live")
        taken = refused(*arguments, killed)
        process.kill()
        assert process.wait(20) == -signal.SIGKILL
    assert len(workers) >= 2
    assert all(map(gone_soon, workers))
    assert live.exit_code == 0, live.stderr
    assert len(csv_rows(tmp_path / "live" / "results.csv")) == 5
    assert "in use by another live process" in taken

    assert records(killed) == 5
    resumed = cli(*arguments, killed, "--workers", 1)
    assert resumed.exit_code == 0, resumed.stderr
    told = cli(*arguments, whole, "--workers", 1, "--json")
    assert told.exit_code == 0, told.stderr
    assert len(csv_rows(whole / "results.csv")) == 2 * 4 * 7
    assert {path.name for path in killed.iterdir()} == FILES
    assert {n: c for n, c in contents(killed).items() if n != DATABASE} == {
        n: c for n, c in contents(whole).items() if n != DATABASE
    }
    line = last_json(told.stdout)
    assert line["missing"] == {}
    assert [run["attack"].partition("(")[0] for run in line["runs"]] == ["deepwordbug", "pruthi"]

    # the same folder for another matrix
    matrix.write_text(matrix.read_text().replace("num_examples = 4", "num_examples = 5"))
    assert "expected n 4 as in the run stored in" in refused(*arguments, whole, "--workers", 1)


@needs_attacks
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("num_examples", "num_example", "got 'num_example'; did you mean 'num_examples'?"),
        ("pruthi", "prutih", "got 'prutih'; did you mean 'pruthi'?"),
        ("max_queries=20", "max_query=20", "did you mean 'max_queries'?"),
        ("projection", "projecton", "got 'projecton'; did you mean 'projection'?"),
        ("= [", "= (", "expected TOML in"),
        ("num_examples = 4", "num_examples = 99", "1 to 32 examples"),
        ("control_seeds = 1", "protocols = ['both']", "'replay', 'direct', 'adaptive' or 'worst'"),
        ("pruthi(max_queries=20)", "file:none.csv", "recorded adversaries at none.csv"),
    ],
    ids=lambda value: value if value.isidentifier() else "",
)
def test_a_matrix_that_is_none(
    refused: Refused,
    tmp_path: Path,
    matrix: Path,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    old: str,
    new: str,
    message: str,
) -> None:
    # what only a worker finds out is found out without a process of its own
    monkeypatch.setattr("robust_prefix.evaluation.benchmark.Pool", InlinePool)
    matrix.write_text(matrix.read_text().replace(old, new))
    arguments = ("benchmark", matrix, "--data-dir", data_dir, "--out", tmp_path / "out", *FLOAT32)
    assert message in refused(*arguments)
    assert not (tmp_path / "out").exists()


def test_there_is_no_matrix(refused: Refused, tmp_path: Path) -> None:
    line = refused("benchmark", tmp_path / "none.toml", "--out", tmp_path / "out")
    assert line.endswith("none.toml, got no file there")


@needs_attacks
def test_what_cannot_be_run_here_is_said_and_the_rest_is_run(
    cli: Cli, tmp_path: Path, matrix: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nltk

    from attacks.resources import debian_wordnet

    monkeypatch.setattr("robust_prefix.evaluation.benchmark.Pool", InlinePool)
    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setattr(debian_wordnet, "FOLDER", tmp_path / "no-wordnet-base")
    text = matrix.read_text().replace("deepwordbug(max_queries=30)", "pwws(max_queries=30)")
    matrix.write_text(text.replace("num_examples = 4", "num_examples = 1"))
    arguments = ("benchmark", matrix, "--data-dir", data_dir, "--out", tmp_path / "out", *FLOAT32)
    result = cli(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    line = last_json(result.stdout)
    ((name, reason),) = line["missing"].items()
    assert " pwws(max_queries=30, " in name
    assert "run: python -m nltk.downloader" in reason
    assert [run["attack"].partition("(")[0] for run in line["runs"]] == ["pruthi"]
    assert {row["attack"][:6] for row in csv_rows(tmp_path / "out" / "results.csv")} == {"pruthi"}
    assert "run: python -m nltk.downloader" in " ".join(
        cli("report", tmp_path / "out").stdout.split()
    )


RECORDED = """original,adversarial,label
the film is good and fine,the fi lm is god and fin,1
the plot is dull and weak,the plot is dull and weak,negative
the cast is warm and bright,the csat is wram and brihgt,positive
"""


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    path = tmp_path / "recorded.csv"
    path.write_text(RECORDED)
    return path


@needs_attacks
def test_recorded_adversaries_are_replayed(
    cli: Cli, tmp_path: Path, pristine_run: Path, data_dir: Path, recorded: Path
) -> None:
    moved = tmp_path / "elsewhere.csv"
    moved.write_text(RECORDED)
    for path, out in ((recorded, "a"), (moved, "b")):
        arguments = ("attack", pristine_run, "--attack", f"file:{path}", "--out", tmp_path / out)
        result = cli(*arguments, "--data-dir", data_dir, *FLOAT32, "--json")
        assert result.exit_code == 0, result.stderr
        told = last_json(result.stdout)
        assert (told["protocol"], told["n"]) == ("replay", 3)  # all there are
        assert told["attack"].startswith("file(sha256=")
    rows = csv_rows(tmp_path / "a" / "results.csv")
    assert {row["protocol"] for row in rows} == {"replay"}
    assert {row["defense"].partition("(")[0] for row in rows} == {
        "none",
        "robust-prefix",
        "random-prefix",
    }
    shown = {row["example"]: json.loads(row["adversarial"] or "null") for row in rows}
    assert shown["1"] is None
    assert {n: c for n, c in contents(tmp_path / "a").items() if n != DATABASE} == {
        n: c for n, c in contents(tmp_path / "b").items() if n != DATABASE
    }


@needs_attacks
def test_recorded_adversaries_need_no_data_of_the_task(
    cli: Cli, tmp_path: Path, pristine_run: Path, recorded: Path
) -> None:
    (tmp_path / "nothing").mkdir()
    common = ("--data-dir", tmp_path / "nothing", *FLOAT32, "--json", "--out", tmp_path / "out")
    result = cli("attack", pristine_run, "--attack", f"file:{recorded}", *common)
    assert result.exit_code == 0, result.stderr
    told = last_json(result.stdout)
    assert (told["protocol"], told["n"]) == ("replay", 3)


@needs_attacks
@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (RECORDED, ("--protocol", "direct"), "expected the protocol replay for file, got direct"),
        (RECORDED, ("--protocol", "worst"), "expected the protocol replay for file, got worst"),
        (RECORDED.replace("label", "class"), (), "'label'] in "),
        (RECORDED.replace(",positive", ",superb"), (), "in row 2, got 'superb'"),
        ("original,adversarial,label\n", (), "at least one row of adversaries"),
        (None, (), "got No such file or directory"),
    ],
    ids=["direct", "worst", "column", "label", "empty", "no file"],
)
def test_recorded_adversaries_that_do_not_fit(
    refused: Refused,
    tmp_path: Path,
    pristine_run: Path,
    data_dir: Path,
    recorded: Path,
    text: str | None,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    recorded.write_text(text) if text is not None else recorded.unlink()
    common = ("--attack", f"file:{recorded}", "--data-dir", data_dir, "--out", tmp_path / "out")
    assert message in refused("attack", pristine_run, *common, *FLOAT32, *arguments)
    assert not (tmp_path / "out").exists()
