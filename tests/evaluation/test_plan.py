"""The matrix in TOML: its cells in order, and every way to get it wrong in one clear line."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from robust_prefix.errors import ArtifactError, ConfigError, ResourceError, unknown_name
from robust_prefix.evaluation.plan import CellPlan, Plan
from robust_prefix.prefixes import Prefix
from robust_prefix.runs import Run
from robust_prefix.tasks import Task

RUN = 'runs = ["{folder}/run"]\n'
PWWS = 'attacks = ["pwws"]\n'


@pytest.fixture
def folder(tmp_path: Path, task: Task, prefix: Prefix) -> Path:
    """Two runs without subspaces, the second with another prefix."""
    Run(task, prefix, defense="random-prefix(rms=0.5)").save(tmp_path / "run")
    other = dataclasses.replace(prefix, tensor=prefix.tensor + 1)
    Run(task, other).save(tmp_path / "other")
    return tmp_path


def canonical(spec: str) -> str:
    """As ``attacks.canonical_spec``: one setting, two attacks."""
    name = spec.partition("(")[0]
    if name not in ("pwws", "pruthi"):
        raise unknown_name("attack", name, ["pwws", "pruthi"])
    return spec if "(" in spec else f"{spec}(limit=9)"


def cells(folder: Path, text: str) -> list[CellPlan]:
    path = folder / "bench.toml"
    path.write_text(text.replace("{folder}", str(folder)))
    return Plan.read(path).cells(canonical)


def test_cells_come_run_by_run_attack_by_attack_seed_by_seed(folder: Path) -> None:
    text = """
        runs = ["{folder}/run", "{folder}/other"]
        attacks = ["pruthi", "pwws(limit=3)"]
        defenses = ["default", "none", "random-prefix(rms=0.5, layers=2)", "random-prefix(rms=1)"]
        protocols = ["direct", "replay"]
        seeds = [4, 2]
        num_examples = 7
        control_seeds = 3
    """
    found = cells(folder, text)
    assert [(Path(c.run).name, c.attack, c.seed) for c in found] == [
        (run, attack, seed)
        for run in ("run", "other")
        for attack in ("pruthi", "pwws(limit=3)")
        for seed in (4, 2)
    ]
    # canonical, each once, in the order they were named; "none" is in every cell anyhow
    first, last = found[0], found[-1]
    assert first.defenses == (
        "random-prefix(rms=0.5, layers=2, seed=0)",
        "random-prefix(rms=1.0, layers=2, seed=0)",
    )
    assert last.defenses == first.defenses  # this run's own defence is none
    assert {c.protocols for c in found} == {("replay", "direct")}
    assert {(c.num_examples, c.control_seeds, c.model) for c in found} == {(7, 3, "tiny-llama")}
    assert first.name.endswith(" pruthi(limit=9) seed=4")
    assert len({c.name for c in found}) == 8


def test_what_may_be_left_out(folder: Path) -> None:
    (cell,) = cells(folder, RUN + PWWS)
    assert cell.defenses == ("random-prefix(rms=0.5, layers=2, seed=0)",)
    assert (cell.protocols, cell.seed) == (("replay", "direct", "adaptive"), 0)
    assert (cell.num_examples, cell.control_seeds) == (100, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RUN + 'atacks = ["pwws"]', r"got 'atacks'; did you mean 'attacks'\? \(in .*bench.toml\)"),
        (RUN + PWWS + "[seed]\na = 1", "got 'seed'; did you mean 'seeds'"),
        (RUN, r"expected attacks = \[...\] in .*, got \['runs'\]"),
        ("", r"expected runs = \[...\] in .*, got \[\]"),
        ("runs = []\n" + PWWS, r"expected a valid runs for a matrix, got \[\]"),
        (RUN + 'attacks = "pwws"', "got 'pwws': Input should be a valid list"),
        (RUN + "attacks = [3]", r"expected a valid attacks.0 for a matrix, got 3"),
        (RUN + PWWS + "seeds = [-1]", r"expected a valid seeds.0 for a matrix, got -1"),
        (RUN + PWWS + "seeds = [true]", r"expected a valid seeds.0 for a matrix, got True"),
        (RUN + PWWS + "seeds = []", "expected a valid seeds"),
        (RUN + PWWS + "num_examples = 0", "expected a valid num_examples .* got 0"),
        (RUN + PWWS + 'num_examples = "5"', "expected a valid num_examples .* got '5'"),
        (RUN + PWWS + "control_seeds = -1", "expected a valid control_seeds .* got -1"),
        (
            RUN + PWWS + 'protocols = ["both"]',
            "got 'both': .* 'replay', 'direct', 'adaptive' or 'worst'",
        ),
        ("runs = ", "expected TOML in .*bench.toml, got"),
        ("runs = ['a']\nruns = ['b']", "expected TOML in"),
        (RUN + 'attacks = ["pwss"]', "got 'pwss'; did you mean 'pwws'"),
        (RUN + 'attacks = ["pwws", "pwws(limit=9)"]', "expected each cell once.* 2 times"),
        (RUN + PWWS + "seeds = [1, 1]", "expected each cell once"),
        ('runs = ["{folder}/run", "{folder}/other/../run"]\n' + PWWS, "expected each cell once"),
        (RUN + PWWS + 'defenses = ["projecton"]', "did you mean 'projection'"),
        (RUN + PWWS + 'defenses = ["random-prefix(rm=1)"]', "did you mean 'rms'"),
    ],
    ids=lambda value: value.removeprefix(RUN).removeprefix(PWWS)[:30].replace("\n", ""),
)
def test_a_matrix_that_is_none(folder: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        cells(folder, text)
    assert len(str(caught.value).splitlines()) == 1


def test_a_matrix_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"expected a matrix in TOML at .*none.toml"):
        Plan.read(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('runs = ["{folder}/gone"]\n' + PWWS, "expected a run directory"),
        (RUN + PWWS + 'defenses = ["projection"]', "run robust-prefix fit-subspaces"),
    ],
    ids=["no run", "no subspaces"],
)
def test_a_run_that_does_not_serve(folder: Path, text: str, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        cells(folder, text)
