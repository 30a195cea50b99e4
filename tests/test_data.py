"""Files become rows: every text as it was written, every mistake by its place."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from robust_prefix.data import (
    length_batches,
    load_file,
    load_split,
    rows_as_fields,
)
from robust_prefix.errors import ConfigError, InputError, ResourceError
from robust_prefix.tasks import TASKS, Task

SST2, SNLI = TASKS["sst2"], TASKS["snli"]

Rows = list[dict[str, Any]]


def write_csv(path: Path, rows: Rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_jsonl(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_parquet(path: Path, rows: Rows) -> None:
    parquet.write_table(pa.Table.from_pylist(rows), path)


FORMATS: dict[str, Callable[[Path, Rows], None]] = {
    "csv": write_csv,
    "jsonl": write_jsonl,
    "parquet": write_parquet,
}
# A reader that guesses would make a number, a date, a truth value or nothing of these.
KEPT = [
    "NA",
    "null",
    "007",
    "nan",
    "None",
    "1e5",
    "True",
    "2019-01-01",
    "#N/A",
    'a "quoted", comma\nand a second line',
    "😀 שלום",
    " spaces around ",
    "\ufeffnot at the start",
    "carriage\rreturn and\u2028separator",
    "word " * 50_000 + "end",
]


@pytest.mark.parametrize("suffix", FORMATS)
def test_texts_survive_unchanged(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"data.{suffix}"
    FORMATS[suffix](path, [{"text": text, "label": 1} for text in KEPT])
    rows = load_file(SST2, path)
    assert rows["text"][:] == KEPT
    assert rows["label"][:] == [1] * len(KEPT)
    assert rows_as_fields(SST2, rows) == [(text,) for text in KEPT]


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
        min_size=1,
        max_size=5,
    ).filter(lambda texts: all(text.strip() for text in texts))
)
@settings(max_examples=30, deadline=None)
def test_any_text_survives_any_format(texts: list[str]) -> None:
    with TemporaryDirectory() as folder:
        for suffix, write in FORMATS.items():
            path = Path(folder) / f"data.{suffix}"
            write(path, [{"text": text, "label": 0} for text in texts])
            assert load_file(SST2, path)["text"][:] == texts


@pytest.mark.parametrize("suffix", FORMATS)
def test_pairs_with_other_columns_around_them(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"data.{suffix}"
    row = {"id": 5, "hypothesis": "a man sleeps", "label": 2, "premise": "a man runs"}
    FORMATS[suffix](path, [row])
    rows = load_file(SNLI, path)
    assert rows.column_names == ["premise", "hypothesis", "label"]
    assert rows_as_fields(SNLI, rows) == [("a man runs", "a man sleeps")]
    assert rows["label"][:] == [2]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_labels_may_be_numbers_and_names(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"data.{suffix}"
    labels = [0, "negative", "1", "positive"]
    FORMATS[suffix](path, [{"text": "a", "label": label} for label in labels])
    assert load_file(SST2, path)["label"][:] == [0, 0, 1, 1]


def test_parquet_labels_may_be_names(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [{"text": "a", "label": "positive"}])
    assert load_file(SST2, tmp_path / "a.parquet")["label"][:] == [1]


def test_a_csv_from_a_spreadsheet_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbftext,label\r\ngood,1\r\n\r\nbad,0\r\n")
    assert load_file(SST2, path)["text"][:] == ["good", "bad"]


@pytest.mark.parametrize(
    ("name", "content", "messages"),
    [
        ("a.csv", "sentence,target\na,1\n", ["['text', 'label']", "got ['sentence', 'target']"]),
        ("a.csv", "text,target\na,1\n", ["['text', 'label']", "got ['text', 'target']"]),
        ("a.jsonl", '{"sentence": "a"}\n', ["['text', 'label']", "got ['sentence']"]),
        ("a.csv", "text,label\na,1\nb,2\n", ["a label of sst2", "in row 1, got 2"]),
        ("a.csv", "text,label\na,neutral\n", ["negative, positive", "got 'neutral'"]),
        ("a.jsonl", '{"text": "a", "label": 2}\n', ["in row 0, got 2"]),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}\n', ["in row 1, got None"]),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"label": 1}\n', ["in row 1, got ['label']"]),
        ("a.csv", "text,label\na,1\n,1\n", ["in text of row 1, got an empty text"]),
        ("a.csv", "text,label\n  ,1\n", ["in text of row 0, got only spaces"]),
        ("a.csv", "text,label\na\0b,1\n", ["row 0", "a NUL byte at character 1"]),
        ("a.jsonl", '{"text": "\\u0000", "label": 1}\n', ["a NUL byte at character 0"]),
        ("a.jsonl", '{"text": "\\ud800", "label": 1}\n', ["half a surrogate pair"]),
        ("a.jsonl", '{"text": 7, "label": 1}\n', ["text of row 0 to be a string, got 7"]),
        ("a.csv", "text,label\nso, so,1\n", ["3 instead of 2 cells at line 2", "quotes"]),
        ("a.csv", "text,label\na,1\nb\n", ["1 instead of 2 cells at line 3"]),
        ("a.csv", 'text,label\n"a,1\n', ["a readable csv file", "unexpected end"]),
        ("a.csv", "text,text,label\na,b,1\n", ["a column twice"]),
        ("a.csv", b"text,label\ncaf\xe9,1\n", ["can't decode byte 0xe9"]),
        ("a.csv", "", ["at least one row", "got none"]),
        ("a.csv", "text,label\n", ["at least one row", "got none"]),
        ("a.jsonl", "", ["at least one row", "got none"]),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text"\n', ["a readable jsonl", "at line 2"]),
        ("a.jsonl", '["a", 1]\n', ["no JSON object at line 1"]),
        ("a.parquet", "PAR1", ["a readable parquet file", "Parquet"]),
        ("a.txt", "a", ["expected a .csv, .jsonl or .parquet file"]),
    ],
    ids=lambda value: ascii(value)[:40] if not isinstance(value, list) else "",
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, name: str, content: str | bytes, messages: list[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError) as caught:
        load_file(SST2, path)
    for message in [*messages, str(path)]:
        assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_parquet_without_the_column(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [{"sentence": "a", "label": 1}])
    with pytest.raises(InputError, match=r"got \['sentence', 'label'\]"):
        load_file(SST2, tmp_path / "a.parquet")


def own_task(data_dir: Path | None, **splits: str) -> Task:
    return Task(
        name="own",
        columns=("review",),
        labels=("bad", "good"),
        label_words=(" no", " yes"),
        template="{review} is it good ?",
        label_column="stars",
        splits=splits,
        data_dir=data_dir,
    )


def test_splits_are_relative_to_the_data_folder_or_absolute(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_jsonl(tmp_path / "in" / "train.jsonl", [{"review": "a", "stars": "good"}])
    write_parquet(tmp_path / "dev.parquet", [{"review": "b", "stars": 0}])
    task = own_task(tmp_path, train="in/train.jsonl", dev=str(tmp_path / "dev.parquet"))
    assert load_split(task, "train").to_dict() == {"review": ["a"], "label": [1]}
    assert load_split(task, "dev").to_dict() == {"review": ["b"], "label": [0]}


def test_rows_of_several_files_follow_each_other(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_jsonl(tmp_path / "in" / "train.jsonl", [{"review": "a", "stars": "good"}])
    write_parquet(tmp_path / "more.parquet", [{"review": "b", "stars": 0, "why": "c"}])
    task = own_task(tmp_path, train="in/train.jsonl", dev="in/train.jsonl")
    assert task.with_more([]) == task
    both = task.with_more([tmp_path / "more.parquet"])
    assert both.sources("train") == ("in/train.jsonl", str(tmp_path / "more.parquet"))
    assert load_split(both, "train").to_dict() == {"review": ["a", "b"], "label": [1, 0]}
    assert load_split(both, "dev").to_dict() == {"review": ["a"], "label": [1]}
    # to where the files are, wherever it is read from later
    again = Task.from_dict({**both.to_dict(), "splits": both.splits}, tmp_path)
    assert again == both
    write_jsonl(tmp_path / "more.jsonl", [{"review": "d", "stars": 2}])
    with pytest.raises(InputError, match=r"in row 0, got 2 \(.*more\.jsonl\)"):
        load_split(task.with_more([tmp_path / "more.jsonl"]), "train")


def test_a_split_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected one of train splits in task 'own', got 'test'"):
        load_split(own_task(tmp_path, train="a.csv"), "test")
    with pytest.raises(ConfigError, match="expected one of no splits"):
        load_split(own_task(tmp_path), "train")
    advice = "give --data-dir or set ROBUST_PREFIX_DATA"
    with pytest.raises(ResourceError, match=f"a data folder with a.csv.*got none; {advice}"):
        load_split(own_task(None, train="a.csv"), "train")
    missing = f"data for task 'own' at {tmp_path / 'a.csv'}, got no file there; {advice}"
    with pytest.raises(ResourceError, match=missing):
        load_split(own_task(tmp_path, train="a.csv"), "train")


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 9))
def test_batches_hold_each_text_once_the_longest_first(lengths: list[int], size: int) -> None:
    batches = length_batches(lengths, size)
    flat = [index for batch in batches for index in batch]
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[index] for index in flat] == sorted(lengths, reverse=True)
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(1 <= len(batch) <= size for batch in batches)
