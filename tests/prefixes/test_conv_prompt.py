"""A kernel over the prompt's embeddings: its definition, its gradients, its place in a run."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from robust_prefix.backbones import CausalBackbone
from robust_prefix.classifier import PrefixClassifier
from robust_prefix.errors import ArtifactError, ConfigError
from robust_prefix.prefixes import Learned, Prefix, build_method
from robust_prefix.prefixes.peft import write_peft
from robust_prefix.tasks import Task

TEXTS = ["the film is good and warm", "the film is good and cold", "a plot"]


def kernel_prefix(backbone: CausalBackbone, width: int = 3) -> Prefix:
    generator = torch.Generator().manual_seed(3)
    kernel = 0.5 * torch.randn(width, backbone.hidden_size, generator=generator)
    nothing = torch.zeros(backbone.prefix_shape(0))
    return Prefix.of(Learned(nothing, kernel=kernel), backbone, {"method": "conv-prompt"})


def test_the_kernel_is_convolved_with_the_states_before_the_first_layer(
    backbone: CausalBackbone,
) -> None:
    """Against torch's own convolution, one dimension at a time."""
    prefix = kernel_prefix(backbone)
    assert prefix.kernel is not None
    embedded = torch.randn(2, 7, backbone.hidden_size)
    found = prefix.learned.interact(embedded)
    # conv1d slides the kernel forwards: it is turned round to look back
    weights = prefix.kernel.flip(0).T[:, None]
    padded = torch.nn.functional.pad(embedded.transpose(1, 2), (2, 0))
    expected = embedded + torch.conv1d(padded, weights, groups=backbone.hidden_size).transpose(1, 2)
    torch.testing.assert_close(found, expected)
    changed = embedded.clone()
    changed[:, 4] += 1
    difference = (prefix.learned.interact(changed) - found).abs().amax((0, 2))
    assert (difference > 0).tolist() == [False] * 4 + [True] * 3  # itself and the two after it


def test_answers_are_the_models_own(any_backbone: CausalBackbone, task: Task) -> None:
    prefix = kernel_prefix(any_backbone)
    assert prefix.kernel is not None
    classifier = PrefixClassifier(any_backbone, task, prefix)
    ours = classifier.logits(TEXTS)
    [row] = classifier.model.prompter.encode([(TEXTS[0],)]).rows
    batch = any_backbone.pad([row])
    with torch.no_grad():
        embedded = any_backbone.embed(batch, 0)
        rows = []
        for token in range(len(row)):
            rows.append(embedded[0, token].clone())
            for back in range(min(3, token + 1)):
                rows[-1] += prefix.kernel[back] * embedded[0, token - back]
        hidden = torch.stack(rows)[None]
        nothing = torch.zeros(any_backbone.prefix_shape(0))
        hidden = any_backbone.run_layers(hidden, 0, any_backbone.num_layers, batch, nothing)
        words = torch.tensor([any_backbone.word_token(word) for word in task.label_words])
        theirs = any_backbone.next_token_logits(batch.at_answer(hidden), words)
    torch.testing.assert_close(ours[:1], theirs, atol=1e-5, rtol=1e-4)
    assert (ours[0] - ours[1]).abs().max() > 1e-3
    plain = PrefixClassifier(
        any_backbone, task, dataclasses.replace(prefix, kernel=torch.zeros_like(prefix.kernel))
    )
    assert (plain.logits(TEXTS) - ours).abs().max() > 1e-2


def test_an_attackers_gradient_is_that_of_the_embeddings_before_it(
    backbone: CausalBackbone, task: Task
) -> None:
    classifier = PrefixClassifier(backbone, task, kernel_prefix(backbone))
    model = classifier.model
    [found] = classifier.gradients([TEXTS[0]], [1])
    inputs = model.pad(model.prompter.encode([(TEXTS[0],)]))
    with torch.no_grad():
        raw = model.embed(inputs.batch, 0)
        direction = torch.randn(raw.shape, generator=torch.Generator().manual_seed(0))
        losses = []
        for sign in (1, -1):
            moved = model.learned.interact(raw + sign * 1e-3 * direction)
            scores = model.logits(dataclasses.replace(inputs, embedded=moved))
            losses.append(torch.nn.functional.cross_entropy(scores, torch.tensor([1])).item())
    slope = (losses[0] - losses[1]) / 2e-3
    expected = float((torch.from_numpy(found.gradient) * direction[0]).sum())
    assert slope == pytest.approx(expected, rel=0.02)


def test_training_starts_at_the_frozen_model(backbone: CausalBackbone, task: Task) -> None:
    learned = build_method("conv-prompt(width=2)").trainable(backbone, task)(backbone)
    embedded = torch.randn(1, 3, backbone.hidden_size)
    assert torch.equal(learned.interact(embedded), embedded)
    assert learned.length == 0


def test_what_does_not_fit(backbone: CausalBackbone, task: Task, prefix: Prefix) -> None:
    method = build_method("conv-prompt(width=2)")
    with pytest.raises(ConfigError, match="a kernel of 2 tokens to start from, got one of 3"):
        method.trainable(backbone, task, kernel_prefix(backbone))
    other = dataclasses.replace(kernel_prefix(backbone), kernel=torch.zeros(3, 31))
    with pytest.raises(ArtifactError, match="32 dimensions for tiny-llama, got 31"):
        PrefixClassifier(backbone, task, other)
    with pytest.raises(ConfigError, match="PEFT has no such method"):
        write_peft(kernel_prefix(backbone), "unused")
