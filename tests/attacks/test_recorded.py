"""Recorded adversaries: read from a file, shown and never attacked with, known by their hash."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attacks import build_attack, canonical_spec
from attacks.recorded import Recorded
from robust_prefix.errors import ConfigError, InputError, ResourceError
from robust_prefix.evaluation.protocols import Example, RecordedAttack
from robust_prefix.tasks import TASKS, Task

SST2, SNLI = TASKS["sst2"], TASKS["snli"]
ROWS = """original,adversarial,label
"a witty , warm film","a wity , warm fi lm",1
a dull film,a dull film,negative
 so  so , so so.,0
"""


def written(folder: Path, text: str, name: str = "found.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def built(path: Path, task: Task = SST2) -> Recorded:
    attack = build_attack(f"file:{path}", task.columns)
    assert isinstance(attack, Recorded)
    return attack


def test_rows_are_examples_with_their_adversaries(tmp_path: Path) -> None:
    attack = built(written(tmp_path, ROWS))
    assert attack.examples(SST2.label) == [
        Example(0, ("a witty , warm film",), 1),
        Example(1, ("a dull film",), 0),
        Example(2, (" so  so ",), 0),
    ]
    assert [attack.adversary(place) for place in range(3)] == [
        ("a wity , warm fi lm",),
        None,  # the attack failed
        (" so so.",),
    ]
    assert isinstance(attack, RecordedAttack)
    assert (attack.threat.knowledge, attack.threat.columns) == ("none", ("text",))
    assert attack.threat.max_queries == 0


def test_the_hash_and_not_the_place_is_in_the_name(tmp_path: Path) -> None:
    here, there = written(tmp_path, ROWS), written(tmp_path, ROWS, "moved.csv")
    other = written(tmp_path, ROWS.replace("wity", "vitty"), "other.csv")
    specs = [built(path).spec for path in (here, there, other)]
    assert specs[0] == specs[1] != specs[2]
    assert specs == [canonical_spec(f"file:{path}") for path in (here, there, other)]
    assert specs[0] == f"file(sha256={built(here).sha256[:16]})"
    assert len(built(here).sha256) == 64


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_pairs_have_columns_of_their_own(tmp_path: Path, suffix: str) -> None:
    row = {
        "premise_original": "a man runs",
        "hypothesis_original": "a man moves",
        "hypothesis_adversarial": "a man mvoes",
        "label": "entailment",
    }
    text = json.dumps(row) if suffix == "jsonl" else f"{','.join(row)}\n{','.join(row.values())}\n"
    attack = built(written(tmp_path, text, f"pairs.{suffix}"), SNLI)
    assert attack.examples(SNLI.label) == [Example(0, ("a man runs", "a man moves"), 0)]
    assert attack.adversary(0) == ("a man runs", "a man mvoes")
    assert attack.threat.columns == ("hypothesis",)


@pytest.mark.parametrize(
    ("text", "task", "message"),
    [
        ("original,label\na,1\n", SST2, r"columns \['original', 'adversarial', 'label'\] in .*got"),
        ("original,adversarial\na,b\n", SST2, r"got \['original', 'adversarial'\]; rename them"),
        ("original,adversarial,label\na,b,1\n", SNLI, "'premise_original', 'hypothesis_original'"),
        ("premise_original,hypothesis_original,label\na,b,1\n", SNLI, "'hypothesis_adversarial'"),
        ("original,adversarial,label\na,,1\n", SST2, "words in adversarial of row 0 .* got ''"),
        (
            "original,adversarial,label\na,b,1\n ,b,1\n",
            SST2,
            "words in original of row 1 .*got ' '",
        ),
        ("original,adversarial,label\n", SST2, "at least one row of adversaries"),
        ("", SST2, "at least one row of adversaries"),
        ("original,adversarial,label\na,b,c,1\n", SST2, "4 instead of 3 cells at line 2"),
    ],
    ids=[
        "no adversaries",
        "no labels",
        "pairs",
        "unchanged",
        "empty",
        "blank",
        "rows",
        "",
        "cells",
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, text: str, task: Task, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError, match=message) as caught:
        built(path, task)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("label", ["2", "good", "", "-1"])
def test_a_label_of_another_task(tmp_path: Path, label: str) -> None:
    attack = built(written(tmp_path, f"original,adversarial,label\na,b,1\na,b,{label}\n"))
    with pytest.raises(InputError, match=r"a label of sst2 .* in row 1, got .*found.csv"):
        attack.examples(SST2.label)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for use in (lambda spec: build_attack(spec, ("text",)), canonical_spec):
        with pytest.raises(ResourceError, match=r"recorded adversaries at .*none.csv, got No such"):
            use(f"file:{tmp_path / 'none.csv'}")


def test_nothing_can_be_attacked_with_it(tmp_path: Path) -> None:
    attack = built(written(tmp_path, ROWS))
    with pytest.raises(ConfigError, match="expected the protocol replay for file"):
        attack.perturb(None, ("a",), 1, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("spec", ["pwws", "pwws(max_queries=50)", "deepwordbug"])
def test_the_canonical_spec_needs_no_word_list(spec: str) -> None:
    assert canonical_spec(spec).startswith(spec.partition("(")[0] + "(max_queries=")
    with pytest.raises(ConfigError, match="did you mean 'max_queries'"):
        canonical_spec(f"{spec.partition('(')[0]}(max_query=1)")


def test_a_column_that_the_first_row_lacks_is_asked_of_it(tmp_path: Path) -> None:
    first = {"premise_original": "a cat sleeps", "premise_adversarial": "a cat dozes"}
    first |= {"hypothesis_original": "it rests", "label": 0}
    second = {**first, "hypothesis_adversarial": "it sprints"}
    path = written(tmp_path, "\n".join(map(json.dumps, (first, second))), "found.jsonl")
    with pytest.raises(InputError, match="words in hypothesis_adversarial of row 0"):
        built(path, SNLI)
