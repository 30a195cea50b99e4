"""Soft tokens and what they are compiled to are the same model; where they start."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from robust_prefix.backbones import CausalBackbone
from robust_prefix.data import load_split, rows_as_fields
from robust_prefix.errors import ConfigError
from robust_prefix.objectives import PrefixObjective
from robust_prefix.prefixes import build_method
from robust_prefix.prefixes.initial import FREQUENT, frequent_tokens, initial_tokens
from robust_prefix.prefixes.model import Prompter
from robust_prefix.prefixes.prompt_tuning import SoftPrompt
from robust_prefix.tasks import Task

from ..families import tiny_encoder


def soft_tokens(backbone: CausalBackbone, length: int) -> torch.Tensor:
    return torch.randn(length, backbone.hidden_size, generator=torch.Generator().manual_seed(2))


def test_compiled_tokens_are_the_models_own_forward(any_backbone: CausalBackbone) -> None:
    """``[soft tokens; text]`` through transformers' own forward, values and gradients."""
    soft = soft_tokens(any_backbone, 5)
    batch = any_backbone.pad([[5, 6, 7, 8, 9], [42, 3, 99, 1, 300]])
    text = any_backbone.model.get_input_embeddings()(batch.ids)
    direct = soft.clone().requires_grad_()
    whole = torch.cat([direct.expand(2, -1, -1), text], dim=1)
    theirs = any_backbone.model(inputs_embeds=whole).logits[:, -1]

    compiled = SoftPrompt(soft, 5)
    learned = compiled(any_backbone)
    hidden = any_backbone.embed(batch, learned.length)
    hidden = any_backbone.run_layers(hidden, 0, any_backbone.num_layers, batch, learned.tensor)
    ours = any_backbone.next_token_logits(batch.at_answer(hidden))

    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    theirs.square().sum().backward()
    ours.square().sum().backward()
    gradient = compiled.soft_tokens.grad
    assert gradient is not None
    assert gradient.abs().max() > 1e-2
    torch.testing.assert_close(gradient, direct.grad, atol=1e-3, rtol=1e-3)


def test_what_leaves_no_position_for_a_text_is_refused(backbone: CausalBackbone) -> None:
    with pytest.raises(ConfigError, match="fewer virtual tokens than the 256 positions"):
        backbone.compile(torch.zeros(256, backbone.hidden_size))


def start_of(backbone: CausalBackbone, task: Task, spec: str, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    module = build_method(spec).trainable(backbone, task)
    assert isinstance(module, SoftPrompt)
    return module.soft_tokens.detach()


def test_uniform_starts_in_a_box(backbone: CausalBackbone, task: Task) -> None:
    start = start_of(backbone, task, "prompt-tuning(length=50, init=uniform)")
    assert start.shape == (50, backbone.hidden_size)
    assert start.min() >= -0.5
    assert start.max() <= 0.5
    assert start.std() == pytest.approx(12**-0.5, rel=0.05)


def rows_of(backbone: CausalBackbone, start: torch.Tensor) -> list[int]:
    """The token that each row is the embedding of."""
    same = (start[:, None] == backbone.embeddings[None]).all(-1)
    assert same.any(1).all()
    return same.float().argmax(1).tolist()


def test_labels_are_filled_up_with_frequent_entries(backbone: CausalBackbone, task: Task) -> None:
    start = start_of(backbone, task, "prompt-tuning(length=8, init=labels)")
    tokens = rows_of(backbone, start)
    assert tokens[:2] == [backbone.word_token(word) for word in task.label_words]
    frequent = set(frequent_tokens(backbone))
    assert set(tokens[2:]) <= frequent
    assert len(set(tokens[2:])) == 6
    other = rows_of(backbone, start_of(backbone, task, "prompt-tuning(length=8, init=labels)", 1))
    assert other[:2] == tokens[:2]
    assert other[2:] != tokens[2:]


def test_a_text_is_repeated(backbone: CausalBackbone, task: Task) -> None:
    start = start_of(backbone, task, "prompt-tuning(length=6, init=text, init_text=good and)")
    [whole] = backbone.tokenize(["good and good and good and"])
    assert len(whole) > 6
    assert rows_of(backbone, start) == whole[:6]


def test_by_default_it_starts_from_the_template(backbone: CausalBackbone, task: Task) -> None:
    tokens = rows_of(backbone, start_of(backbone, task, "prompt-tuning(length=6)"))
    assert backbone.decode(tokens) == " is this review negative or positive"


def test_frequent_is_low_in_the_order_of_merges(backbone: CausalBackbone) -> None:
    tokens = frequent_tokens(backbone)
    assert backbone.tokenizer.eos_token_id not in tokens
    assert tokens == sorted(tokens)
    assert len(tokens) == min(FREQUENT, len(backbone.tokenizer) - 1)


def test_more_than_there_is_comes_twice(backbone: CausalBackbone, task: Task) -> None:
    size = len(frequent_tokens(backbone))
    drawn = initial_tokens(backbone, task, "vocabulary", size + 10)
    assert len(drawn) == size + 10
    assert set(drawn[:size]) == set(frequent_tokens(backbone))


def test_prefix_tuning_starts_from_the_same_tokens(backbone: CausalBackbone, task: Task) -> None:
    torch.manual_seed(0)
    module = build_method("prefix-tuning(length=5, init=labels)").trainable(backbone, task)
    soft = start_of(backbone, task, "prompt-tuning(length=5, init=labels)")
    with torch.no_grad():
        torch.testing.assert_close(module(backbone).tensor, backbone.compile(soft))


@pytest.mark.parametrize("spec", ["prompt-tuning(length=0)", "p-tuning(length=0, encoder=mlp)"])
def test_inside_the_template_an_encoder_has_soft_tokens_too(task: Task, spec: str) -> None:
    """P-tuning was made for these: nothing stands before the text, so nothing is compiled."""
    encoder = tiny_encoder("bert")
    task = replace(task, template="{text} it was{prompt:3} {mask} .")
    module = build_method(spec).trainable(encoder, task)
    prompter = Prompter(encoder, task)
    objective = PrefixObjective(prompter, module)
    rows = load_split(task, "train").select(range(6, 14))
    batch = encoder.pad(prompter.encode(rows_as_fields(task, rows)).rows)
    optimizer = torch.optim.Adam(objective.parameters(), 0.3)
    losses = []
    for _ in range(20):
        found = objective(
            batch.ids, batch.answer, torch.tensor(rows["label"]), lengths=batch.lengths
        )
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        losses.append(found["loss"].item())
    assert min(losses) < 0.95 * losses[0]
    learned = module(encoder)
    assert learned.length == 0
    assert learned.inner_tokens is not None
    assert len(learned.inner_tokens) == 3
