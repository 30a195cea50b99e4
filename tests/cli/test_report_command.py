"""``robust-prefix report``: what is there already, shown again or beside another run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from robust_prefix.evaluation import Manifest, Record, RecordStore
from robust_prefix.evaluation.bench import DATABASE

from ..test_files import contents
from .conftest import Cli

PREFIX = "c0ffee"


def manifest(attack: str, n: int, prefix: str) -> Manifest:
    return Manifest(
        task="reviews",
        columns=("text",),
        labels=("negative", "positive"),
        model="tiny",
        prefix=prefix,
        attack=attack,
        seed=0,
        n=n,
        test_fingerprint="f00d",
        protocols=("direct",),
    )


def attacked(folder: Path, outcomes: str, *attacks: str, prefix: str = PREFIX) -> Path:
    """A folder with the undefended model attacked; a letter an example: h(eld) or f(ooled)."""
    cells = [manifest(attack, len(outcomes), prefix) for attack in attacks or ("swap",)]
    with RecordStore(folder / DATABASE, cells) as store:
        for cell in cells:
            for example, letter in enumerate(outcomes):
                fooled = letter == "f"
                store.add(
                    Record(
                        **cell.key("none", "direct", example)._asdict(),
                        role="undefended",
                        dynamic=False,
                        label=1,
                        original=(f"a fine film {example}",),
                        adversarial=(f"a f\u0456ne film {example}",) if fooled else None,
                        prediction_original=1,
                        prediction_adversarial=0 if fooled else None,
                        margin_original=1.0,
                        margin_adversarial=-1.0 if fooled else None,
                        queries=3,
                        model_queries=4,
                        forward_passes=4.0,
                        backward_passes=0.0,
                        seconds=0.1,
                        outcome="succeeded" if fooled else "failed",
                        prediction_forward_passes=1.0,
                        prediction_backward_passes=0.0,
                    )
                )
    return folder


def test_one_cell_with_examples(cli: Cli, tmp_path: Path) -> None:
    result = cli("report", attacked(tmp_path / "a", "hfff"), "--examples", 2)
    assert result.exit_code == 0, result.stderr
    assert "undefended" in result.stdout
    assert result.stdout.count("succeeded") == 2
    assert "a f\u0456ne film 1" in result.stdout
    assert result.stderr.splitlines() == [f"report: {tmp_path / 'a' / 'report.html'}"]


def test_several_cells(cli: Cli, tmp_path: Path) -> None:
    folder = attacked(tmp_path / "a", "hfff", "swap", "pwws")
    with RecordStore(folder / DATABASE) as store:
        store.put("missing", "reviews tiny bae", "expected BERT, got none; run: pip install it")
    shown = cli("report", folder)
    assert shown.exit_code == 0, shown.stderr
    assert "run: pip install it" in shown.stdout
    result = cli("report", folder, "--json")
    (line,) = result.stdout.splitlines()
    told = json.loads(line)
    assert [run["attack"] for run in told["runs"]] == ["swap", "pwws"]
    assert [run["robust_accuracy"] for run in told["runs"]] == [0.25, 0.25]
    assert list(told["missing"]) == ["reviews tiny bae"]


def test_two_runs_are_compared(cli: Cli, tmp_path: Path) -> None:
    first = attacked(tmp_path / "a", "hffh")
    second = attacked(tmp_path / "b", "hhhf", prefix="beef")
    before = contents(first), contents(second)
    result = cli("report", first, "--against", second, "--out", tmp_path / "c", "--json")
    assert result.exit_code == 0, result.stderr
    (line,) = result.stdout.splitlines()
    (row,) = json.loads(line)["rows"]
    assert (row["first"], row["second"], row["difference"]) == (0.5, 0.75, 0.25)
    assert (row["only_first_held"], row["only_second_held"], row["p_value"]) == (1, 2, 1.0)
    assert set(contents(tmp_path / "c")) == {"comparison.json", "comparison.md"}
    assert (contents(first), contents(second)) == before
    table = cli("report", first, "--against", second)
    assert "+25.0" in table.stdout
    assert (first / "comparison.md").is_file()
    wrong = cli("report", first, "--against", second, "--examples", 3)
    assert (wrong.exit_code, "--examples or --against, got both" in wrong.stderr) == (2, True)


@pytest.mark.parametrize(
    ("other", "line"),
    [
        pytest.param(
            "other-attack", "two evaluations that share task, attack", id="nothing-shared"
        ),
        pytest.param("nowhere", "a run's database at", id="no-such-folder"),
    ],
)
def test_what_cannot_be_compared(
    refused: Callable[..., str], tmp_path: Path, other: str, line: str
) -> None:
    attacked(tmp_path / "other-attack", "hf", "pwws")
    first = attacked(tmp_path / "a", "hf")
    before = contents(first)
    assert line in refused("report", first, "--against", tmp_path / other)
    assert contents(first) == before
