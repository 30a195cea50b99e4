"""Reading a task's data and putting texts of like length into one batch."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robust_prefix.errors import ConfigError, InputError, ResourceError
from robust_prefix.tasks import Fields, Task

if TYPE_CHECKING:
    from datasets import Dataset

Row = dict[str, Any]
"""One row of a file, by column."""


def load_split(task: Task, split: str) -> Dataset:
    """One split of a task's data: the task's text columns and ``label`` as a class number.

    Raises:
        ConfigError: the task has no such split.
        ResourceError: the file is not there.
        InputError: a column is missing, a text is empty or a label is not the task's.
    """
    if split not in task.splits:
        raise ConfigError(
            f"expected one of {'/'.join(task.splits) or 'no'} splits in task {task.name!r}, "
            f"got {split!r}; add it under [splits] in the task's TOML file"
        )
    parts = [_load_source(task, source) for source in task.sources(split)]
    if not parts:
        raise ConfigError(
            f"expected a file for {split} of task {task.name!r}, got an empty list; name one under "
            "[splits] in the task's TOML file, or leave that split out"
        )
    if len(parts) == 1:
        return parts[0]
    from datasets import concatenate_datasets

    return concatenate_datasets(parts)


def _load_source(task: Task, source: str) -> Dataset:
    if source.startswith("hub:"):
        return _checked(task, _read_hub(source), source)
    path = Path(source)
    if not path.is_absolute():
        if task.data_dir is None:
            raise ResourceError(
                f"expected a data folder with {source} for task {task.name!r}, got none; "
                "give --data-dir or set ROBUST_PREFIX_DATA"
            )
        path = task.data_dir / path
    return load_file(task, path)


def load_file(task: Task, path: str | Path) -> Dataset:
    """A CSV (with header), JSONL or Parquet file in the task's columns, checked row by row.

    Raises:
        ResourceError: there is no such file.
        InputError: it has another format, lacks a column, or has a text or label that does not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise ResourceError(
            f"expected data for task {task.name!r} at {path}, got no file there; "
            "give --data-dir or set ROBUST_PREFIX_DATA"
        )
    return _checked(task, read_rows(path), str(path))


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV (with header), JSONL or Parquet file as they are.

    Raises:
        InputError: it has another format or cannot be read.
    """
    if path.suffix not in _READERS:
        raise InputError(f"expected a .csv, .jsonl or .parquet file, got {path}")
    try:
        return _READERS[path.suffix](path)
    except (OSError, csv.Error, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"expected a readable {path.suffix[1:]} file at {path}, got {reason}"
        ) from None


def _read_csv(path: Path) -> list[Row]:
    """Rows of strings: guessing types would turn "007" into 7 and "NA" into nothing."""
    csv.field_size_limit(2**31 - 1)  # the default, 128 KiB, is less than a long text
    with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets write a BOM
        reader = csv.reader(file, strict=True)
        header = next(reader, [])
        if len(set(header)) != len(header):
            raise ValueError(f"a column twice in {header}")
        rows = []
        for cells in reader:
            if cells and len(cells) != len(header):
                raise ValueError(
                    f"{len(cells)} instead of {len(header)} cells at line {reader.line_num}; "
                    "put quotes around a text with commas"
                )
            if cells:
                rows.append(dict(zip(header, cells, strict=True)))
    return rows


def _read_jsonl(path: Path) -> list[Row]:
    rows = []
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{error.msg!r} at line {number}") from None
            if not isinstance(row, dict):
                raise ValueError(f"no JSON object at line {number}")
            rows.append(row)
    return rows


def _read_parquet(path: Path) -> list[Row]:
    from pyarrow import parquet

    rows: list[Row] = parquet.read_table(path).to_pylist()
    return rows


_READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".json": _read_jsonl,
    ".parquet": _read_parquet,
}


def _read_hub(source: str) -> list[Row]:
    from datasets import load_dataset

    name, _, split = source.removeprefix("hub:").partition(":")
    try:
        rows: list[Row] = load_dataset(name, split=split or "train").to_list()
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ResourceError(f"expected the Hub data set {name!r}, got {reason}") from None
    return rows


def _checked(task: Task, rows: Sequence[Row], source: str) -> Dataset:
    from datasets import Dataset

    if len(rows) == 0:
        raise InputError(f"expected at least one row in {source}, got none")
    present = list(dict.fromkeys(name for row in rows for name in row))
    needed = [*task.columns, task.label_column]
    if any(column not in present for column in needed):
        raise InputError(
            f"expected the columns {needed} in {source}, got {present}; "
            f"rename the columns or give the task another label_column"
        )
    columns: dict[str, list[Any]] = {name: [] for name in (*task.columns, "label")}
    for position, row in enumerate(rows):
        try:
            fields = task.fields(row, f"row {position}")
            label = task.label(row.get(task.label_column), position)
        except InputError as error:
            raise InputError(f"{error} ({source})") from None
        for column, value in zip(task.columns, fields, strict=True):
            columns[column].append(value)
        columns["label"].append(label)
    return Dataset.from_dict(columns)


def rows_as_fields(task: Task, rows: Dataset) -> list[Fields]:
    """The texts of a split as ``Fields``, in order."""
    return list(zip(*(rows[column] for column in task.columns), strict=True))


def length_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in batches of like length, the longest first, so that little is padded.

    Longest first makes the largest batch the first one, where a lack of memory shows at once.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def token_batches(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Indices in batches of like length, the longest first, of at most so many tokens each.

    Padding counts. A row that is longer than ``tokens`` is a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[list[int]] = []
    room = 0
    for index in order:
        if room == 0:
            batches.append([])
            room = max(1, tokens // max(1, lengths[index]))
        batches[-1].append(index)
        room -= 1
    return batches


def fingerprint_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """A hash of a split's texts and labels, in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()[:16]
