"""Where results go by default, and what stands on stdin and stdout."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from robust_prefix.cli.output import print_json, results_folder
from robust_prefix.cli.stdin import read_lines


def test_names_are_kept_as_far_as_a_file_may_be_called_so(tmp_path: Path) -> None:
    assert results_folder("sst2-pwws-none-worst-5-seed0") == Path("results") / (
        "sst2-pwws-none-worst-5-seed0"
    )
    assert results_folder("a(b=1, c=2)+d") == Path("results") / "a-b=1-c=2-d"
    long = [results_folder(f"{'x' * 300}(seed={seed})") for seed in (0, 1)]
    assert long[0] != long[1]
    for each in (*long, results_folder("ä" * 300)):
        os.makedirs(tmp_path / each)


def test_what_stdout_cannot_write_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    escaped, plain = b'"\\u201cgood\\u201d"\n', '"\u201cgood\u201d"\n'.encode()
    for encoding, written in (("latin-1", escaped), ("UTF-8", plain)):
        out = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding=encoding))
        print_json("\u201cgood\u201d")
        assert out.getvalue() == written


def test_a_byte_order_mark_is_no_part_of_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbffine\nfilm\n")))
    assert read_lines() == ["fine", "film"]
