"""Where results go by default."""

from __future__ import annotations

import os
from pathlib import Path

from robust_prefix.cli.output import results_folder


def test_names_are_kept_as_far_as_a_file_may_be_called_so(tmp_path: Path) -> None:
    assert results_folder("sst2-pwws-none-worst-5-seed0") == Path("results") / (
        "sst2-pwws-none-worst-5-seed0"
    )
    assert results_folder("a(b=1, c=2)+d") == Path("results") / "a-b=1-c=2-d"
    long = [results_folder(f"{'x' * 300}(seed={seed})") for seed in (0, 1)]
    assert long[0] != long[1]
    for each in (*long, results_folder("ä" * 300)):
        os.makedirs(tmp_path / each)
