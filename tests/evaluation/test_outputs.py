"""The files of a run: same run, same bytes; each there whole or not at all."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from evaluation_fakes import (
    CONTROL,
    DEFENSE,
    EXAMPLES,
    SwapAttack,
    manifest,
    open_store,
    record,
    systems,
)
from pages import Page, evaluated

from robust_prefix.errors import ConfigError, ResourceError, StorageError
from robust_prefix.evaluation import RecordStore, evaluate, write_results
from robust_prefix.evaluation.quality import Scorers, measure_quality, unmeasured

NAMES = ("results.csv", "results.parquet", "summary.json", "report.md", "report.html")


def test_equal_runs_leave_equal_bytes(tmp_path: Path) -> None:
    first, second = evaluated(tmp_path / "a"), evaluated(tmp_path / "b")
    for name in NAMES:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_writing_again_changes_nothing(tmp_path: Path) -> None:
    folder = evaluated(tmp_path)
    before = {name: (folder / name).read_bytes() for name in NAMES}
    with open_store(folder) as store:
        write_results(store, folder)
    assert {name: (folder / name).read_bytes() for name in NAMES} == before
    assert sorted(path.name for path in folder.iterdir()) == sorted([*NAMES, "run.sqlite"])


def test_seconds_are_in_no_output(tmp_path: Path) -> None:
    for name, seconds in (("a", 1.25), ("b", 77.5)):
        with open_store(tmp_path / name, n=1) as store:
            store.add(record(seconds=seconds))
            write_results(store, tmp_path / name)
    for name in NAMES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_summary_json_is_the_headline_and_the_rows(tmp_path: Path) -> None:
    found = json.loads((evaluated(tmp_path) / "summary.json").read_text(encoding="utf-8"))
    assert (found["defense"], found["protocol"]) == (DEFENSE, "worst")
    assert found["robust_accuracy"] == pytest.approx(5 / 6, abs=1e-6)
    assert found["control_robust_accuracy"] == 0.5
    assert found["manifest"]["settings"] == {"dtype": "float32"}
    assert [(row["defense"], row["protocol"]) for row in found["rows"]] == [
        ("none", "direct"),
        *(
            (spec, protocol)
            for spec in (DEFENSE, CONTROL)
            for protocol in ("replay", "direct", "worst")
        ),
    ]


def test_several_cells_share_the_files(tmp_path: Path) -> None:
    with open_store(tmp_path / "a") as a, open_store(tmp_path / "b", attack="other") as b:
        evaluate(systems(), SwapAttack(), EXAMPLES, a, a.manifests[0])
        evaluate(systems(), SwapAttack("other"), EXAMPLES[:2], b, b.manifests[0])
        write_results([a, b], tmp_path)
    found = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert [run["attack"] for run in found["runs"]] == ["swap(words=all)", "other"]
    assert found["missing"] == {}
    assert len((tmp_path / "results.csv").read_text(encoding="utf-8").splitlines()) == 1 + 30 + 10


def test_what_could_not_be_run_is_in_every_summary(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.add(record())
        store.put("missing", "reviews pwws", "expected WordNet, got none; apt-get install it")
        write_results(store, tmp_path)
    found = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert found["missing"] == {"reviews pwws": "expected WordNet, got none; apt-get install it"}
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "Not run" in text
        assert "expected WordNet, got none; apt-get install it" in text


def test_cells_that_were_not_reached_are_named(tmp_path: Path) -> None:
    cells = [manifest(), manifest(attack="pwws")]
    with RecordStore(tmp_path / "run.sqlite", cells) as store:
        store.add(record())
        write_results(store, tmp_path)
    found = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert list(found["missing"]) == [cells[1].name]
    assert "resumes it" in found["missing"][cells[1].name]


def test_rows_say_what_they_cost(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        evaluate(systems(), SwapAttack(), EXAMPLES, store, store.manifests[0])
        measure_quality(store, unmeasured(store, store.records(), similarity=False), Scorers())
        write_results(store, tmp_path)
    rows = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["rows"]
    by_name = {(row["defense"], row["protocol"]): row for row in rows}
    undefended = by_name["none", "direct"]
    # two of five words, counting the comma; two of five; one of three
    assert undefended["words_changed"] == pytest.approx((2 / 5 + 2 / 5 + 1 / 3) / 3, abs=1e-6)
    assert undefended["similarity"] is undefended["similarity_interval"] is None
    # each swap, the original and the adversary where there is one
    assert undefended["model_queries_mean"] == (4 + 4 + 4 + 1 + 3) / 5
    assert undefended["prediction_cost"] == 1.0
    assert undefended["curve"]["queries"] == [0, 1, 2]
    assert undefended["curve"]["held"] == [5, 4, 2]
    replay, worst = by_name[DEFENSE, "replay"], by_name[DEFENSE, "worst"]
    assert (replay["model_queries_mean"], replay["curve"]) == (None, None)
    assert (worst["prediction_cost"], worst["curve"]) == (4.0, None)


def test_a_run_without_records(tmp_path: Path) -> None:
    with open_store(tmp_path) as store, pytest.raises(ConfigError, match="without any"):
        write_results(store, tmp_path)


def test_a_run_stopped_before_its_defense_still_reports(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.add(record())
        write_results(store, tmp_path)
    found = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert "robust_accuracy" not in found
    assert found["flags"] == [f"incomplete: nothing yet about {DEFENSE}"]
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len(page.all("article")) == 1
    assert "incomplete" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with open_store(tmp_path) as store:
        store.add(record())
        with pytest.raises(StorageError):
            write_results(store, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "a file"


def test_without_jinja2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with open_store(tmp_path) as store:
        store.add(record())
        with pytest.raises(ResourceError, match=re.escape('pip install "robust-prefix[attacks]"')):
            write_results(store, tmp_path)
    written = {path.name for path in tmp_path.iterdir()} - {"run.sqlite"}
    assert written == {*NAMES} - {"report.html"}
