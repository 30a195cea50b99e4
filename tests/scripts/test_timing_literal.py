"""The literal implementation gives our answers: the paper's setting, run as it was published."""

from __future__ import annotations

import pytest
import torch

from robust_prefix.classifier import PrefixClassifier
from robust_prefix.errors import ConfigError
from timing.equality import literal_differences
from timing.literal import Literal, Sensible
from timing.material import Material


@pytest.mark.parametrize("kind", [Literal, Sensible], ids=["literal", "sensible"])
@pytest.mark.parametrize("count", [1, 4])
def test_it_gives_the_logits_of_our_batch_mode(
    classifier: PrefixClassifier, material: Material, kind: type[Literal], count: int
) -> None:
    assert classifier.subspaces is not None
    texts = list(material.texts[:count])
    defense = classifier.build_defense("robust-prefix(mode=batch)")
    ours = classifier.with_defense(defense).logits(texts, batch_size=count)
    theirs = kind(classifier.model, classifier.subspaces).logits(texts)
    assert theirs.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)
    assert (ours - classifier.logits(texts)).abs().max() > 0.05  # it does something


def test_what_is_compared_is_the_setting(classifier: PrefixClassifier, material: Material) -> None:
    """Another number of steps is another answer: the equality above could fail."""
    assert classifier.subspaces is not None
    texts = list(material.texts[:4])
    ten = Literal(classifier.model, classifier.subspaces).logits(texts)
    nine = Literal(classifier.model, classifier.subspaces, steps=9).logits(texts)
    assert (ten - nine).abs().max() > 1e-2


def test_differences_are_told_by_name(classifier: PrefixClassifier, material: Material) -> None:
    found = literal_differences(classifier, material, sizes=(1, 3))
    assert list(found) == [
        "literal, batch 1",
        "literal, no vocabulary, batch 1",
        "literal, batch 3",
        "literal, no vocabulary, batch 3",
    ]
    assert max(found.values()) < 1e-3


def test_the_last_layer_is_refused(classifier: PrefixClassifier) -> None:
    """The library returns its states normed: the loss would be another."""
    from timing.growth import resized

    deep = resized(classifier, classifier.model.prefix.length, 4)
    assert deep.subspaces is not None
    with pytest.raises(ConfigError, match="expected subspaces of layers below 3, got one of 3"):
        Literal(deep.model, deep.subspaces)
