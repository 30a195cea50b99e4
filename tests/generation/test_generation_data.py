"""Generation tasks, their data, the set made here, and BLEU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robust_prefix.errors import ConfigError, InputError, ResourceError
from robust_prefix.generation import (
    GENERATION_TASKS,
    Bleu,
    GenerationTask,
    Pair,
    bleu,
    load_generation_task,
    load_pairs,
    measure_bleu,
)
from robust_prefix.generation.bleu import by_source

from .conftest import PAIRS

HYPOTHESES = ["the film is good and warm", "a dull plot and a weak end", "is the cast cold ?"]
REFERENCES = [
    ["the film is good and very warm", "a film that is good and warm"],
    ["the plot is dull and the end is weak"],
    ["is the cast cold ?", "the cast is cold", "cold cast"],
]


def facts(source: str) -> dict[str, str]:
    """``key[value], ...`` as a mapping."""
    return dict(part.removesuffix("]").split("[") for part in source.split(", "))


def test_the_built_in_set_says_every_fact_and_asks_for_unseen_ones() -> None:
    task = load_generation_task("trails")
    splits = {split: load_pairs(task, split) for split in ("train", "dev", "test")}
    assert {split: len(pairs) for split, pairs in splits.items()} == {
        "train": 240,
        "dev": 60,
        "test": 60,
    }
    seen: dict[str, set[tuple[str, str]]] = {}
    values: dict[str, set[tuple[str, str]]] = {}
    for split, pairs in splits.items():
        assert len(set(pairs)) == len(pairs)
        assert all(len(targets) == 2 for targets in by_source(pairs).values())
        for pair in pairs:
            known = facts(pair.source)
            said = pair.target
            if "dogs" in known:
                rule = {"welcome": "are welcome", "on a lead": "on a lead"}
                assert rule.get(known.pop("dogs"), "are not allowed") in said
            else:
                assert "dogs" not in said
            assert all(value in said for value in known.values())
            seen.setdefault(split, set()).add((known["kind"], known["ground"]))
            values.setdefault(split, set()).update(facts(pair.source).items())
    assert not seen["train"] & (seen["dev"] | seen["test"])
    assert not seen["dev"] & seen["test"]
    assert values["dev"] | values["test"] <= values["train"], "a single fact is unknown"
    assert load_pairs(task, "train") == splits["train"]


def test_own_data_is_read_from_files(reviews: GenerationTask) -> None:
    assert load_pairs(reviews, "dev") == PAIRS
    assert load_pairs(reviews, "train") == PAIRS * 8


def test_a_task_comes_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROBUST_PREFIX_DATA", raising=False)
    (tmp_path / "own.toml").write_text(
        'name = "own"\ntemplate = "{source} =>"\nsource_column = "table"\n'
        'target_column = "said"\n[splits]\ndev = "dev.csv"\n'
    )
    (tmp_path / "dev.csv").write_text("table,said,more\n1,one,x\n2,two,y\n")
    task = load_generation_task(str(tmp_path / "own.toml"))
    assert load_pairs(task, "dev") == [Pair("1", "one"), Pair("2", "two")]
    assert task.render("a{source}b") == "a{source}b =>"
    assert GenerationTask.from_dict(task.to_dict()).to_dict() == task.to_dict()
    with pytest.raises(ConfigError, match="expected one of dev splits in task 'own', got 'train'"):
        load_pairs(task, "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = 1", "expected a valid name"),
        ("name = 'x'\ncolour = 1", "got 'colour'"),
        ("template = '{source} x'", "expected a generation task with a name"),
        ("name = 'x'\ntemplate = 'x {source}'", "expected {source} once and something behind it"),
        ("name = 'x'\ntemplate = '{source}{source} x'", "expected {source} once"),
        ("name", "expected TOML in"),
    ],
)
def test_tasks_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_generation_task(str(tmp_path / "own.toml"))


def test_a_name_that_is_not_known() -> None:
    assert set(GENERATION_TASKS) == {"trails"}
    with pytest.raises(ConfigError, match="got 'trial'; did you mean 'trails'"):
        load_generation_task("trial")
    with pytest.raises(ConfigError, match=r"expected a task file at no\.toml"):
        load_generation_task("no.toml")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "at least one row in train.jsonl, got none"),
        ([{"source": "a"}], r"the columns \['source', 'target'\] in row 0 of train.jsonl"),
        ([{"source": "a", "target": "b"}, {"source": "", "target": "b"}], "source of row 1 of"),
        ([{"source": "a", "target": None}], "as target of row 0 of train.jsonl, got None"),
        ([{"source": "a", "target": 5}], "as target of row 0 of train.jsonl, got 5"),
    ],
    ids=["nothing", "column", "empty", "none", "number"],
)
def test_rows_that_do_not_fit(tmp_path: Path, rows: list[dict[str, object]], message: str) -> None:
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = GenerationTask("x", splits={"train": "train.jsonl"}, data_dir=tmp_path)
    with pytest.raises(InputError, match=message):
        load_pairs(task, "train")


def test_data_that_is_not_there(tmp_path: Path) -> None:
    task = GenerationTask("x", splits={"train": "train.jsonl"}, data_dir=tmp_path)
    with pytest.raises(ResourceError, match="got no file there; give --data-dir"):
        load_pairs(task, "train")


def test_bleu_is_sacrebleus_own() -> None:
    sacrebleu = pytest.importorskip("sacrebleu", reason="the extra 'generation' is not installed")
    found = measure_bleu(HYPOTHESES, REFERENCES)
    streams = [
        [references[place] if place < len(references) else None for references in REFERENCES]
        for place in range(3)
    ]
    expected = sacrebleu.corpus_bleu(HYPOTHESES, streams)
    assert found.score == pytest.approx(expected.score)
    assert 20 < found.score < 90
    assert found.n == 3
    assert "tok:13a" in found.signature
    assert found.to_dict() == {"score": found.score, "n": 3, "signature": found.signature}
    exact = measure_bleu([pair.target for pair in PAIRS], [[pair.target] for pair in PAIRS])
    assert exact.score == pytest.approx(100)
    assert str(Bleu(12.34, 5, "s")) == "12.3 (n=5)"


@pytest.mark.parametrize(
    ("texts", "references"),
    [([], []), (["a"], []), (["a"], [[]]), (["a", "b"], [["a"], []])],
    ids=["nothing", "too few", "none for it", "none for the second"],
)
def test_every_text_needs_a_reference(texts: list[str], references: list[list[str]]) -> None:
    with pytest.raises(InputError, match="one or more references for each of some texts"):
        measure_bleu(texts, references)


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bleu, "can_measure", lambda: False)
    with pytest.raises(ResourceError, match=r"pip install 'robust-prefix\[generation\]'"):
        measure_bleu(["a"], [["a"]])
