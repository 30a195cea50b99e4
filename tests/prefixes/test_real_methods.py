"""Soft tokens and words on the real model: before the text, and inside a template."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from robust_prefix.backbones import CausalBackbone, load_backbone
from robust_prefix.classifier import PrefixClassifier
from robust_prefix.prefixes import Prefix, build_method
from robust_prefix.prefixes.hard_prompt import HardPrompt, readable_tokens
from robust_prefix.prefixes.initial import frequent_tokens
from robust_prefix.prefixes.manual_prompt import manual_prompt
from robust_prefix.prefixes.words import nearest_words
from robust_prefix.tasks import load_task

from ..conftest import REAL

TEXTS = ["a gorgeous , witty film", "a tedious , witless film that never ends"]

pytestmark = REAL


@pytest.fixture(scope="module")
def real() -> CausalBackbone:
    """Float32: what is compared here is compared to float error."""
    return load_backbone("smollm2-135m", dtype="float32")


@pytest.mark.parametrize(
    "template",
    [
        "{text} is this review negative or positive ?",
        "{prompt:2}{text} is this{prompt:3} negative or positive ?",
    ],
    ids=["before", "inside"],
)
def test_compiled_soft_tokens_are_the_models_own_forward(
    real: CausalBackbone, template: str
) -> None:
    task = dataclasses.replace(load_task("sst2"), template=template)
    torch.manual_seed(0)
    with torch.no_grad():
        learned = build_method("prompt-tuning(length=4, init=labels)").trainable(real, task)(real)
    prefix = Prefix.of(learned, real, {"method": "prompt-tuning"})
    classifier = PrefixClassifier(real, task, prefix)
    ours = classifier.logits(TEXTS)
    assert prefix.soft_tokens is not None
    front, inner = prefix.soft_tokens[: prefix.length], prefix.soft_tokens[prefix.length :]
    table = torch.cat([real.embeddings, inner])
    words = [real.word_token(word) for word in task.label_words]
    for text, found in zip(TEXTS, ours, strict=True):
        [row] = classifier.model.prompter.encode([(text,)]).rows
        whole = torch.cat([front, table[list(row)]])[None]
        with torch.no_grad():
            theirs = real.model(inputs_embeds=whole).logits[0, -1, words]
        torch.testing.assert_close(found, theirs, atol=1e-3, rtol=1e-4)
    nearest = [row[0] for row in nearest_words(prefix, real, count=1)[:2]]
    assert [word for word, _ in nearest] == [" negative", " positive"]


def test_frequent_entries_are_pieces_of_english(real: CausalBackbone) -> None:
    words = {real.decode([token]) for token in frequent_tokens(real)}
    assert {" the", " of", " and", " people"} <= words
    assert not any(word.startswith("<|") for word in words)


@pytest.mark.parametrize(
    ("spec", "template"),
    [
        (
            "manual-prompt(text=Is the film any good?)",
            "{text} is this review negative or positive ?",
        ),
        ("autoprompt", "{text} is this review negative or positive ?"),
        ("evolved-prompt(length=0)", "{text} is this{prompt:3} negative or positive ?"),
    ],
)
def test_written_words_are_the_very_same_prompt(
    real: CausalBackbone, spec: str, template: str
) -> None:
    """Through the tokenizer alone: no prefix, no virtual tokens, only a template of words."""
    task = dataclasses.replace(load_task("sst2"), template=template)
    torch.manual_seed(0)
    prompt = build_method(spec).trainable(real, task)
    assert isinstance(prompt, HardPrompt)
    with torch.no_grad():
        prefix = Prefix.of(prompt(real), real, prompt.notes())
    written = dataclasses.replace(task, template=prefix.config["written"])
    ours = PrefixClassifier(real, task, prefix).logits(TEXTS)
    theirs = PrefixClassifier(real, written, manual_prompt(real, written)).logits(TEXTS)
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)
    assert ours.std() > 0.1


def test_readable_tokens_are_words(real: CausalBackbone) -> None:
    tokens = readable_tokens(real)
    texts = [real.decode([token]) for token in tokens]
    assert {" the", " film", " negative"} <= set(texts)
    assert len(texts) > 20_000
    assert all(text[0] == " " and text[1:].isalpha() for text in texts)
    assert not {" <|endoftext|>", "<|endoftext|>"} & set(texts)
