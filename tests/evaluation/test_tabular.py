"""Records as CSV and as Parquet: every text comes back, and nothing that changes between runs."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from evaluation_fakes import record
from pages import HOSTILE, evaluated
from pyarrow import parquet

from robust_prefix.evaluation.quality import Quality, pair_key
from robust_prefix.evaluation.tabular import COLUMNS, records_csv, write_parquet


def test_csv_has_a_row_for_each_record(tmp_path: Path) -> None:
    text = (evaluated(tmp_path) / "results.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 30
    assert tuple(rows[0]) == COLUMNS
    assert "seconds" not in rows[0]
    first = rows[0]
    assert (first["example"], first["defense"], first["outcome"]) == ("10", "none", "succeeded")
    assert json.loads(first["adversarial"]) == ["a lovely , clever film"]
    assert (first["margin_original"], first["dynamic"]) == ("3.950000", "false")
    assert rows[1]["adversarial"] == ""


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_csv_gives_every_text_back(text: str) -> None:
    written = records_csv([record(original=(text, 'b\r\n,"'), adversarial=None)])
    written.encode("utf-8")
    (row,) = csv.DictReader(io.StringIO(written))
    assert json.loads(row["original"]) == [text, 'b\r\n,"']


def test_csv_of_a_crash_has_no_traceback_and_no_address() -> None:
    message = 'Traceback:\n  File "/home/me/x.py", line 3\nValueError: <Model at 0x7f3a9c> broke\n'
    (row,) = csv.DictReader(io.StringIO(records_csv([record(message=message)])))
    assert row["message"] == "ValueError: <Model at 0x> broke"


def test_the_quality_of_a_pair_stands_beside_it() -> None:
    measured, other = record(), record(example=2, adversarial=("a film",))
    qualities = {pair_key(measured): Quality(3, 1, 0.9, 100.0, 250.5)}
    first, second = csv.DictReader(io.StringIO(records_csv([measured, other], qualities)))
    assert [first[name] for name in COLUMNS[-5:]] == [
        "3",
        "1",
        "0.900000",
        "100.000000",
        "250.500000",
    ]
    assert [second[name] for name in COLUMNS[-5:]] == [""] * 5


def test_parquet_holds_what_the_csv_holds(tmp_path: Path) -> None:
    folder = evaluated(tmp_path)
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    table = parquet.read_table(folder / "results.parquet").to_pylist()
    assert tuple(table[0]) == COLUMNS
    assert len(table) == len(rows) == 30
    for held, told in zip(table, rows, strict=True):
        assert held["original"] == json.loads(told["original"])
        assert held["adversarial"] == (json.loads(told["adversarial"] or "null"))
        assert (str(held["queries"]), held["outcome"]) == (told["queries"], told["outcome"])
        assert isinstance(held["margin_original"], float)
        assert isinstance(held["dynamic"], bool)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_parquet_gives_every_text_back(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.parquet"
    write_parquet(path, [record(original=(text,), adversarial=None, message=text)])
    (row,) = parquet.read_table(path).to_pylist()
    # UTF-8 has no lone surrogate: it is written as an escape
    assert row["original"] == [text.encode("utf-8", "backslashreplace").decode()]
    assert row["adversarial"] is None


def test_parquet_of_no_similarity_keeps_its_type(tmp_path: Path) -> None:
    """A file without any value in a column can be joined to one that has some."""
    for name, records in (("empty", []), ("one", [record()])):
        write_parquet(tmp_path / name, records)
    schemas = [parquet.read_schema(tmp_path / name) for name in ("empty", "one")]
    assert schemas[0].equals(schemas[1])
    assert str(schemas[0].field("similarity").type) == "double"
