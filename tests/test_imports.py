"""The import graph: data flows one way, optional packages load late, modules stay small."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A module imports only from its own floor or from those above it. A new room is added here.
FLOORS = (
    {"errors", "files", "specs", "configs", "artifacts", "caching", "progress"},
    {"tasks", "gradients", "rewriting"},
    {"data"},
    {"backbones"},
    {"prefixes"},
    {
        "subspaces",
        "synonyms",
        "word_scores",
        "word_fit",
        "masks",
        "certificates",
        "objectives",
        "vocabulary",
    },
    {"characters", "spelling"},
    {
        "trainer",
        "moving_average",
        "training",
        "search",
        "lengths",
        "activations",
        "fitting",
        "detection",
    },
    {"defenses", "runs"},
    {"classifier", "certification", "ensembling"},
    {"serving", "generation"},
    {"evaluation"},
    {"zoo"},
    {"__init__"},  # the facade: `from robust_prefix import PrefixClassifier`
    {"cli"},
    {"__main__"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MAX_LINES = 400


def modules(root: Path) -> list[Path]:
    """The project's Python files, without tests and scripts."""
    return sorted(
        path for top in ("robust_prefix", "attacks") for path in (root / top).rglob("*.py")
    )


def imported(node: ast.AST, package: tuple[str, ...]) -> Iterator[str]:
    """The dotted names that one node imports; ``from a import b`` counts as ``a.b``."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = package[: len(package) - node.level + 1] if node.level else ()
        start = ".".join((*base, *([node.module] if node.module else [])))
        yield from (f"{start}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and node.args:
        name = getattr(node.func, "attr", getattr(node.func, "id", None))
        first = node.args[0]
        if name in ("import_module", "__import__") and isinstance(first, ast.Constant):
            yield str(first.value)


def imports(path: Path, root: Path) -> Iterator[tuple[str, int, bool]]:
    """Each (dotted name, line, stands at module level) that the file at ``path`` imports."""
    package = path.relative_to(root).parent.parts

    def walk(node: ast.AST, top: bool) -> Iterator[tuple[str, int, bool]]:
        for child in ast.iter_child_nodes(node):
            for name in imported(child, package):
                yield name, getattr(child, "lineno", 0), top
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, top and not inside)

    yield from walk(ast.parse(path.read_text(encoding="utf-8"), str(path)), True)


def room_of(name: str, root: Path) -> str | None:
    """``"robust_prefix.defenses.base"`` -> ``"defenses"``; None for what is not robust_prefix."""
    top, *rest = name.split(".")
    if top != "robust_prefix":
        return None
    folder = root / top
    if rest and ((folder / rest[0]).is_dir() or (folder / f"{rest[0]}.py").is_file()):
        return rest[0]
    return "__init__"


def violations(root: Path) -> list[str]:
    """Every import under ``root`` that goes against the order of the rooms, one line each."""
    found = []
    for path in modules(root):
        relative = path.relative_to(root)
        in_attacks = relative.parts[0] == "attacks"
        here = "attacks" if in_attacks else relative.with_suffix("").parts[1]
        if not in_attacks and here not in FLOOR:
            found.append(f"{relative}: {here!r} is no known room; give it a floor in FLOORS")
            continue
        for name, line, top_level in imports(path, root):
            where = f"{relative}:{line}: {here} imports {name}"
            if name.split(".")[0] == "attacks" and not in_attacks:
                if here != "cli":
                    found.append(f"{where}; only cli may")
                elif top_level:
                    found.append(f"{where} at module level; move it into the command")
                continue
            room = room_of(name, root)
            if room is None:
                continue
            if room not in FLOOR:
                found.append(f"{where}; {room!r} is no known room")
            elif in_attacks and FLOOR[room] >= FLOOR["cli"]:
                found.append(f"{where}; attacks never needs cli")
            elif not in_attacks and FLOOR[room] > FLOOR[here]:
                found.append(f"{where}, which lies below it")
    return found


def long_modules(root: Path) -> list[str]:
    """The modules of more than ``MAX_LINES`` lines, with their length."""
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in modules(root)}
    return [f"{path.relative_to(root)}: {n}" for path, n in lengths.items() if n > MAX_LINES]


def write_tree(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


def test_every_import_goes_up() -> None:
    assert len(modules(ROOT)) > 10
    assert violations(ROOT) == []


def test_modules_are_small() -> None:
    assert long_modules(ROOT) == []


# A good tree, of which each case below breaks one rule.
GOOD = {
    "robust_prefix/__init__.py": "from robust_prefix.classifier import C\n",
    "robust_prefix/errors.py": "",
    "robust_prefix/classifier.py": "from robust_prefix.defenses.base import D\nimport json\n",
    "robust_prefix/defenses/__init__.py": "from .base import D\n",
    "robust_prefix/defenses/base.py": "from ..errors import E\n",
    "robust_prefix/evaluation/protocols.py": "from robust_prefix import errors\n",
    "robust_prefix/cli/__init__.py": "def main():\n    from attacks.recipes import pwws\n",
    "attacks/recipes.py": "from robust_prefix.evaluation.protocols import Attack\nimport attacks\n",
}


def test_a_good_tree_passes(tmp_path: Path) -> None:
    write_tree(tmp_path, GOOD)
    assert violations(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        pytest.param(
            "robust_prefix/errors.py",
            "import robust_prefix.classifier",
            "errors imports robust_prefix.classifier, which lies below it",
            id="downwards",
        ),
        pytest.param(
            "robust_prefix/defenses/base.py",
            "def f():\n    from ..classifier import C",
            "defenses imports robust_prefix.classifier.C, which lies below it",
            id="downwards-relative-inside-a-function",
        ),
        pytest.param(
            "robust_prefix/defenses/__init__.py",
            "from .. import classifier",
            "defenses imports robust_prefix.classifier, which lies below it",
            id="downwards-relative-from-a-package",
        ),
        pytest.param(
            "robust_prefix/classifier.py",
            "from robust_prefix import C",
            "classifier imports robust_prefix.C, which lies below it",
            id="facade-from-within",
        ),
        pytest.param(
            "robust_prefix/evaluation/protocols.py",
            "def f():\n    import attacks.recipes",
            "evaluation imports attacks.recipes; only cli may",
            id="evaluation-imports-attacks",
        ),
        pytest.param(
            "robust_prefix/evaluation/protocols.py",
            "import importlib\nimportlib.import_module('attacks')",
            "evaluation imports attacks; only cli may",
            id="attacks-by-import_module",
        ),
        pytest.param(
            "robust_prefix/cli/__init__.py",
            "if True:\n    import attacks",
            "cli imports attacks at module level",
            id="cli-imports-attacks-early",
        ),
        pytest.param(
            "attacks/recipes.py",
            "from robust_prefix import cli",
            "attacks imports robust_prefix.cli; attacks never needs cli",
            id="attacks-imports-cli",
        ),
        pytest.param(
            "robust_prefix/attic.py", "", "'attic' is no known room", id="room-without-a-floor"
        ),
    ],
)
def test_a_bad_import_is_found(tmp_path: Path, name: str, text: str, message: str) -> None:
    write_tree(tmp_path, GOOD | {name: text})
    found = violations(tmp_path)
    assert len(found) == 1
    assert message in found[0]


def test_a_long_module_is_found(tmp_path: Path) -> None:
    lines = "x = 1\n" * MAX_LINES
    write_tree(tmp_path, {"attacks/fits.py": lines, "robust_prefix/long.py": lines + "y = 2\n"})
    assert long_modules(tmp_path) == [f"robust_prefix/long.py: {MAX_LINES + 1}"]


# Prints which of the watched packages were loaded at all, and which our own modules asked for:
# after the bare import, and once every public name has been used.
PROBE = """
import builtins, json, sys
watched = set(sys.argv[2:])
asked = set()
original = builtins.__import__

def watch(name, globals=None, locals=None, fromlist=(), level=0):
    importer = str((globals or {}).get("__name__"))
    package = name.partition(".")[0]
    if package in watched and level == 0 and importer.startswith("robust_prefix"):
        asked.add(f"{importer} -> {package}")
    return original(name, globals, locals, fromlist, level)

def state():
    return {"loaded": sorted(watched & set(sys.modules)), "asked": sorted(asked)}

builtins.__import__ = watch
module = __import__(sys.argv[1])
bare = state()
names = [name for name in getattr(module, "__all__", []) if getattr(module, name) is not None]
print(json.dumps({"file": module.__file__, "names": names, "bare": bare, "used": state()}))
"""


def probe(module: str, root: Path, *watched: str) -> dict[str, Any]:
    """What a fresh Python says about importing ``module`` with ``root`` first on its path."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, module, *watched],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_import_robust_prefix_is_light() -> None:
    never = ["textattack", "attacks", "matplotlib", "statsmodels", "flair", "nltk"]
    # transformers and datasets load these two by themselves; our own modules must not ask for them.
    not_ours = ["jinja2", "pandas"]
    found = probe("robust_prefix", ROOT, *never, *not_ours, "torch", "transformers")
    assert found["file"] == str(ROOT / "robust_prefix" / "__init__.py")
    assert found["bare"] == {"loaded": [], "asked": []}

    assert "PrefixClassifier" in found["names"]
    assert [name for name in found["used"]["loaded"] if name in never] == []
    ours = {line.split(" -> ")[1] for line in found["used"]["asked"]}
    assert ours <= {"torch", "transformers"}


def test_a_heavy_import_is_found(tmp_path: Path) -> None:
    report = "def late():\n    import colorsys\nimport heavy\n"
    facade = "__all__ = ['late']\ndef __getattr__(name):\n    import robust_prefix.report\n"
    write_tree(
        tmp_path,
        {
            "heavy.py": "",
            "robust_prefix/__init__.py": facade,
            "robust_prefix/report.py": report,
        },
    )
    found = probe("robust_prefix", tmp_path, "heavy", "colorsys")
    assert found["bare"] == {"loaded": [], "asked": []}
    assert found["used"] == {"loaded": ["heavy"], "asked": ["robust_prefix.report -> heavy"]}
