"""The README says what the program says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme_script", ROOT / "scripts" / "readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_help_in_the_readme_is_the_programs(script: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == script.replaced(readme, "help", script.help_text()), (
        "run: python scripts/readme.py"
    )
    assert "robust-prefix fit-subspaces" in script.help_text()


def test_the_readme_shows_a_measured_table() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = re.search(r"<!-- demo-table:start -->(.*?)<!-- demo-table:end -->", readme, re.DOTALL)
    assert table is not None
    for word in ("undefended", "robust-prefix", "random-prefix", "worst"):
        assert word in table[1]


def test_a_lost_marker_is_noticed(script: ModuleType) -> None:
    with pytest.raises(ValueError, match="got it 0 times"):
        script.replaced("no markers", "help", "text")
