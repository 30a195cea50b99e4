"""Doubts that records raise, about one row or about one attack beside another."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from evaluation_fakes import CONTROL, DEFENSE, manifest, record

from robust_prefix.evaluation import Record, Results, summarize
from robust_prefix.evaluation.matrix_flags import MatrixFlag, matrix_flags
from robust_prefix.evaluation.meanings import MEANINGS, meaning

N = 20
OUTCOMES = {"h": "failed", "f": "succeeded", "w": "skipped", "e": "error"}


def rows(outcomes: str, defense: str = "none", protocol: str = "direct", **changes: Any) -> list:
    """One record for each letter: h(eld), f(ooled), w(rong before), e(rror)."""
    role = {"none": "undefended", CONTROL: "control"}.get(defense, "defense")
    return [
        record(
            example=example,
            defense=defense,
            role=role,
            protocol=protocol,
            outcome=OUTCOMES[letter],
            prediction_original=0 if letter == "w" else 1,
            adversarial=("a okay film",) if letter == "f" else None,
            **({"queries": 50} | changes),
        )
        for example, letter in enumerate(outcomes)
    ]


def flags_of(
    records: Sequence[Record], defense: str, protocol: str = "direct", **changes: Any
) -> tuple[str, ...]:
    cell = manifest(n=N, controls={}, **changes)
    return summarize(records, cell).row(defense, protocol).flags


HALF = "h" * 10 + "f" * 10


@pytest.mark.parametrize(
    ("records", "flag", "raised"),
    [
        pytest.param(
            [*rows("h" * 2 + "f" * 18, DEFENSE, "replay"), *rows(HALF, DEFENSE)],
            "direct weaker than replay by 40.0 points",
            True,
            id="replay-finds-more",
        ),
        pytest.param(
            [*rows("h" * 9 + "f" * 11, DEFENSE, "replay"), *rows(HALF, DEFENSE)],
            "direct weaker than replay by 5.0 points",
            False,
            id="replay-finds-hardly-more",
        ),
        pytest.param(
            [*rows(HALF, DEFENSE)[3:], *rows("hhh", DEFENSE, queries=1)],
            "never tried on 3 of 20 texts",
            True,
            id="idle",
        ),
        pytest.param(
            [*rows(HALF, DEFENSE)[2:], *rows("hh", DEFENSE, queries=0)],
            "never tried on 2 of 20 texts",
            False,
            id="seldom-idle",
        ),
        pytest.param(
            rows(HALF, DEFENSE, queries=1),
            "never tried on 10 of 20 texts",
            False,
            id="an-attack-of-one-query",
        ),
        pytest.param(
            [*rows("hh", DEFENSE, queries=100), *rows(HALF, DEFENSE)[2:]],
            "query budget spent on 2 of 10 held texts",
            True,
            id="budget",
        ),
        pytest.param(
            [*rows("hh", DEFENSE, queries=99), *rows(HALF, DEFENSE)[2:]],
            "query budget spent on 2 of 10 held texts",
            False,
            id="budget-left",
        ),
        pytest.param(
            rows("ee" + "h" * 18, DEFENSE), "many crashed: 10.0% of the records", True, id="crashes"
        ),
        pytest.param(
            rows("e" + "h" * 19, DEFENSE), "many crashed: 5.0% of the records", False, id="a-crash"
        ),
        pytest.param(
            [*rows("w" * 8 + "f" * 12), *rows("f" * 20, DEFENSE)],
            "better than undefended on clean text by 8 examples",
            True,
            id="clean-text",
        ),
        pytest.param(
            [*rows("w" * 8 + "f" * 12), *rows("f" * 19 + "w", DEFENSE)],
            "better than undefended on clean text by 7 examples",
            False,  # 8 against 1: p = 20/512
            id="clean-text-by-chance",
        ),
        pytest.param(
            [*rows("f" * 20), *rows("w" * 8 + "f" * 12, DEFENSE)],
            "better than undefended on clean text by -8 examples",
            False,
            id="worse-on-clean-text",
        ),
    ],
)
def test_a_row(records: list[Record], flag: str, raised: bool) -> None:
    found = flags_of(records, DEFENSE, settings={"threat.max_queries": 100})
    assert (flag in found) == raised
    assert "not checked: no probe of this system" in found


def test_without_a_budget_nothing_is_spent() -> None:
    for settings in ({}, {"threat.max_queries": None}):
        found = flags_of(rows(HALF, DEFENSE, queries=10**6), DEFENSE, settings=settings)
        assert not [flag for flag in found if "budget" in flag]


def test_a_control_needs_no_probe() -> None:
    cell = manifest(n=N, controls={DEFENSE: (CONTROL,)})
    summary = summarize([*rows(HALF, DEFENSE), *rows(HALF, CONTROL)], cell)
    flags = {row.role: row.flags for row in summary.rows}
    assert "not checked: no probe of this system" in flags["defense"]
    assert "not checked: no probe of this system" not in flags["control"]


def test_what_the_checks_found_is_in_the_row() -> None:
    quiet: dict[str, Any] = {
        "failed": {},
        "repeats": {"margins": 0.0, "labels": 0, "texts": 16},
        "company": {"margins": 0.01, "labels": 0, "texts": 24},
    }
    noisy = quiet | {"repeats": {"margins": 0.5, "labels": 1, "texts": 16}}
    cell = manifest(n=N, controls={})
    records = [*rows(HALF), *rows(HALF, DEFENSE)]
    summary = summarize(records, cell, {"none": quiet, DEFENSE: noisy})
    flags = {row.role: row.flags for row in summary.rows}
    assert "randomized: answers change from run to run" in flags["defense"]
    assert "randomized: answers change from run to run" not in flags["undefended"]


def results(attack: str, knowledge: str, undefended: str, defended: str, **changes: Any) -> Results:
    settings = {"threat.knowledge": knowledge, "goal": "misclassify"}
    cell = manifest(attack=attack, n=N, controls={}, settings=settings, **changes)
    records = tuple([*rows(undefended), *rows(defended, DEFENSE)])
    return Results(cell, records, summarize(records, cell))


FEW, SOME, MOST = ("h" * held + "f" * (N - held) for held in (2, 8, 18))


@pytest.mark.parametrize(
    ("weak", "strong", "flag"),
    [
        pytest.param(
            ("greedy(x=1)", "score", FEW, FEW),
            ("hotflip", "gradient", FEW, MOST),
            "masked gradients: greedy finds 80.0 points more",
            id="gradients-lead-nowhere",
        ),
        pytest.param(
            ("random-substitution", "score", SOME, FEW),
            ("greedy", "score", FEW, MOST),
            "masked scores: random-substitution finds 80.0 points more",
            id="the-floor-finds-more",
        ),
        pytest.param(
            ("viper", "label", FEW, FEW),
            ("greedy", "score", FEW, SOME),
            "masked scores: viper finds 30.0 points more",
            id="labels-tell-more",
        ),
        pytest.param(
            ("viper", "label", FEW, FEW),
            ("greedy", "score", SOME, SOME),
            None,
            id="as-on-the-undefended",
        ),
        pytest.param(
            ("greedy", "score", FEW, MOST), ("hotflip", "gradient", FEW, FEW), None, id="as-it-is"
        ),
        pytest.param(
            ("greedy", "score", FEW, FEW), ("pwws", "score", FEW, MOST), None, id="see-the-same"
        ),
        pytest.param(
            ("viper", "label", FEW, FEW),
            ("greedy", "score", FEW, "h" * 6 + "f" * 14),
            None,  # 4 against none: p = 2/16
            id="chance",
        ),
    ],
)
def test_one_attack_beside_another(
    weak: tuple[str, str, str, str], strong: tuple[str, str, str, str], flag: str | None
) -> None:
    cells = [results(*weak), results(*strong)]
    expected = [MatrixFlag(cells[1].manifest.name, DEFENSE, "direct", flag)] if flag else []
    assert matrix_flags(cells) == expected
    assert matrix_flags(cells[::-1]) == expected


def test_each_protocol_is_misled_or_not_by_itself() -> None:
    """A bound misleads who does not see behind it, and nobody else."""
    cells = []
    for attack, direct, adaptive in (("greedy", MOST, FEW), ("random-substitution", FEW, FEW)):
        settings = {"threat.knowledge": "score", "goal": "misclassify"}
        asked = {"protocols": ("direct", "adaptive"), "hiding": (DEFENSE,)}
        cell = manifest(attack=attack, n=N, controls={}, settings=settings, **asked)
        seen = [dataclasses.replace(r, protocol="adaptive") for r in rows(adaptive, DEFENSE)]
        records = (*rows(FEW), *rows(direct, DEFENSE), *seen)
        cells.append(Results(cell, records, summarize(records, cell)))
    [misled] = matrix_flags(cells)
    assert (misled.cell, misled.protocol) == (cells[0].manifest.name, "direct")


def test_other_seeds_tasks_and_goals_are_not_compared() -> None:
    weak = results("viper", "label", FEW, FEW)
    for changes in ({"seed": 8}, {"task": "news"}, {"prefix": "ba5e"}):
        assert matrix_flags([weak, results("greedy", "score", FEW, MOST, **changes)]) == []


def test_of_several_that_find_more_the_one_that_leads_is_named() -> None:
    cells = [
        results("viper", "label", FEW, SOME),
        results("greedy", "score", FEW, FEW),
        results("hotflip", "gradient", FEW, MOST),
    ]
    flags = {flag.cell: flag.flag for flag in matrix_flags(cells)}
    assert flags == {
        cells[2].manifest.name: "masked gradients: greedy finds 80.0 points more",
    }


def test_an_incomplete_matrix_is_compared_where_it_can_be() -> None:
    weak = results("viper", "label", FEW, FEW)
    cell = manifest(attack="greedy", n=N, controls={}, settings={"threat.knowledge": "score"})
    only = tuple(rows(FEW))
    assert matrix_flags([weak, Results(cell, only, summarize(only, cell))]) == []


def _raised() -> list[str]:
    """Every flag that a source file can raise, up to its first number."""
    folder = Path(__file__).parents[2] / "robust_prefix" / "evaluation"
    found = []
    for name in ("flags", "probe_flags", "matrix_flags"):
        for line in (folder / f"{name}.py").read_text().splitlines():
            for text in _literals(line):
                if text.split("{")[0] and ("flag" in line or line.lstrip().startswith("return [")):
                    found.append(text.split("{")[0])
    return found


def _literals(line: str) -> list[str]:
    return [part for part in line.split('"')[1::2] if " " in part and not part.endswith(".")]


@pytest.mark.parametrize("flag", _raised())
def test_each_flag_has_a_meaning(flag: str) -> None:
    assert meaning(flag).endswith(".")


def test_the_table_of_flags_is_not_empty() -> None:
    assert len(_raised()) >= 24
    assert meaning("2 errors").startswith("A crashed example")
    assert meaning("anything else") == ""


def test_no_meaning_hides_another() -> None:
    names = list(MEANINGS)
    for place, name in enumerate(names):
        assert not [other for other in names[:place] if name.startswith(other)]
