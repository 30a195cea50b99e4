"""White-box attacks on the real model: the zoo's prefix and real sentences."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from attacks import build_attack
from attacks.recipes.universal_triggers import UniversalTriggers
from attacks.vocabulary import read_vocabulary
from robust_prefix.classifier import PrefixClassifier
from robust_prefix.data import load_file, rows_as_fields
from robust_prefix.evaluation.protocols import Example
from robust_prefix.evaluation.trial import CountingVictim
from robust_prefix.gradients import Through
from robust_prefix.runs import ZOO

from .conftest import REAL

SHARED = Path(__file__).parents[2] / "shared" / "data"
REVIEW = ("a gorgeous , witty film",)

pytestmark = REAL


@pytest.fixture(scope="module")
def classifier() -> PrefixClassifier:
    """Float32: finite differences need it."""
    return PrefixClassifier.from_pretrained(
        "zoo:sst2-smollm2-135m", defense="none", dtype="float32"
    )


def test_the_gradient_is_the_slope_of_the_loss(classifier: PrefixClassifier) -> None:
    model = classifier.model
    [found] = classifier.gradients([REVIEW], [1])
    inputs = model.pad(model.prompter.encode([REVIEW]))
    direction = torch.from_numpy(found.gradient)
    direction = direction / direction.norm()

    def loss(step: float) -> Tensor:
        moved = type(inputs)(inputs.texts, inputs.batch, inputs.embedded + step * direction)
        with torch.no_grad():
            return cross_entropy(model.logits(moved).double(), torch.tensor([1]))

    # The embeddings' entries are of the order of 0.1.
    slope = (loss(2e-3) - loss(-2e-3)).item() / 4e-3
    assert slope == pytest.approx(float(np.linalg.norm(found.gradient)), rel=0.02)
    assert [REVIEW[0][s[1] : s[2]] for s in found.spans if s is not None] == [
        "a",
        " gorgeous",
        " ,",
        " witty",
        " film",
    ]


@pytest.mark.parametrize(("dtype", "rounding"), [("float32", 0.01), ("bfloat16", 0.2)])
def test_gradients_pass_the_tuning_in_either_type(
    classifier: PrefixClassifier, dtype: str, rounding: float
) -> None:
    if dtype == "bfloat16":
        classifier = PrefixClassifier.from_pretrained(
            "zoo:sst2-smollm2-135m", defense="none", dtype=dtype
        )
    defended = classifier.with_defense(classifier.build_defense("robust-prefix(steps=3)"))
    texts = [REVIEW, ("not worth the price of a ticket",)]
    through: list[Through] = ["fixed", "unrolled"]
    fixed, unrolled = (defended.gradients(texts, [1, 0], how) for how in through)
    for one, other in zip(fixed, unrolled, strict=True):
        assert one.tokens == other.tokens
        assert one.loss == pytest.approx(other.loss, abs=rounding)
        assert np.isfinite(other.gradient).all()
        assert np.abs(one.gradient - other.gradient).max() > 1e-3
    # 3 steps through 2 of 30 layers, thrice on the way back; then the whole model
    share = 3 * 2 / 30
    assert defended.defense.cost.backward == pytest.approx(2 * (1 + share) + 2 * (1 + 3 * share))


def test_words_of_the_real_vocabulary_come_back(classifier: PrefixClassifier) -> None:
    vocabulary = read_vocabulary(CountingVictim(classifier))
    assert len(vocabulary.spaced.texts) > 20_000
    assert {"film", "terrible", "good"} <= set(vocabulary.spaced.texts)
    assert not {"<|im_end|>", "", " "} & {*vocabulary.spaced.texts, *vocabulary.bare.texts}


@pytest.mark.parametrize("how", ["", ", place=end, borrowed=2"])
def test_a_trigger_is_found_and_hurts(classifier: PrefixClassifier, how: str) -> None:
    rows = load_file(classifier.task, ZOO / "demo_reviews.csv").select(range(6))
    texts = rows_as_fields(classifier.task, rows)
    examples = [
        Example(place, text, label)
        for place, (text, label) in enumerate(zip(texts, rows["label"], strict=True))
    ]
    attack = build_attack(
        "universal-triggers(length=1, num_candidates=3, batches=1, batch_size=2, fit_examples=4"
        f"{how})",
        classifier.task.columns,
    )
    assert isinstance(attack, UniversalTriggers)
    victim = CountingVictim(classifier)
    state = json.loads(attack.fit(victim, examples, seed=0))
    margins = []
    for label, name in enumerate(classifier.task.labels):
        own = [example.fields for example in examples if example.label == label]
        trigger = state["triggers"][name]
        before, after = (
            victim.logits(asked)[:, label] - victim.logits(asked)[:, 1 - label]
            for asked in (own, [attack.with_trigger(text, trigger) for text in own])
        )
        margins.append((before - after).mean())
    assert min(margins) > 0


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is not beside the project")
@pytest.mark.parametrize(
    ("spec", "defense"),
    [
        ("gradient-substitution", "none"),
        ("gradient-substitution(through=unrolled, verified=4)", "robust-prefix(steps=2)"),
        ("hotflip(min_cosine=0.4, beam_width=4)", "none"),
    ],
)
def test_a_real_sentence_is_attacked(classifier: PrefixClassifier, spec: str, defense: str) -> None:
    defended = classifier.with_defense(classifier.build_defense(defense))
    attack = build_attack(spec, classifier.task.columns, SHARED)
    text = ("a fascinating and fun film",)
    victim = CountingVictim(defended)
    attempt = attack.perturb(victim, text, 1, seed=0)
    assert attempt.queries == victim.queries
    assert 1 < attempt.queries <= 200
    if attempt.adversarial is not None:
        assert defended.predict([attempt.adversarial]) == ["negative"]
        changed = zip(text[0].split(), attempt.adversarial[0].split(), strict=True)
        assert 1 <= sum(old != new for old, new in changed) <= 2
