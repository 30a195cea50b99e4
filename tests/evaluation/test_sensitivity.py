"""One word of the prompt changed: which changes there are, and what is counted of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from robust_prefix.backbones import CausalBackbone
from robust_prefix.data import load_split, rows_as_fields
from robust_prefix.defenses import NoDefense
from robust_prefix.errors import InputError
from robust_prefix.evaluation.sensitivity import KINDS, Effect, Nearest, changes, sensitivity
from robust_prefix.evaluation.statistics import mcnemar, wilson
from robust_prefix.prefixes import Prefix, PrefixModel
from robust_prefix.prefixes.manual_prompt import manual_prompt
from robust_prefix.tasks import Task

from ..families import tiny_encoder


def made(task: Task, template: str, kind: str) -> list[str]:
    """The templates that one kind of change leads to; each word has one synonym and one near."""
    task = replace(task, template=template)
    found = changes(task, lambda word: [f"{word}ish"], lambda word, _: [f"near-{word}"], 1)
    return [change.template for change in found if change.kind == kind]


@pytest.mark.parametrize(
    ("template", "kind", "expected"),
    [
        pytest.param(
            "{text} is it, ok ?",
            "dropped",
            [
                "{text} it, ok ?",
                "{text} is, ok ?",
                "{text} is it ok ?",
                "{text} is it, ?",
                "{text} is it, ok",
            ],
            id="dropped",
        ),
        pytest.param("{text} ok", "dropped", [], id="the last word after the text stays"),
        pytest.param("{text} ok {mask}", "dropped", ["{text} {mask}"], id="but not before a mask"),
        pytest.param(
            "Rate: {text} ok ?",
            "dropped",
            [": {text} ok ?", "Rate {text} ok ?", "Rate: {text} ?", "Rate: {text} ok"],
            id="dropped at the beginning",
        ),
        pytest.param(
            "a b {text} c d", "swapped", ["b a {text} c d", "a b {text} d c"], id="swapped"
        ),
        pytest.param(
            "{text} Is it",
            "case",
            ["{text} is it", "{text} IS it", "{text} Is It", "{text} Is IT"],
            id="case",
        ),
        pytest.param(
            "{text} is ?",
            "punctuation",
            ["{text} is, ?", "{text} is .", "{text} is !", "{text} is :"],
            id="punctuation",
        ),
        pytest.param("{text} is ?", "synonym", ["{text} isish ?"], id="synonym"),
        pytest.param("{text} is ?", "nearest", ["{text} near-is ?"], id="nearest"),
        pytest.param("{text}{prompt:3} is ?", "case", ["{text}{prompt:3} Is ?"], id="virtual"),
        pytest.param("{text} don't", "punctuation", ["{text} don't,"], id="apostrophe"),
    ],
)
def test_changes(task: Task, template: str, kind: str, expected: list[str]) -> None:
    assert [each for each in made(task, template, kind) if each in expected] == expected
    if kind != "case":
        assert made(task, template, kind) == expected


def test_each_change_is_another_template_of_the_task(task: Task) -> None:
    found = list(changes(task, lambda word: [word, "good"], lambda word, _: ["good"], 2))
    assert {change.kind for change in found} == set(KINDS) - {"nearest"}  # it was there already
    for change in found:
        assert replace(task, template=change.template).template != task.template
    for place in range(7):
        templates = [change.template for change in found if change.place == place]
        assert len(templates) == len(set(templates)) > 2
    assert [c.word for c in found if c.kind == "dropped"] == task.template.split()[1:]


@pytest.fixture(scope="module")
def asked(task: Task) -> Task:
    return replace(task, template="{text} is it warm ?")


@pytest.fixture(scope="module")
def effects(backbone: CausalBackbone, asked: Task) -> list[Effect]:
    rows = load_split(asked, "dev").select(range(16))
    return sensitivity(backbone, asked, rows, substitutes=lambda _: ["good"], count=1)


def test_effects_are_counted_in_pairs(
    backbone: CausalBackbone, asked: Task, effects: list[Effect]
) -> None:
    task, rows = asked, load_split(asked, "dev").select(range(16))
    texts, labels = rows_as_fields(task, rows), torch.tensor(rows["label"])
    nothing = manual_prompt(backbone, task)

    def answers(template: str) -> torch.Tensor:
        model = PrefixModel(backbone, replace(task, template=template), nothing)
        return NoDefense().logits(model, texts).argmax(-1)

    before = answers(task.template)
    assert effects[0].change is None
    assert effects[0].difference == effects[0].moved == 0
    assert {effect.change.kind for effect in effects[1:] if effect.change} == set(KINDS)
    assert any(effect.moved for effect in effects)
    for effect in (effects[0], *effects[1::9], max(effects, key=lambda each: each.moved)):
        found = answers(task.template if effect.change is None else effect.change.template)
        right, was = (found == labels).tolist(), (before == labels).tolist()
        assert effect.correct == sum(right)
        assert effect.n == len(rows)
        assert [effect.low, effect.high] == wilson(sum(right), len(right)).interval
        assert effect.difference == pytest.approx((sum(right) - sum(was)) / len(right))
        assert effect.difference_low <= effect.difference <= effect.difference_high
        assert effect.p == mcnemar(right, was)
        assert effect.moved == int((found != before).sum())


def test_a_row_is_flat(effects: list[Effect]) -> None:
    first, second = effects[0].to_dict(), effects[1].to_dict()
    assert first.keys() == second.keys()
    assert (first["kind"], first["place"], second["kind"]) == ("as it is", -1, "dropped")
    assert all(isinstance(value, str | int | float) for value in second.values())


def test_nearest_words_are_other_words(backbone: CausalBackbone) -> None:
    near = Nearest(backbone)
    found = near("good", 5)
    assert len(found) == len(set(found)) == 5
    assert "good" not in found
    table = torch.nn.functional.normalize(backbone.embeddings, dim=-1)
    cosines = [
        float(table[backbone.word_token(f" {w}")] @ table[backbone.word_token(" good")])
        for w in found
    ]
    assert cosines == sorted(cosines, reverse=True)
    assert near("unheardof", 5) == []  # several tokens
    assert near("good", 0) == []


def test_a_prefix_stays_behind_the_changed_template(
    backbone: CausalBackbone, task: Task, prefix: Prefix
) -> None:
    task = replace(task, template="{text} is ?")
    rows = load_split(task, "dev").select(range(8))
    [first, *_] = sensitivity(backbone, task, rows, prefix=prefix, count=0)
    model = PrefixModel(backbone, task, prefix)
    found = NoDefense().logits(model, rows_as_fields(task, rows)).argmax(-1)
    assert first.correct == int((found == torch.tensor(rows["label"])).sum())


def test_a_template_with_a_mask(task: Task) -> None:
    task = replace(task, template="{text} it was {mask} .")
    rows = load_split(task, "dev").select(range(4))
    found = sensitivity(tiny_encoder("bert"), task, rows, count=1)
    templates = {effect.change.template for effect in found[1:] if effect.change}
    assert {"{text} was {mask} .", "{text} it was {mask}"} <= templates


def test_no_texts_are_refused(backbone: CausalBackbone, task: Task) -> None:
    with pytest.raises(InputError, match="texts to measure on, got none"):
        sensitivity(backbone, task, load_split(task, "dev").select([]), count=0)
