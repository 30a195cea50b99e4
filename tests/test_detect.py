"""The defence that abstains: what it refuses, what that costs, and what an attacker sees of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from robust_prefix.classifier import PrefixClassifier
from robust_prefix.data import load_split, rows_as_fields
from robust_prefix.defenses import Detect, Fitted, NoDefense, build_defense
from robust_prefix.detection import SCORES, Detectors, as_attacked
from robust_prefix.errors import ArtifactError, ConfigError
from robust_prefix.evaluation.accuracy import measure_accuracy
from robust_prefix.evaluation.trial import CountingVictim
from robust_prefix.prefixes import PrefixModel
from robust_prefix.runs import Run
from robust_prefix.subspaces import Subspaces
from robust_prefix.tasks import Fields, Task


@pytest.fixture(scope="module")
def texts(task: Task) -> list[Fields]:
    return rows_as_fields(task, load_split(task, "dev"))


def built(spec: str, detectors: Detectors, spaces: Subspaces | None = None) -> Detect:
    defense = build_defense(spec, Fitted(spaces, detectors=detectors))
    assert isinstance(defense, Detect)
    return defense


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("fpr", [0.1, 0.4])
def test_so_many_clean_texts_are_refused(
    model: PrefixModel, detectors: Detectors, texts: list[Fields], score: str, fpr: float
) -> None:
    defense = built(f"detect(score={score}, fpr={fpr})", detectors)
    decisions = defense.decide(model, texts)
    clean = detectors.get(score).clean
    ties = (clean == detectors.get(score).threshold(fpr)).sum().item()
    share = decisions.abstained.float().mean().item()
    assert fpr - (ties + 1) / (len(texts) + 1) <= share <= fpr
    torch.testing.assert_close(decisions.logits, NoDefense().logits(model, texts))
    assert decisions.excess is not None
    if decisions.excess.median() != decisions.excess.max():
        assert decisions.excess.median().item() == pytest.approx(-1, abs=0.05)


def test_answers_are_those_of_what_is_wrapped(
    model: PrefixModel, detectors: Detectors, spaces: Subspaces, texts: list[Fields]
) -> None:
    for inner in ("normalize+projection", "masked-vote(copies=3)"):
        defense = built(f"detect(fpr=0.2)+{inner}", detectors, spaces)
        wanted = build_defense(inner, Fitted(spaces)).logits(model, texts)
        torch.testing.assert_close(defense.decide(model, texts).logits, wanted)
        torch.testing.assert_close(defense.logits(model, texts), wanted)


@pytest.mark.parametrize(
    ("spec", "passes"),
    [
        pytest.param("detect", 1.0, id="answer-and-states-of-one-pass"),
        pytest.param("detect+projection", 2.0, id="one-more-before-another-defence"),
    ],
)
def test_costs_are_counted(
    model: PrefixModel, detectors: Detectors, spaces: Subspaces, spec: str, passes: float
) -> None:
    defense = built(spec, detectors, spaces)
    defense.decide(model, [("the film is good",), ("the plot is bad and dull",)])
    assert defense.cost.forward == pytest.approx(2 * passes, rel=0.05)


def test_decisions_do_not_depend_on_the_batch(
    model: PrefixModel, detectors: Detectors, texts: list[Fields]
) -> None:
    defense = built("detect(fpr=0.3)", detectors)
    together = defense.decide(model, texts)
    assert together.excess is not None
    for place in range(6):
        alone = defense.decide(model, [texts[place]], 1)
        assert alone.excess is not None
        torch.testing.assert_close(together.excess[place], alone.excess[0], atol=1e-3, rtol=1e-3)
        assert together.labels[place] == alone.labels[0]


def test_the_threshold_is_in_the_spec_and_rebuilds_the_detector(detectors: Detectors) -> None:
    defense = built("detect(score=margin, fpr=0.2)+normalize", detectors)
    assert f"threshold={defense.threshold}" in defense.spec
    assert build_defense(defense.spec, Fitted(detectors=detectors)).spec == defense.spec
    assert built("detect(threshold=3)", detectors).threshold == 3


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        pytest.param("normalize+detect", "'detect' before 'normalize'", id="not outermost"),
        pytest.param("gate+detect", "'detect' before 'gate'", id="behind a gate"),
        pytest.param("detect(score=mahalanobs)", "did you mean 'mahalanobis'", id="typo"),
        pytest.param("detect(fpr=0)", "valid fpr", id="no rate"),
        pytest.param("detect(fpr=0.01)", "at least 99 dev texts", id="dev too small"),
        pytest.param("detect+detect", "each defence once", id="twice"),
    ],
)
def test_what_cannot_be_built_is_explained(
    detectors: Detectors, spaces: Subspaces, spec: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_defense(spec, Fitted(spaces, detectors=detectors))


def test_without_detectors_it_says_what_to_run() -> None:
    with pytest.raises(ArtifactError, match="fit-detectors"):
        build_defense("detect")


def test_detectors_of_another_prefix_are_refused(
    model: PrefixModel, detectors: Detectors, texts: list[Fields]
) -> None:
    other = Detectors(detectors.scores, detectors.base_fingerprint, "another")
    with pytest.raises(ArtifactError, match="fit-detectors on this run"):
        built("detect", other).decide(model, texts[:1])


def classifier_of(model: PrefixModel, detectors: Detectors, spec: str) -> PrefixClassifier:
    fitted = Fitted(detectors=detectors)
    defense = build_defense(spec, fitted)
    return PrefixClassifier(model.backbone, model.task, model.prefix, defense, fitted)


def test_a_classifier_says_none_where_it_abstains(
    model: PrefixModel, detectors: Detectors, texts: list[Fields], tmp_path: Path
) -> None:
    classifier = classifier_of(model, detectors, "detect(fpr=0.4)")
    asked = [text for (text,) in texts]
    refused = classifier.decide(asked).abstained.tolist()
    assert any(refused)
    assert not all(refused)
    assert [label is None for label in classifier.predict(asked)] == refused
    assert [found.abstained for found in classifier.classify(asked)] == refused
    classifier.save_pretrained(tmp_path)
    again = Run.load(tmp_path)
    assert again.detectors is not None
    assert again.defense == classifier.defense.spec


def test_a_refused_text_is_no_right_answer(
    model: PrefixModel, detectors: Detectors, task: Task
) -> None:
    rows = load_split(task, "dev")
    defense = built("detect(fpr=0.4)", detectors)
    decisions = defense.decide(model, rows_as_fields(task, rows))
    right = decisions.logits.argmax(-1) == torch.tensor(rows["label"])
    wanted = (right & ~decisions.abstained).sum().item()
    assert measure_accuracy(model, rows, defense).correct == wanted < right.sum().item()


def test_an_attack_meets_the_detector(
    model: PrefixModel, detectors: Detectors, texts: list[Fields]
) -> None:
    classifier = classifier_of(model, detectors, "detect(fpr=0.4)")
    decisions = classifier.decide(texts)
    for label in (0, 1):
        shown = CountingVictim(classifier, label).logits(texts)
        fooled = (decisions.logits.argmax(-1) != label) & ~decisions.abstained
        assert (shown.argmax(1) != label).tolist() == fooled.tolist()
        assert fooled.any() or label
    plain = CountingVictim(classifier).logits(texts)
    np.testing.assert_array_equal(plain, decisions.logits.numpy())


@pytest.mark.parametrize("score", ["mahalanobis", "density", "residual", "margin"])
def test_gradients_are_of_whatever_stands_in_the_way(
    model: PrefixModel, detectors: Detectors, texts: list[Fields], score: str
) -> None:
    """Against finite differences of the loss, along the embeddings' own gradient."""
    defense = built(f"detect(score={score}, fpr=0.5)", detectors)
    for label in (0, 1):
        decisions = defense.decide(model, texts)
        shown = as_attacked(decisions, [label] * len(texts), "misclassify")
        raised = (shown != decisions.logits).any(-1)
        found = defense.gradients(model, texts, [label] * len(texts))
        plain = NoDefense().gradients(model, texts, [label] * len(texts))
        losses = torch.nn.functional.cross_entropy(
            shown, torch.full((len(texts),), label), reduction="none"
        )
        for place, (ours, theirs) in enumerate(zip(found, plain, strict=True)):
            same = np.allclose(ours.gradient, theirs.gradient, rtol=1e-3, atol=1e-6)
            assert ours.loss == pytest.approx(losses[place].item(), abs=2e-3)
            if not raised[place]:
                assert same
            elif abs(ours.gradient).max() > 1e-4 and score != "margin":
                assert not same


def test_of_a_score_without_a_gradient_that_of_the_answer_is_given(
    model: PrefixModel, detectors: Detectors, texts: list[Fields]
) -> None:
    labels = [0] * 4
    found = built("detect(score=frequency, fpr=0.4)", detectors).gradients(model, texts[:4], labels)
    plain = NoDefense().gradients(model, texts[:4], labels)
    for ours, theirs in zip(found, plain, strict=True):
        np.testing.assert_array_equal(ours.gradient, theirs.gradient)
