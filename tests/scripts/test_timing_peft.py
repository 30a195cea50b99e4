"""PEFT's prefix-tuning holds our prefix and answers alike."""

from __future__ import annotations

import itertools

import pytest
import torch

pytest.importorskip("peft", reason="the extra 'peft' is not installed")

from robust_prefix.backbones import CausalBackbone
from robust_prefix.classifier import PrefixClassifier
from robust_prefix.prefixes import Prefix
from timing import accuracy, train_speed
from timing.material import Material
from timing.peft_baselines import (
    causal_lm,
    classifier_of,
    load_prefix,
    plain_tokenizer,
    prefix_of,
    prefix_weight,
    to_peft,
)
from timing.results import Plan


def test_a_row_is_a_virtual_token() -> None:
    shape = (3, 2, 4, 5, 6)
    prefix = torch.arange(720.0).view(shape)
    there = to_peft(prefix)
    assert there.shape == (5, 144)
    assert there[1, 0] == prefix[0, 0, 0, 1, 0]  # a row a virtual token


@pytest.mark.parametrize("padding", ["longest", "max_length"])
def test_pefts_classifier_gives_our_logits(
    classifier: PrefixClassifier, material: Material, padding: str
) -> None:
    victim = classifier_of(classifier.model)
    tokenizer = plain_tokenizer(classifier.model.backbone)
    prompts = [classifier.task.render(text) for text in material.texts]
    inputs = tokenizer(prompts, padding=padding, max_length=48, return_tensors="pt")
    with torch.no_grad():
        theirs = victim(**inputs).logits
    ours = classifier.logits(list(material.texts))
    assert ours.std() > 0.05
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_pefts_language_model_gives_our_logits(
    classifier: PrefixClassifier, material: Material
) -> None:
    model = classifier.model
    peft_model = causal_lm(model.backbone, model.prefix.length)
    load_prefix(peft_model, model.prefix.tensor)
    assert torch.equal(prefix_of(peft_model, model.backbone).tensor, model.prefix.tensor)
    [row] = model.prompter.encode(material.texts[:1]).rows
    with torch.no_grad():
        scores = peft_model(torch.tensor([row])).logits[0, -1]
    torch.testing.assert_close(
        scores[model.prompter.label_tokens],
        classifier.logits(list(material.texts[:1]))[0],
        atol=1e-4,
        rtol=1e-4,
    )


@pytest.mark.parametrize("causal", [True, False], ids=["language model", "classifier"])
def test_only_the_answer_has_a_label(
    classifier: PrefixClassifier, material: Material, causal: bool
) -> None:
    prompter = classifier.model.prompter
    rows = train_speed.peft_rows(prompter, material, causal)
    words = prompter.label_tokens.tolist()
    for row, ids, label in zip(
        rows, prompter.encode(material.texts).rows, material.labels, strict=True
    ):
        if causal:
            assert row["input_ids"] == [*ids, words[label]]
            assert row["labels"] == [-100] * len(ids) + [words[label]]
        else:
            assert (row["input_ids"], row["labels"]) == (list(ids), label)
        assert row["attention_mask"] == [1] * len(row["input_ids"])


def test_an_epoch_is_timed_from_its_first_training_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the optimiser; passes that train nothing and later steps do not count."""
    now = itertools.count()
    monkeypatch.setattr(train_speed.time, "perf_counter", lambda: float(2 ** next(now)))
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    with train_speed.one_epoch(3, torch.device("cpu")) as took:
        model.eval()(torch.ones(1))
        with torch.no_grad():
            model.train()(torch.ones(1))
        assert next(now) == 0  # not looked at so far
        for _ in range(5):
            model(torch.ones(1)).sum().backward()
            optimizer.step()
        assert next(now) == 3
    model(torch.ones(1))
    optimizer.step()  # no longer listened to
    assert next(now) == 4
    assert took() == 2  # from the 2nd reading to the 3rd, at 2 and at 4


def test_all_train_and_leave_the_model_as_it_was(
    classifier: PrefixClassifier, material: Material
) -> None:
    backbone = classifier.model.backbone
    before = classifier.logits(list(material.texts))
    rows = train_speed.measure(classifier, material, Plan(1, 0, warmup=0), 2, 6)
    assert [row.contestant for row in rows] == [
        train_speed.OURS,
        train_speed.PEFT,
        train_speed.GROUPED,
        train_speed.CLASSIFIER,
    ]
    assert all(row.seconds[0] > 0 and row.items == [6] for row in rows)
    assert not any(weight.requires_grad for weight in backbone.model.parameters())
    assert torch.equal(classifier.logits(list(material.texts)), before)


def test_training_moves_pefts_prefix(classifier: PrefixClassifier, material: Material) -> None:
    backbone = classifier.model.backbone
    peft_model = causal_lm(backbone, 4)
    before = prefix_weight(peft_model).detach().clone()
    rows = train_speed.peft_rows(classifier.model.prompter, material, causal=True)
    train_speed.train_peft(peft_model, rows, backbone, 2, seed=0)
    moved = (prefix_weight(peft_model) - before).abs()
    assert moved.max() > 1e-3
    assert (moved > 0).float().mean() > 0.9  # every layer's


def test_accuracy_is_measured_by_our_classifier(
    classifier: PrefixClassifier, material: Material
) -> None:
    found = accuracy.measure(classifier, material, material, batch_size=2, steps=2, seed=0)
    assert [line["contestant"] for line in found] == [
        accuracy.OURS,
        accuracy.FROM_NOISE,
        accuracy.PEFT,
        accuracy.PEFT_SMALL,
    ]
    for line in found:
        assert (line["steps"], line["n"]) == (2, 6)
        assert line["accuracy"]["value"] == line["correct"] / 6


def test_the_score_of_a_prefix_is_that_of_its_classifier(
    backbone: CausalBackbone, classifier: PrefixClassifier, material: Material
) -> None:
    tensor = torch.randn(backbone.prefix_shape(3), generator=torch.Generator().manual_seed(5))
    prefix = Prefix(tensor, backbone.name, backbone.fingerprint)
    other = PrefixClassifier(backbone, classifier.task, prefix)
    right = sum(
        answer == classifier.task.labels[label]
        for answer, label in zip(other.predict(material.texts), material.labels, strict=True)
    )
    assert accuracy.score(classifier, prefix, material)["correct"] == right
