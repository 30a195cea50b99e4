"""Texts that share a beginning are scored as each would be alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from robust_prefix.backbones import CausalBackbone
from robust_prefix.classifier import PrefixClassifier
from robust_prefix.data import token_batches
from robust_prefix.prefixes import Encoded, Prefix, PrefixModel, plain_scores, scoring
from robust_prefix.prefixes.scoring import Beginnings, shared_beginning
from robust_prefix.tasks import Fields, Task

from .conftest import tiny_backbone

TEXT = "the film is good and the cast is warm but its plot is dull and cold"
WORDS = TEXT.split()


def _candidates(words: list[str]) -> list[Fields]:
    """Each word in turn replaced, as an attack that ranks words asks."""
    return [
        (" ".join([*words[:place], "bright", *words[place + 1 :]]),) for place in range(len(words))
    ]


def _alone(model: PrefixModel, texts: list[Fields]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model.logits(model.pad(model.prompter.encode([t]))) for t in texts])


def test_shared_beginnings_change_no_score(any_backbone: CausalBackbone, task: Task) -> None:
    generator = torch.Generator().manual_seed(1)
    tensor = torch.randn(any_backbone.prefix_shape(4), generator=generator)
    prefix = Prefix(tensor, any_backbone.name, any_backbone.fingerprint)
    model = PrefixModel(any_backbone, task, prefix)
    texts = [*_candidates(WORDS), (TEXT,), _candidates(WORDS)[3], ("warm",)]
    encoded = model.prompter.encode(texts)
    _, shared = shared_beginning(encoded.rows)
    assert sum(shared) > 0.3 * sum(map(len, encoded.rows)), "nothing was shared"
    expected = _alone(model, texts)
    assert expected.std() > 0.05
    for batch_size in (1, 32):
        torch.testing.assert_close(
            plain_scores(model, encoded, batch_size), expected, atol=2e-4, rtol=1e-3
        )


def test_texts_that_fit_alone_fit_together(tokenizer: PreTrainedTokenizerFast, task: Task) -> None:
    """One shares nearly all of a long text and another nothing, in one batch; the model has as
    many learned positions as either needs."""
    backbone = tiny_backbone("gpt2", tokenizer)
    generator = torch.Generator().manual_seed(1)
    tensor = torch.randn(backbone.prefix_shape(4), generator=generator)
    prefix = Prefix(tensor, backbone.name, backbone.fingerprint)
    model = PrefixModel(backbone, dataclasses.replace(task, max_tokens=200), prefix)
    lead = " ".join(WORDS * 9)
    texts: list[Fields] = [(f"{lead} {word}",) for word in WORDS[:6]]
    texts.append((" ".join(WORDS[::-1] * 9),))
    encoded = model.prompter.encode(texts)
    assert max(map(len, encoded.rows)) * 2 > backbone.max_positions
    torch.testing.assert_close(
        plain_scores(model, encoded), _alone(model, texts), atol=2e-4, rtol=1e-3
    )


def test_less_work_is_counted(model: PrefixModel) -> None:
    texts = _candidates(WORDS)
    passes = model.backbone.passes
    passes.reset()
    plain_scores(model, model.prompter.encode(texts))
    shared = passes.forward
    passes.reset()
    plain_scores(model, model.prompter.encode([*texts, *texts, *texts]))
    assert shared < 0.75 * len(texts)
    assert passes.forward == pytest.approx(shared), "equal texts were run again"
    passes.reset()
    different: list[Fields] = [("warm film",), ("dull plot , flat cast",), ("a bright start",)]
    plain_scores(model, model.prompter.encode(different))
    assert passes.forward == pytest.approx(3)


def test_a_beginning_is_kept_for_the_next_call(
    model: PrefixModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "beginnings", Beginnings())
    first = model.prompter.encode(_candidates(WORDS))
    later = model.prompter.encode(_candidates([*WORDS[:-1], "flat"]))
    expected = _alone(model, list(later.texts))
    plain_scores(model, first)
    passes = model.backbone.passes
    passes.reset()
    torch.testing.assert_close(plain_scores(model, later), expected, atol=2e-4, rtol=1e-3)
    warm = passes.forward
    monkeypatch.setattr(model, "beginnings", None)
    passes.reset()
    plain_scores(model, later)
    assert 0 < warm < passes.forward - 0.5, "the beginning was run again"


def test_so_many_tokens_are_kept_and_no_more(
    model: PrefixModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_KEPT_TOKENS", 60)
    kept = Beginnings()
    monkeypatch.setattr(model, "beginnings", kept)
    for number in range(9):
        texts = _candidates([f"{number * 7919}", *WORDS])
        found = plain_scores(model, model.prompter.encode(texts))
        torch.testing.assert_close(found, _alone(model, texts), atol=2e-4, rtol=1e-3)
        assert 1 <= len(list(kept)) < 20


def test_outside_an_attack_a_text_has_one_answer_to_the_last_bit(model: PrefixModel) -> None:
    classifier = PrefixClassifier(model.backbone, model.task, model.prefix)
    texts = [text for (text,) in _candidates(WORDS)]
    first = classifier.logits([TEXT])
    classifier.logits(texts)
    assert torch.equal(classifier.logits([TEXT]), first)
    with classifier.remembering():
        classifier.logits(texts)
        assert torch.allclose(classifier.logits([TEXT]), first, atol=2e-4)
    assert torch.equal(classifier.logits([TEXT]), first)


rows = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=9).map(tuple), min_size=1, max_size=12
)


@settings(deadline=None)
@given(rows)
def test_a_row_has_the_beginning_it_is_said_to_have(rows: list[tuple[int, ...]]) -> None:
    first, shared = shared_beginning(rows)
    assert len(shared) == len(rows)
    for row, count in zip(rows, shared, strict=True):
        assert row[:count] == first[:count]
        assert 0 <= count < len(row)
    if first:
        assert sum(shared) - len(first) >= 0.1 * sum(map(len, rows))
    else:
        assert sum(shared) == 0
    again, known = shared_beginning(rows, [(0, 1, 2, 0), rows[0], (2,)])
    for row, count in zip(rows, known, strict=True):
        assert row[:count] == again[:count]
        assert 0 <= count < len(row)
    assert sum(known) >= sum(shared) - len(first)


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 60))
def test_batches_keep_to_their_tokens(lengths: list[int], tokens: int) -> None:
    batches = token_batches(lengths, tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[index] for index in batch)
        assert len(batch) == 1 or len(batch) * longest <= tokens
        assert longest == lengths[batch[0]]


def test_an_empty_call_has_no_scores(model: PrefixModel) -> None:
    assert plain_scores(model, Encoded((), (), ())).shape == (0, 2)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_text_too_long_is_still_refused(
    kind: str, tokenizer: PreTrainedTokenizerFast, task: Task
) -> None:
    from robust_prefix.errors import InputError

    backbone = tiny_backbone(kind, tokenizer)
    prefix = Prefix(torch.zeros(backbone.prefix_shape(250)), backbone.name, backbone.fingerprint)
    model = PrefixModel(backbone, task, prefix)
    with pytest.raises(InputError, match="at most 256 positions"):
        plain_scores(model, model.prompter.encode(_candidates(WORDS)))
