"""A failed write leaves the old file, or none, and nothing beside it."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robust_prefix.errors import ArtifactError, ConfigError, StorageError
from robust_prefix.files import atomic_path, check_same, read_json, write_json, write_text

FAILURES = {
    "error": ValueError("broken"),
    "ctrl-c": KeyboardInterrupt(),
    "exit": SystemExit(1),
    "disk-full": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
}


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """The system refuses to let any file of this process grow beyond ``size`` bytes."""
    resource = pytest.importorskip("resource", reason="limits of POSIX systems")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_text_and_json_are_written_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.json"
    write_json(path, {"b": "é😀", "a": [1, None]})
    assert list(read_json(path).items()) == [("b", "é😀"), ("a", [1, None])]
    assert "é😀" in path.read_text(encoding="utf-8")
    write_text(path, "[]")
    assert contents(tmp_path) == {"new/folder/a.json": b"[]"}


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_others_may_read_what_was_written(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "x")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


def _fail_after_writing(destination: Path, content: bytes, failure: BaseException) -> None:
    with atomic_path(destination) as temporary:
        temporary.write_bytes(content)
        raise failure


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
@given(old=st.none() | st.binary(max_size=20), written=st.binary(max_size=20))
@settings(max_examples=20, deadline=None)
def test_a_failure_changes_nothing(
    failure: BaseException, old: bytes | None, written: bytes
) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        destination = folder / "file"
        if old is not None:
            destination.write_bytes(old)
        before = contents(folder)
        expected = StorageError if isinstance(failure, OSError) else type(failure)
        with pytest.raises(expected):
            _fail_after_writing(destination, written, failure)
        assert contents(folder) == before


@pytest.mark.parametrize("old", [None, "old"], ids=["new", "replace"])
def test_a_file_that_grows_too_large_changes_nothing(tmp_path: Path, old: str | None) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_text(old)
    before = contents(tmp_path)
    with file_size_limit(1000), pytest.raises(StorageError, match="File too large") as caught:
        write_text(path, "x" * 100_000)
    assert str(path) in str(caught.value)
    assert contents(tmp_path) == before
    write_text(path, "x" * 100_000)
    assert path.stat().st_size == 100_000


def test_a_full_disk_at_the_last_step_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="got 'No space left on device'; free some space"):
        write_text(path, "new")
    assert contents(tmp_path) == {"file": b"old"}


def test_a_destination_that_cannot_be_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    for path in (tmp_path / "file" / "below", tmp_path / "folder"):
        with pytest.raises(StorageError) as caught:
            write_text(path, "new")
        assert str(path) in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "got nothing there"),
        (b"", "Expecting value"),
        (b'{"a": ', "Expecting value"),
        (b'"\xff"', "can't decode byte 0xff"),
    ],
    ids=["missing", "empty", "cut", "latin-1"],
)
def test_what_is_not_json_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=message) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


def test_results_of_something_else_are_not_replaced(tmp_path: Path) -> None:
    path, about = tmp_path / "a.json", {"prefix": "ab", "n": 3, "rates": [0.5]}
    check_same(path, about)  # nothing there yet
    write_json(path, {**about, "found": 1})
    check_same(path, about)
    for key, value in (("prefix", "cd"), ("n", 4), ("rates", []), ("more", 1)):
        with pytest.raises(ConfigError, match=f"expected {key} .* choose another folder"):
            check_same(path, {**about, key: value})
    assert read_json(path)["found"] == 1


def test_json_of_other_tools_is_read(tmp_path: Path) -> None:
    value = {"a": 1.5, "b": ["é"]}
    (tmp_path / "a.json").write_text(json.dumps(value))
    assert read_json(tmp_path / "a.json") == value
