"""What is measured on: texts, recorded queries, sizes; and what becomes of it."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from robust_prefix.classifier import PrefixClassifier
from robust_prefix.errors import ResourceError
from robust_prefix.tasks import Fields, Task
from timing import defended, growth, queries, subspace_fit, train_speed
from timing.figures import draw_figures, number
from timing.goals import goals
from timing.literal import Literal
from timing.material import Material, load_material
from timing.results import COLUMNS, Plan, Row, find, write_results


def row(part: str, contestant: str, seconds: Sequence[float], **setting: int) -> Row:
    """A contestant beside a baseline that takes a second a round for ten items."""
    count = len(seconds)
    return Row(part, setting, contestant, "base", seconds, [1.0] * count, [10] * count)


def test_without_a_data_folder_the_demos_reviews_serve(task: Task) -> None:
    without = dataclasses.replace(task, data_dir=None)
    found = load_material(without, "test", seed=0)
    assert len(found.texts) == 60
    assert "demo" in found.source
    with pytest.raises(ResourceError):
        load_material(dataclasses.replace(task, data_dir=Path("nowhere")), "test", seed=0)


def test_texts_keep_their_labels_in_an_order_of_the_seed(task: Task) -> None:
    first, other = (load_material(task, "test", seed) for seed in (0, 1))
    pairs = [set(zip(each.texts, each.labels, strict=True)) for each in (first, other)]
    assert pairs[0] == pairs[1]
    assert first.texts != other.texts


def test_windows_follow_each_other_and_begin_again(material: Material) -> None:
    assert material.window(0, 4).texts == material.texts[:4]
    assert material.window(1, 4).texts == [*material.texts[4:], *material.texts[:2]]
    assert material.window(1, 4).labels == [1, 0, 1, 0]


class Asking:
    """Asks for the text, then for two and for three versions of it."""

    def perturb(self, victim: Any, fields: Fields, label: int, seed: int) -> None:
        scores = victim.logits([fields])
        if scores.argmax() == label:
            victim.logits([(fields[0] + end,) for end in ("!", "?")])
            victim.logits([(fields[0] + end,) for end in ("", ".", ";")])


@pytest.mark.parametrize(
    ("most", "sizes"), [(None, [1, 2, 3]), (4, [1, 2, 1]), (3, [1, 2])], ids=["all", "4", "3"]
)
def test_an_attacks_calls_are_kept(
    monkeypatch: pytest.MonkeyPatch,
    classifier: PrefixClassifier,
    material: Material,
    most: int | None,
    sizes: list[int],
) -> None:
    monkeypatch.setattr(queries, "build_attack", lambda *_: Asking())
    right = [
        text
        for text, label in zip(material.texts, material.labels, strict=True)
        if classifier.predict([text]) == [classifier.task.labels[label]]
    ]
    assert 1 < len(right) < 6  # some are misclassified as they are, and passed over
    found = queries.record(classifier, material, "any", None, 0, len(right) - 1, most)
    assert [[len(call) for call in calls] for calls in found] == [sizes] * (len(right) - 1)
    assert [calls[0] for calls in found] == [[text] for text in right[:-1]]


def test_queries_are_replayed_whole_and_theirs_in_pieces(
    monkeypatch: pytest.MonkeyPatch, classifier: PrefixClassifier, task: Task
) -> None:
    asked: dict[str, list[int]] = {"pieces": [], "whole": []}

    def wrapper(prompts: list[str]) -> Any:
        assert all(prompt.endswith("positive ?") for prompt in prompts)
        asked["pieces"].append(len(prompts))
        return classifier.logits(["warm"] * len(prompts))

    def whole(texts: list[Fields]) -> None:
        asked["whole"].append(len(texts))

    monkeypatch.setattr(queries, "import_textattack", lambda _: None)
    monkeypatch.setattr(
        queries,
        "contestants",
        lambda _: {
            queries.SHIPPED: queries._in_pieces(classifier, wrapper),
            queries.PLAIN: lambda: nullcontext(whole),
        },
    )
    calls: list[queries.Calls] = [[[("warm",)], [("good",)] * 70], [[("dull",)] * 3]]
    rows = queries.measure(classifier, calls, Plan(2, 0, warmup=0), None)
    assert sorted(asked["whole"]) == [1, 1, 3, 70]  # one to warm up
    assert sorted(asked["pieces"]) == [1, 1, 3, 6, 32, 32]
    assert rows[0].items == [71, 3]


def test_what_ours_keeps_of_a_text_is_forgotten_before_the_next(
    classifier: PrefixClassifier,
) -> None:
    start = queries._ours(classifier)
    text = "the film is good and the plot is fine and the cast is warm and the end is"
    calls: queries.Calls = [[(f"{text} {word}",) for word in ("great", "dull", "poor", "cold")]]
    for _ in range(2):
        with start() as answer:
            kept = classifier.model.beginnings
            assert kept is not None
            assert not list(kept)
            for call in calls:
                answer(call)
            assert list(kept)
        assert classifier.model.beginnings is None


@pytest.mark.parametrize("tokens", [5, 24])
def test_texts_have_the_length_asked_for(
    classifier: PrefixClassifier, material: Material, tokens: int
) -> None:
    texts = growth.texts_of_length(classifier, material, tokens, 6)
    encode = classifier.model.backbone.encode
    assert {len(encode([text])[0]) for (text,) in texts} == {tokens}
    assert len(set(texts)) > 3


@pytest.mark.parametrize(("length", "layers"), [(1, 2), (4, 3), (9, 4)])
def test_a_resized_classifier_has_the_sizes_asked_for(
    classifier: PrefixClassifier, length: int, layers: int
) -> None:
    found = growth.resized(classifier, length, layers)
    assert found.model.prefix.length == length
    assert found.subspaces is not None
    assert list(found.subspaces.layers) == [*range(layers)]
    for answer in growth.our_answers(found, defended.TUNED).values():
        answer([("warm",)])  # it takes its subspaces for its own


def test_growth_goes_along_every_axis(classifier: PrefixClassifier, material: Material) -> None:
    values = {"tokens": (8, 400), "prefix": (2, 3), "layers": (2, 9), "batch": (1, 2)}
    rows = growth.measure(classifier, material, Plan(1, 0, warmup=0), values)
    # 400 tokens and 9 states are more than the model has
    places = {(row.part, row.setting[row.part.partition(": ")[2]]) for row in rows}
    assert places == {
        ("growth: tokens", 8), ("growth: prefix", 2), ("growth: prefix", 3),
        ("growth: layers", 2), ("growth: batch", 1), ("growth: batch", 2),
    }  # fmt: skip
    assert len(rows) == len(places) * len(defended.TUNED)


def test_the_defence_is_measured_at_every_size(
    classifier: PrefixClassifier, material: Material
) -> None:
    rows = defended.measure(classifier, material, Plan(2, 0), (1, 3))
    assert len(rows) == 2 * (len(defended.OURS) + 2)
    assert {row.baseline for row in rows} == {defended.PLAIN}
    plain = find(rows, defended.PART, defended.PLAIN, batch=3)
    assert plain is not None
    assert plain.ratio.p10 == plain.ratio.p90 == 1
    assert plain.items == [3, 3]


def measured() -> list[Row]:
    """Rows of every part, of which the goals and the figures tell."""
    fits = [
        dataclasses.replace(
            row(subspace_fit.PART, subspace_fit.OURS, [1.0], rows=count), peak_bytes=[peak]
        )
        for count, peak in ((1_000, 1_000), (10_000, 2_000), (100_000, 2_100))
    ]
    return [
        *(
            row(defended.PART, name, [time], batch=32)
            for name, time in (
                (defended.PLAIN, 1.0),
                (defended.PAPER, 2.0),
                (defended.GATED, 1.3),
                (Literal.name, 18.0),
            )
        ),
        row(queries.PART, queries.SHIPPED, [9.0, 11.0, 12.0]),
        row(queries.PART, queries.LONGEST, [1.4]),
        row(train_speed.PART, train_speed.OURS, [1.0]),
        row(train_speed.PART, train_speed.PEFT, [1.5]),
        *fits,
        row("growth: batch", defended.PLAIN, [1.0], batch=1),
        row("growth: batch", defended.PLAIN, [3.0], batch=4),
    ]


def test_goals_are_met_or_not() -> None:
    found = goals(measured(), {"literal": 1e-5, "wrapper": 0.02}, [{subspace_fit.OURS: 1e-9}])
    assert [(goal.name, goal.value, goal.met) for goal in found] == [
        ("literal over robust-prefix(mode=batch), batch 32", 9.0, True),
        ("robust-prefix(mode=batch) over plain, batch 32", 2.0, True),
        ("gate+robust-prefix over plain, batch 32", 1.3, False),
        ("TextAttack's wrapper as it ships over none", 11.0, True),
        ("TextAttack's wrapper, padded to the longest over none", 1.4, False),
        ("PEFT and Trainer over train_prefix", 1.5, True),
        ("peak at 100,000 rows over that at 10,000", 1.05, True),
        ("largest difference of a logit", 0.02, False),
        ("largest angle to scikit-learn's subspace", 1e-9, True),
    ]
    assert goals([], {}, []) == []


def test_results_are_written_for_machines_and_for_spreadsheets(tmp_path: Path) -> None:
    rows = measured()
    write_results(tmp_path, {"machine": {"cores": 2}}, rows)
    document = json.loads((tmp_path / "speed.json").read_text())
    assert document["machine"] == {"cores": 2}
    shipped = document["rows"][4]
    assert shipped["seconds"] == [9, 11, 12]
    assert shipped["ratio"]["median"] == 11
    assert shipped["items_per_second"] == pytest.approx(30 / 32)
    with (tmp_path / "speed.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == list(COLUMNS)
    assert lines[4]["ratio"] == "11"
    assert lines[0]["setting"] == "batch=32"
    assert [line["peak_bytes"] for line in lines].count("") == len(rows) - 3


def test_every_measured_part_has_its_figure(tmp_path: Path) -> None:
    angles = [{"rows": count, subspace_fit.OURS: 1e-9} for count in (1_000, 10_000, 100_000)]
    paths = draw_figures(measured(), angles, tmp_path)
    parts = ("defense", "queries", "training", "subspaces", "growth")
    assert {path.name for path in paths} == {
        f"{p}.{kind}" for p in parts for kind in ("png", "svg")
    }
    assert all(path.stat().st_size > 1000 for path in paths)
    assert draw_figures([], [], tmp_path) == []


@pytest.mark.parametrize(
    ("value", "shown"), [(1.0, "1.00"), (21.26, "21.3"), (345.6, "346"), (0.0123, "0.0123")]
)
def test_numbers_have_three_digits(value: float, shown: str) -> None:
    assert number(value) == shown


def test_pwws_is_replayed_where_its_words_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def listed(*names: str) -> Any:
        return lambda _: [SimpleNamespace(name=n, runnable=n in names) for n in ("pwws", "viper")]

    monkeypatch.setattr(queries, "list_attacks", listed("pwws"))
    assert queries.choose_attack(None) == "pwws"
    monkeypatch.setattr(queries, "list_attacks", listed("viper"))
    assert queries.choose_attack(None) == "deepwordbug"
