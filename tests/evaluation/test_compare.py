"""Two evaluations side by side, against differences counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evaluation_fakes import CONTROL, DEFENSE, manifest, record

from robust_prefix.errors import ConfigError
from robust_prefix.evaluation import Results, summarize
from robust_prefix.evaluation.compare import ComparedRow, Comparison, compare
from robust_prefix.evaluation.markdown import comparison_markdown
from robust_prefix.evaluation.outputs import write_comparison
from robust_prefix.evaluation.statistics import mcnemar

ROLES = {"none": "undefended", DEFENSE: "defense"}


def run_of(outcomes: dict[str, str], **changes: object) -> Results:
    """Direct attacks: by defence, a letter an example, h(eld) or f(ooled)."""
    found = manifest(**({"protocols": ("direct",)} | changes))
    records = [
        record(
            attack=found.attack,
            task=found.task,
            model=found.model,
            prefix=found.prefix,
            seed=found.seed,
            defense=defense,
            role=ROLES.get(defense, "control"),
            example=example,
            original=(f"text {example}",),
            outcome="failed" if letter == "h" else "succeeded",
            adversarial=None if letter == "h" else (f"{found.prefix} {example}",),
        )
        for defense, letters in outcomes.items()
        for example, letter in enumerate(letters)
    ]
    return Results(found, tuple(records), summarize(records, found))


def by_defense(found: Comparison) -> dict[str, ComparedRow]:
    return {row.defense: row for row in found.rows}


def test_what_both_have_is_compared() -> None:
    first = run_of({"none": "ffff", DEFENSE: "hhff"})
    second = run_of({"none": "ffff", DEFENSE: "fhhh"}, prefix="beef")
    found = by_defense(compare([first], [second]))
    assert list(found) == ["none", DEFENSE]
    row = found[DEFENSE]
    assert (row.first.value, row.second.value, row.difference) == (0.5, 0.75, 0.25)
    assert (row.shared, row.p_value) == (
        4,
        mcnemar([True, True, False, False], [False, True, True, True]),
    )
    assert [(flip.example, flip.held_first) for flip in row.flips] == [
        (0, True),
        (2, False),
        (3, False),
    ]
    # what it was fooled by where it did not hold
    assert [flip.adversarial for flip in row.flips] == [("beef 0",), ("c0ffee 2",), ("c0ffee 3",)]
    assert row.flips[0].original == ("text 0",)
    assert (found["none"].difference, found["none"].p_value, found["none"].flips) == (0.0, 1.0, ())


def test_other_test_data_are_not_paired() -> None:
    first, second = run_of({"none": "fh"}), run_of({"none": "hh"}, test_fingerprint="beef")
    (row,) = compare([first], [second]).rows
    assert (row.difference, row.shared, row.p_value, row.flips) == (0.5, 0, None, ())


def test_only_shared_examples_are_paired() -> None:
    (row,) = compare([run_of({"none": "fhfh"})], [run_of({"none": "hh"}, n=2)]).rows
    assert (row.first.value, row.second.value, row.shared) == (0.5, 1.0, 2)
    assert [flip.example for flip in row.flips] == [0]


def test_controls_of_several_seeds_are_averaged() -> None:
    """Their size was measured on each run, so their own settings differ."""
    seeds = [f"random-prefix(rms=0.{rms}, seed={seed})" for rms in (2, 3) for seed in (0, 1)]
    runs = [
        run_of({DEFENSE: "hh", mine[0]: letters[0], mine[1]: letters[1]}, controls={DEFENSE: mine})
        for mine, letters in ((tuple(seeds[:2]), ("ff", "hf")), (tuple(seeds[2:]), ("hh", "hf")))
    ]
    found = {row.role: row for row in compare(runs[:1], runs[1:]).rows}
    row = found["control"]
    assert (row.first.value, row.second.value, row.shared, row.flips) == (0.25, 0.75, 2, ())
    assert row.p_value == 0.5  # each example differs by one half, both to one side: 2 / 2**2
    assert (row.to_dict()["only_first_held"], row.to_dict()["only_second_held"]) == (None, None)
    [line] = [
        line
        for line in comparison_markdown(compare(runs[:1], runs[1:])).splitlines()
        if "random-prefix" in line and "swap" in line
    ]
    assert "| - |" in line


def test_cells_are_told_apart_by_as_little_as_needed() -> None:
    seeds = [run_of({"none": letters}, seed=seed) for seed, letters in ((1, "ff"), (2, "fh"))]
    others = [run_of({"none": "hh"}, seed=seed, prefix="beef") for seed in (2, 3)]
    found = compare(seeds, others)
    assert [(row.seeds, row.first.value) for row in found.rows] == [((2, 2), 0.5)]
    assert found.only_first == ("swap(words=all) on reviews, seed 1",)
    assert found.only_second == ("swap(words=all) on reviews, seed 3",)
    lines = comparison_markdown(compare(seeds, seeds)).splitlines()
    assert [line.split("|")[1].strip() for line in lines if "undefended" in line][:2] == [
        "reviews, swap, seed 1",
        "reviews, swap, seed 2",
    ]
    # attacks of one name: the settings that differ
    two = [run_of({"none": "fh"}, attack=f"swap(words=all, most={most})") for most in (1, 2)]
    lines = comparison_markdown(compare(two, two)).splitlines()
    assert [line.split("|")[1].strip() for line in lines if "undefended" in line][:2] == [
        "reviews, swap(most=1)",
        "reviews, swap(most=2)",
    ]
    # one of each: the seed may be what is compared
    apart = compare(seeds[:1], others[:1])
    assert apart.rows[0].seeds == (1, 2)
    assert apart.cell_name(apart.rows[0]) == "swap"


def test_what_one_lacks_is_named() -> None:
    first = run_of({"none": "ff", DEFENSE: "hh", CONTROL: "hh"}, controls={DEFENSE: (CONTROL,)})
    found = compare([first], [run_of({"none": "ff"}), run_of({"none": "ff"}, attack="pwws")])
    assert found.only_first == (f"swap(words=all) on reviews, {DEFENSE}: direct",)
    assert found.only_second == ("pwws on reviews, seed 7",)


def test_nothing_shared_is_one_clear_line() -> None:
    with pytest.raises(ConfigError) as error:
        compare([run_of({"none": "f"})], [run_of({"none": "f"}, attack="pwws(max_queries=5)")])
    assert str(error.value) == (
        "expected two evaluations that share task, attack, defence and protocol, got "
        "swap(words=all) on reviews and pwws(max_queries=5) on reviews; compare runs of the same "
        "attack on one task"
    )


def test_the_files_of_a_comparison(tmp_path: Path) -> None:
    first, second = run_of({"none": "fh"}), run_of({"none": "hf"}, prefix="beef")
    write_comparison([first], [second], tmp_path)
    (row,) = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))["rows"]
    assert (row["first"], row["second"], row["difference"], row["p_value"]) == (0.5, 0.5, 0.0, 1.0)
    assert (row["only_first_held"], row["only_second_held"]) == (1, 1)
    assert row["flips"][0] == {
        "example": 0,
        "held": "second",
        "original": ["text 0"],
        "adversarial": ["c0ffee 0"],
    }
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    cells = "| reviews, swap | undefended | direct | 50.0% (9.5 to 90.5) | 50.0% (9.5 to 90.5) |"
    assert f"{cells} +0.0 | 1 | 1 / 1 | 2 |" in text
    assert "| 0 | second | text 0 | c0ffee 0 |" in text


def test_many_flips_are_cut_in_markdown() -> None:
    found = compare([run_of({"none": "f" * 50})], [run_of({"none": "h" * 50})])
    text = comparison_markdown(found)
    assert text.count("| second |") == 20 + 1  # and the header's
    assert "30 more are in comparison.json." in text
