"""The news classifier of the zoo on the real model: four classes, and words that hold beside it."""

from __future__ import annotations

import pytest

from robust_prefix.classifier import PrefixClassifier
from robust_prefix.runs import ZOO, Run
from robust_prefix.specs import parse_composition

from .conftest import REAL

NAME = "zoo:ag_news-smollm2-135m-words"
NEWS = {
    "World": "Troops crossed the border overnight as peace talks collapsed",
    "Sports": "The striker scored twice as the home side won the cup final",
    "Business": "Stocks climbed after the central bank cut its key interest rate",
    "Sci/Tech": "A browser update patches a security hole, the software company said",
}

pytestmark = REAL


@pytest.fixture(scope="module")
def classifier() -> PrefixClassifier:
    """As it comes: behind its default defence."""
    return PrefixClassifier.from_pretrained(NAME, dtype="float32")


def test_it_comes_with_its_defence_and_a_card(classifier: PrefixClassifier) -> None:
    parts = [part.name for part in parse_composition(classifier.defense.spec)]
    assert parts == ["normalize", "word-scores", "synonyms"]
    folder = ZOO / NAME.removeprefix("zoo:")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5_000_000
    measured = Run.load(NAME).measurements
    assert f"{measured['clean_accuracy']['value']:.1%}" in (folder / "CARD.md").read_text()


def test_each_class_is_told_from_the_others(classifier: PrefixClassifier) -> None:
    assert classifier.predict(list(NEWS.values())) == list(NEWS)


def test_no_class_is_ahead_by_more_than_words_and_bound_allow(
    classifier: PrefixClassifier,
) -> None:
    """What stands behind the bounds is far surer, and each of its sums is there to be seen."""
    found = classifier.decide(list(NEWS.values()))
    free, words = (scores.topk(2).values.diff(dim=1).abs() for scores in found.unhidden)
    own = found.logits.topk(2).values.diff(dim=1).abs()
    assert (free > 2 * own).all()
    assert (words > own).any()
    assert found.revealed.labels == found.labels


def test_characters_that_look_alike_change_no_score(classifier: PrefixClassifier) -> None:
    plain = classifier.logits(list(NEWS.values()))
    # Cyrillic letters that look like those of the Latin alphabet
    edited = [text.translate(str.maketrans("aeo", "\u0430\u0435\u043e")) for text in NEWS.values()]
    assert edited != list(NEWS.values())
    assert (classifier.logits(edited) - plain).abs().max() < 1e-3
