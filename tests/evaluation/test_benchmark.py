"""A matrix: the same bytes whatever happens on the way, and accidents that end where they belong.

Real processes are in ``test_pool`` and, with real attacks, in the tests of the command.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from robust_prefix.backbones import CausalBackbone
from robust_prefix.configs import SubspaceConfig
from robust_prefix.errors import ConfigError, ResourceError, StorageError
from robust_prefix.evaluation import RecordStore, Results
from robust_prefix.evaluation.benchmark import run_benchmark
from robust_prefix.evaluation.plan import Plan
from robust_prefix.fitting import fit_subspaces
from robust_prefix.prefixes import Prefix
from robust_prefix.runs import Run
from robust_prefix.tasks import Task

from ..processes import InlinePool
from .bench_attacks import ACCIDENTS, canonical, make_workbench

DEFENSE = "robust-prefix(mode=example, optimizer=adam, learning_rate=0.15, steps=1, tolerance=0.0)"
PLAIN = "projection"
FILES = ("results.csv", "summary.json", "report.html", "report.md")

Benchmark = Callable[..., list[Results]]


@pytest.fixture(scope="module")
def run_folder(
    tmp_path_factory: pytest.TempPathFactory,
    backbone: CausalBackbone,
    model_dir: Path,
    task: Task,
    prefix: Prefix,
) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "run"
    short = dataclasses.replace(task, max_tokens=64)  # the tiny model has 256 positions
    spaces = fit_subspaces(backbone, prefix, short, config=SubspaceConfig(threshold=0.6))
    named = dataclasses.replace(prefix, base_model=str(model_dir))
    Run(short, named, spaces, defense="robust-prefix(steps=1)").save(folder)
    return folder


@pytest.fixture
def benchmark(
    run_folder: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Benchmark]:
    """Runs a matrix into a folder."""
    monkeypatch.setattr("robust_prefix.evaluation.benchmark.Pool", InlinePool)
    before = torch.get_num_threads()

    def run(out: Path, attacks: list[str], workers: int = 1, **changes: Any) -> list[Results]:
        values: dict[str, Any] = {
            "runs": [str(run_folder)],
            "attacks": attacks,
            "defenses": ["default", PLAIN],
            "num_examples": 4,
            "control_seeds": 2,
        }
        cells = Plan(**(values | changes)).cells(canonical, data_dir)
        return run_benchmark(cells, functools.partial(make_workbench, data_dir), out, workers)

    yield run
    torch.set_num_threads(before)


SMALL: dict[str, Any] = {
    "attacks": ["swap"],
    "defenses": ["default"],
    "protocols": ["replay"],
    "num_examples": 1,
    "control_seeds": 1,
}


@pytest.fixture
def finished(benchmark: Benchmark, tmp_path: Path) -> Path:
    """A folder with one small cell."""
    benchmark(tmp_path / "finished", **SMALL)
    return tmp_path / "finished"


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def missing(folder: Path) -> dict[str, str]:
    """Why there is nothing of a system, by attack and what comes after the seed."""
    with RecordStore(folder / "run.sqlite") as store:
        found = store.items("missing")
    return {
        " ".join((name.split()[3].partition("(")[0], *name.partition("seed=0")[2].split())): reason
        for name, reason in found.items()
    }


def test_a_file_without_tables_is_taken_up(benchmark: Benchmark, tmp_path: Path) -> None:
    """As SQLite leaves it to whoever is stopped before the first table stands."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.sqlite").touch()
    [results] = benchmark(tmp_path / "out", **SMALL)
    assert results.summary.rows


def test_neither_workers_nor_their_deaths_change_a_byte(
    benchmark: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    attacks = ["swap", "fragile", "universal"]
    one = benchmark(tmp_path / "one", attacks, workers=1, num_examples=3)
    assert caplog.text.count("a worker process died") == 0
    (tmp_path / "accidents").mkdir()
    monkeypatch.setattr(ACCIDENTS, "folder", tmp_path / "accidents")
    benchmark(tmp_path / "two", attacks, workers=2, num_examples=3)
    assert caplog.text.count("a worker process died") >= 3
    assert "it was ended by SIGKILL, as when memory is short" in caplog.text
    assert contents(tmp_path / "one") == contents(tmp_path / "two")

    assert [found.manifest.attack for found in one] == [canonical(attack) for attack in attacks]
    for found in one:
        cell = found.manifest
        assert len(found.records) == cell.total == 3 * (1 + 4 * 2)
        assert cell.systems == {
            "none": "undefended",
            DEFENSE: "defense",
            PLAIN: "defense",
            **dict.fromkeys(cell.controls[DEFENSE], "control"),
        }
        assert [spec[-7:] for spec in cell.controls[DEFENSE]] == ["seed=0)", "seed=1)"]
        assert {record.outcome for record in found.records} <= {"succeeded", "failed", "skipped"}
        assert cell.settings["threat.edits"] == "any word"
        assert cell.settings["goal"] == "misclassify"
    # attacked directly are the undefended, two defences and two controls
    assert set(one[2].states) == {(spec, "direct") for spec in one[2].manifest.systems}
    # a finished matrix is left as it is
    before = (tmp_path / "two" / "run.sqlite").read_bytes()
    benchmark(tmp_path / "two", attacks, workers=2, num_examples=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert (tmp_path / "two" / "run.sqlite").read_bytes() == before


def test_accidents_end_where_they_belong(
    benchmark: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacks = ["absent", "choosy", "deadly", "hungry"]
    folder = tmp_path / "out"
    found = benchmark(folder, attacks, workers=2)
    assert [results.manifest.attack for results in found][:2] == [
        canonical("choosy"),
        canonical("deadly"),
    ]
    # a resource that is not there: nothing of that cell; and one that goes missing half-way
    command = "expected a dictionary, got none; run: touch words"
    reasons = missing(folder)
    assert reasons.pop("absent") == command
    assert reasons.pop("hungry") == "expected a word list, got none; run: touch words"
    # what does not go together with an attack is left out, what does is not
    assert set(reasons) == {f"choosy {spec} direct" for spec in found[0].manifest.systems} - {
        "choosy none direct"
    }
    assert set(reasons.values()) == {"expected no defence, got one"}
    choosy = collections.Counter((r.role, r.protocol) for r in found[0].records)
    assert choosy == {
        ("undefended", "direct"): 4,
        ("defense", "replay"): 8,
        ("control", "replay"): 8,
    }
    # what takes the process down twice is an error, once for each system, and the rest goes on
    deadly = found[1]
    assert len(deadly.records) == deadly.manifest.total
    for record in deadly.records:
        if record.protocol == "direct" and "cast" in record.original[0].split():
            right_before = record.outcome != "skipped"
            assert (record.outcome == "error") is right_before
            if right_before:
                assert record.note == (
                    "the process died 2 times at this record: it was ended by SIGSEGV"
                )
        elif record.protocol == "direct":
            assert record.outcome != "error"
    assert any(record.outcome == "error" for record in deadly.records)
    with (folder / "summary.json").open() as file:
        assert command in json.load(file)["missing"].values()

    # once the words are there, the same call takes up what was missing, and nothing else changes
    made = {record.key: record for results in found for record in results.records}
    monkeypatch.setattr(ACCIDENTS, "words", True)
    resumed = benchmark(folder, attacks, workers=2)
    assert [results.manifest.attack for results in resumed] == list(map(canonical, attacks))
    assert {key.partition(" ")[0] for key in missing(folder)} == {"choosy"}
    for results in resumed[:1] + resumed[3:]:
        assert len(results.records) == results.manifest.total
    now = {record.key: record for results in resumed for record in results.records}
    assert {key: now[key] for key in made} == made
    with (folder / "results.csv").open(newline="") as file:
        order = [row["attack"] for row in csv.DictReader(file)]
    assert list(dict.fromkeys(order)) == list(map(canonical, attacks))


def test_nothing_to_run_at_all(benchmark: Benchmark, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="run: touch words"):
        benchmark(tmp_path / "out", ["absent"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"control_seeds": 2}, r"expected controls\.robust.* \('random-prefix.* got \('random-pre"),
        ({"control_seeds": 0}, r"expected controls\.robust.* got None"),
        ({"defenses": []}, r"expected defenses \('robust-prefix.* got \(\)"),
        ({"protocols": ["direct"]}, r"expected protocols \('replay',\) .* got \('direct',\)"),
        ({"num_examples": 2}, "expected n 1 .* got 2"),
        ({"seeds": [1]}, "expected seed 0 .* got 1"),
        ({"attacks": ["fragile"]}, r"expected attack 'swap\(words=8\)' .* got 'fragile"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_folder_of_another_matrix(
    benchmark: Benchmark, finished: Path, changes: dict[str, Any], message: str
) -> None:
    before = contents(finished)
    with pytest.raises(ConfigError, match=message) as caught:
        benchmark(finished, **(SMALL | changes))
    assert len(str(caught.value).splitlines()) == 1
    assert contents(finished) == before


def test_a_folder_that_is_written_to(benchmark: Benchmark, finished: Path) -> None:
    with RecordStore(finished / "run.sqlite") as store:
        manifests = store.manifests
    started = InlinePool.started
    with (
        RecordStore(finished / "run.sqlite", manifests),
        pytest.raises(StorageError, match="in use by another live process"),
    ):
        benchmark(finished, **SMALL)
    assert InlinePool.started == started  # said before any work


def test_a_matrix_may_grow(benchmark: Benchmark, tmp_path: Path) -> None:
    benchmark(tmp_path / "grown", **SMALL)
    larger = SMALL | {"attacks": ["fragile", "swap"]}
    benchmark(tmp_path / "grown", **larger)
    benchmark(tmp_path / "at once", **larger)
    assert contents(tmp_path / "grown") == contents(tmp_path / "at once")
