"""Prefixes at chosen layers, and what a prefix starts from."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from robust_prefix.backbones import CausalBackbone
from robust_prefix.configs import PrefixTuningConfig
from robust_prefix.errors import ConfigError
from robust_prefix.prefixes import Learned, Prefix, PrefixModel, build_method, plain_scores
from robust_prefix.prefixes.initial import mean_activations
from robust_prefix.prefixes.peft import write_peft
from robust_prefix.prefixes.prefix_tuning import chosen_rows, initial_prefix
from robust_prefix.tasks import Fields, Task

TEXTS: list[Fields] = [("the film is good and warm",), ("the film is good and cold",), ("a plot",)]


def prefix_at(backbone: CausalBackbone, layers: tuple[int, ...] | None, length: int = 4) -> Prefix:
    generator = torch.Generator().manual_seed(1)
    tensor = torch.randn(backbone.prefix_shape(length), generator=generator)
    return Prefix.of(Learned(tensor, layers=layers), backbone, {})


def logits(model: PrefixModel) -> torch.Tensor:
    return plain_scores(model, model.prompter.encode(TEXTS))


def _masked_logits(backbone: CausalBackbone, task: Task, prefix: Prefix) -> torch.Tensor:
    """The same through masks: every layer has the keys, and some hide them from the text."""
    assert prefix.layers is not None
    rows = PrefixModel(backbone, task, prefix).prompter.encode(TEXTS).rows
    batch = backbone.pad(rows)
    hidden = backbone.embed(batch, prefix.length)
    nothing_seen = torch.zeros(len(rows), dtype=torch.long)
    for layer in range(backbone.num_layers):
        # Positions from 0 instead of from the prefix's end: only distances count in a rotary model.
        seen = None if layer in prefix.layers else nothing_seen
        hidden = backbone.run_layers(hidden, layer, layer + 1, batch, prefix.tensor, seen)
    words = torch.tensor([backbone.word_token(word) for word in task.label_words])
    return backbone.next_token_logits(batch.at_answer(hidden), words)


@pytest.mark.parametrize("layers", [(0,), (2,), (0, 2)])
def test_other_layers_do_not_see_the_prefix(
    any_backbone: CausalBackbone, task: Task, layers: tuple[int, ...]
) -> None:
    prefix = prefix_at(any_backbone, layers)
    with torch.no_grad():
        found = logits(PrefixModel(any_backbone, task, prefix))
        expected = _masked_logits(any_backbone, task, prefix)
        everywhere = logits(PrefixModel(any_backbone, task, prefix_at(any_backbone, None)))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    assert (found - everywhere).abs().max() > 1e-2


def test_what_other_layers_hold_counts_for_nothing(backbone: CausalBackbone, task: Task) -> None:
    prefix = prefix_at(backbone, (1,))
    tensor = prefix.tensor.clone()
    tensor[0] = tensor[2] = 7.0
    changed = replace(prefix, tensor=tensor)
    assert torch.equal(
        logits(PrefixModel(backbone, task, changed)), logits(PrefixModel(backbone, task, prefix))
    )


def test_the_layers_are_part_of_the_prefix(backbone: CausalBackbone, tmp_path: Path) -> None:
    prefix = prefix_at(backbone, (1, 2))
    prefix.save(tmp_path / "prefix.safetensors")
    loaded = Prefix.load(tmp_path / "prefix.safetensors")
    assert loaded.layers == (1, 2)
    assert loaded.fingerprint == prefix.fingerprint
    assert prefix_at(backbone, (0, 2)).fingerprint != prefix.fingerprint
    assert prefix.parameters == prefix.tensor[:2].numel()
    with pytest.raises(ConfigError, match=r"in every layer, as PEFT has it, got .* \(1, 2\)"):
        write_peft(prefix, tmp_path)


@pytest.mark.parametrize(
    ("text", "layers"),
    [("all", None), ("0-2", None), ("1", (1,)), ("2/0", (0, 2)), ("0-1/1-1", (0, 1))],
)
def test_layers_are_named(
    backbone: CausalBackbone, text: str, layers: tuple[int, ...] | None
) -> None:
    assert chosen_rows(build_method(f"prefix-tuning(layers={text})").config, backbone) == layers


@pytest.mark.parametrize("text", ["3", "0-9", "2-1"])
def test_layers_that_are_not_there(backbone: CausalBackbone, text: str) -> None:
    with pytest.raises(ConfigError, match="layers of 0 to 2 for tiny-llama, got"):
        chosen_rows(PrefixTuningConfig(layers=text), backbone)


@pytest.mark.parametrize("text", ["first", "-1", "1-", "1/", "0..2"])
def test_layers_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ConfigError, match="a valid layers for prefix-tuning"):
        build_method(f"prefix-tuning(layers={text})")


def test_one_goes_on_in_the_same_layers(backbone: CausalBackbone, task: Task) -> None:
    method = build_method("prefix-tuning(length=4, layers=1-2)")
    with pytest.raises(ConfigError, match="in the layers '1-2' to start from, got one in all"):
        method.trainable(backbone, task, prefix_at(backbone, None))


def test_only_the_chosen_layers_are_parameters(backbone: CausalBackbone, task: Task) -> None:
    module = build_method("prefix-tuning(length=4, layers=0/2)").trainable(backbone, task)
    [parameter] = module.parameters()
    assert parameter.shape == (2, *backbone.prefix_shape(4)[1:])
    learned = module(backbone)
    assert learned.layers == (0, 2)
    assert torch.equal(learned.tensor[[0, 2]], parameter)
    assert learned.tensor[1].abs().max() == 0


def test_activations_are_means_over_demonstrations(
    any_backbone: CausalBackbone, task: Task, tmp_path: Path
) -> None:
    """One text of class 0 and two of class 1: the mean of two demonstrations, by hand."""
    texts = [("the plot is dull", 0), ("a warm film", 1), ("a fine story", 1)]
    (tmp_path / "train.csv").write_text("")
    with (tmp_path / "train.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *texts])
    own = replace(task, splits={"train": "train.csv"}, data_dir=tmp_path)
    found = initial_prefix(any_backbone, own, PrefixTuningConfig(length=7, init="activations"))
    by_hand = []
    for positive in ("a warm film", "a fine story"):
        tokens: list[int] = []
        for text, word, share in (("the plot is dull", " negative", 3), (positive, " positive", 4)):
            [row] = any_backbone.tokenize([own.render((text,))])
            tokens += [*row, any_backbone.word_token(word)][-share:]
        text = any_backbone.pad([tokens])
        nothing = torch.zeros(any_backbone.prefix_shape(0))
        with torch.no_grad():
            by_hand.append(any_backbone.record(any_backbone.embed(text, 0), nothing)[:, 0])
    expected = torch.stack(by_hand).mean(0)
    assert found.shape == any_backbone.prefix_shape(7)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_activations_of_more_tokens_than_texts_have(backbone: CausalBackbone, task: Task) -> None:
    assert mean_activations(backbone, task, 100).shape == backbone.prefix_shape(100)
    assert mean_activations(backbone, task, 1).shape == backbone.prefix_shape(1)


def test_activations_need_texts_of_each_class(
    backbone: CausalBackbone, task: Task, tmp_path: Path
) -> None:
    (tmp_path / "train.csv").write_text("text,label\ngood,1\n")
    own = replace(task, splits={"train": "train.csv"}, data_dir=tmp_path)
    with pytest.raises(ConfigError, match="init=activations, got none of 'negative'"):
        mean_activations(backbone, own, 4)
