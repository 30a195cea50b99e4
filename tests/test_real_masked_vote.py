"""Masked voting on the real model: what it promises of real sentences, tried out."""

from __future__ import annotations

import pytest
import torch

from robust_prefix.classifier import PrefixClassifier
from robust_prefix.data import load_file, rows_as_fields
from robust_prefix.defenses import MaskedVote
from robust_prefix.masks import words_of
from robust_prefix.runs import ZOO
from robust_prefix.tasks import Fields

from .conftest import REAL

pytestmark = REAL

NAME = "zoo:sst2-smollm2-135m"

OTHERS = [
    *("good", "bad", "not", "never", "best", "worst", "terrible", "wonderful", "dull", "great"),
    *("boring", "brilliant", "awful", "moving", "stupid", "no", "\u0433\u043e\u043e\u0434", "!!!"),
    *("unfortunately", "masterpiece"),
]


@pytest.fixture(scope="module")
def classifier() -> PrefixClassifier:
    return PrefixClassifier.from_pretrained(NAME, "none", dtype="float32")


@pytest.fixture(scope="module")
def texts(classifier: PrefixClassifier) -> list[Fields]:
    rows = load_file(classifier.task, ZOO / "demo_reviews.csv").select(range(8))
    return rows_as_fields(classifier.task, rows)


def test_unmasked_copies_answer_as_one(classifier: PrefixClassifier, texts: list[Fields]) -> None:
    plain = classifier.logits(texts)
    vote = classifier.with_defense(MaskedVote(copies=3, mask=0))
    assert torch.equal(vote.logits(texts).argmax(-1), plain.argmax(-1))
    mean = classifier.with_defense(MaskedVote(copies=3, mask=0, combine="mean"))
    torch.testing.assert_close(mean.logits(texts), plain.log_softmax(-1), atol=1e-3, rtol=1e-3)


def test_no_word_breaks_a_certified_sentence(texts: list[Fields]) -> None:
    """Every word of the shortest certified sentence exchanged for each of twenty others.

    In bfloat16, where a margin depends a little on the batch: the certificate allows for that.
    """
    classifier = PrefixClassifier.from_pretrained(NAME, "none", dtype="bfloat16")
    vote = classifier.with_defense(MaskedVote(copies=5, mask=0.8))
    found = vote.certify(texts)
    certified = [n for n, each in enumerate(found) if each.radius >= 1]
    assert certified, "expected a sentence with a certificate among eight"
    chosen = min(certified, key=lambda n: found[n].words)
    [text] = texts[chosen]
    attacked = [
        text[:start] + other + text[end:] for start, end in words_of(text) for other in OTHERS
    ]
    answers = set(vote.logits(attacked, batch_size=64).argmax(-1).tolist())
    assert answers == {found[chosen].label}
    # the classifier that reads the whole sentence is moved by the same words
    plain = classifier.logits([text, *attacked[: len(OTHERS)]])
    assert (plain[1:] - plain[0]).abs().max() > 1
