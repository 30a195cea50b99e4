"""Views of a frozen model with changes: each against the model's own forward, side by side."""

from __future__ import annotations

import copy
import dataclasses
import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from transformers import PreTrainedTokenizerFast

from robust_prefix.backbones import ACTIVATIONS, Adapters, Backbone
from robust_prefix.errors import ArtifactError

from .conftest import BUILDERS, tiny_backbone
from .families import ENCODER_BUILDERS, SEQ2SEQ_BUILDERS, tiny_encoder, tiny_seq2seq

Build = Callable[[], Backbone]
FAMILIES = [*BUILDERS, *ENCODER_BUILDERS, *SEQ2SEQ_BUILDERS]


@pytest.fixture
def build(tokenizer: PreTrainedTokenizerFast) -> Callable[[str], Backbone]:
    """A tiny model of any architecture."""

    def built(kind: str) -> Backbone:
        if kind in BUILDERS:
            return tiny_backbone(kind, tokenizer)
        return tiny_encoder(kind) if kind in ENCODER_BUILDERS else tiny_seq2seq(kind)

    return built


def adapters_for(backbone: Backbone, seed: int = 0, **settings: Any) -> Adapters:
    """Random ones at every place, large enough to change answers."""
    places = tuple(
        (layer, name) for layer in range(backbone.num_layers) for name in backbone.sublayers(layer)
    )
    generator = torch.Generator().manual_seed(seed)
    hidden, width = backbone.hidden_size, 5
    down = torch.randn(len(places), width, hidden + 1, generator=generator)
    up = torch.randn(len(places), hidden, width + 1, generator=generator) * 0.3
    return Adapters(down, up, places, **settings)


def other_weights(backbone: Backbone, seed: int = 0) -> dict[str, Tensor]:
    """Every weight of the model, moved a little."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: weight.detach() + 0.1 * torch.randn(weight.shape, generator=generator)
        for name, weight in backbone.model.named_parameters()
    }


class Behind(nn.Module):
    """A sublayer with an adapter behind it, written out."""

    def __init__(self, inner: nn.Module, down: Tensor, up: Tensor) -> None:
        super().__init__()
        self.inner, self.down, self.up = inner, down, up

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, *arguments: Any, **named: Any) -> Any:
        output = self.inner(*arguments, **named)
        first = output[0] if isinstance(output, tuple) else output
        ones = torch.ones(*first.shape[:-1], 1)
        narrow = gelu(torch.cat([first, ones], -1) @ self.down.T)
        first = first + torch.cat([narrow, ones], -1) @ self.up.T
        return (first, *output[1:]) if isinstance(output, tuple) else first


def own_scores(backbone: Backbone, model: Any, ids: Tensor) -> Tensor:
    """``transformers``' own forward over one text: scores of all words at the answer position."""
    if backbone.model.config.is_encoder_decoder:
        start = torch.tensor([[backbone.model.config.decoder_start_token_id]])
        return model(input_ids=ids, decoder_input_ids=start).logits[0, -1]
    return model(ids).logits[0, -1 if backbone.causal else backbone.answer_place(ids[0].tolist())]


def scores(backbone: Backbone, rows: list[list[int]]) -> Tensor:
    """Ours, the layers in pieces as a defence runs them."""
    batch = backbone.pad(rows)
    nothing = torch.zeros(backbone.prefix_shape(0))
    with torch.no_grad():
        hidden = backbone.run_layers(backbone.embed(batch, 0), 0, 1, batch, nothing)
        return backbone.next_token_logits(backbone.run_to_answer(hidden, 1, batch, nothing))


ROWS = [[2, 30, 31, 4, 33, 34, 3], [2, 35, 4, 36, 3], [2, 4, 3]]


@pytest.mark.parametrize("kind", FAMILIES)
def test_adapters_stand_behind_each_sublayer(build: Callable[[str], Backbone], kind: str) -> None:
    backbone = build(kind)
    adapters = adapters_for(backbone)
    theirs = copy.deepcopy(backbone)
    for (layer, name), down, up in zip(adapters.places, adapters.down, adapters.up, strict=True):
        inner = theirs.sublayers(layer)[name]
        for parent in list(theirs.model.modules()):
            for child, module in list(parent.named_children()):
                if module is inner:
                    setattr(parent, child, Behind(inner, down, up))
    before = scores(backbone, ROWS)
    ours = scores(backbone.adapted({}, adapters), ROWS)
    with torch.no_grad():
        for row, found in zip(ROWS, ours, strict=True):
            expected = own_scores(backbone, theirs.model, torch.tensor([row]))
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (ours - before).abs().max() > 0.05
    assert torch.equal(scores(backbone, ROWS), before)


@pytest.mark.parametrize("kind", FAMILIES)
def test_other_weights_are_another_model(build: Callable[[str], Backbone], kind: str) -> None:
    """Tied weights are in both their places."""
    backbone = build(kind)
    weights = other_weights(backbone)
    theirs = copy.deepcopy(backbone.model)
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            weight.copy_(weights[name])
    before = scores(backbone, ROWS)
    ours = scores(backbone.adapted(weights, None), ROWS)
    with torch.no_grad():
        for row, found in zip(ROWS, ours, strict=True):
            expected = own_scores(backbone, theirs, torch.tensor([row]))
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (ours - before).abs().max() > 0.05
    assert torch.equal(scores(backbone, ROWS), before)


def test_views_stand_beside_each_other(backbone: Backbone) -> None:
    one, two = adapters_for(backbone, 1), adapters_for(backbone, 2)
    weights = other_weights(backbone)
    frozen = scores(backbone, ROWS)
    alone = [scores(backbone.adapted({}, each), ROWS) for each in (one, two)]
    alone.append(scores(backbone.adapted(weights, one), ROWS))
    views = [
        backbone.adapted({}, one),
        backbone.adapted({}, two),
        backbone.adapted(weights, one),
    ]
    for _ in range(2):  # in turn, a layer of one after a layer of the other
        for view, expected in zip(views, alone, strict=True):
            assert torch.equal(scores(view, ROWS), expected)
        assert torch.equal(scores(backbone, ROWS), frozen)
    batch = backbone.pad(ROWS)
    nothing = torch.zeros(backbone.prefix_shape(0))
    states = [view.embed(batch, 0) for view in views]
    for layer in range(backbone.num_layers):
        states = [
            view.run_layers(hidden, layer, layer + 1, batch, nothing)
            for view, hidden in zip(views, states, strict=True)
        ]
    for view, hidden, expected in zip(views, states, alone, strict=True):
        found = view.next_token_logits(batch.at_answer(hidden)).detach()
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_forward_that_sits_on_a_module_itself(
    build: Callable[[str], Backbone], backbone: Backbone
) -> None:
    """As what wrapped a module for a while leaves it behind."""
    adapters = adapters_for(backbone, 1)
    expected = scores(backbone.adapted({}, adapters), ROWS)
    left = build("llama")
    for layer in left.layers:  # type: ignore[attr-defined]
        layer.forward = layer.forward
    torch.testing.assert_close(scores(left.adapted({}, adapters), ROWS), expected)


def test_a_view_of_a_view_is_one_of_the_frozen_model(backbone: Backbone) -> None:
    one, two = adapters_for(backbone, 1), adapters_for(backbone, 2)
    view = backbone.adapted({}, one)
    assert torch.equal(scores(view.adapted({}, one), ROWS), scores(view, ROWS))
    expected = scores(backbone.adapted({}, two), ROWS)
    assert torch.equal(scores(view.adapted({}, two), ROWS), expected)
    assert view.adapted({}, None) is backbone.adapted({}, None) is view.frozen is backbone


def test_a_view_shares_what_is_not_changed(backbone: Backbone) -> None:
    name, weight = next(iter(other_weights(backbone).items()))
    view = backbone.adapted({name: weight}, adapters_for(backbone))
    theirs = dict(view.model.named_parameters())
    assert theirs[name] is weight
    for other, mine in backbone.model.named_parameters():
        assert (theirs[other] is mine) == (other != name)
        assert isinstance(mine, nn.Parameter)
        assert not mine.requires_grad
    assert view.fingerprint == backbone.fingerprint
    before = backbone.passes.forward
    scores(view, ROWS)
    assert backbone.passes.forward == pytest.approx(before + len(ROWS))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_adapter_by_hand(backbone: Backbone, activation: str) -> None:
    adapters = adapters_for(backbone, activation=activation)
    hidden = torch.randn(2, 3, backbone.hidden_size)
    down, up = adapters.down[1], adapters.up[1]
    narrow = ACTIVATIONS[activation](hidden @ down[:, :-1].T + down[:, -1])
    expected = hidden + narrow @ up[:, :-1].T + up[:, -1]
    adapt = adapters.function(1)
    torch.testing.assert_close(adapt(hidden), expected)
    half = adapt(hidden.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, atol=0.3, rtol=0.05)


@pytest.mark.parametrize("kind", ["llama", "bert", "t5"])
def test_in_bfloat16_and_in_float32_of_it(build: Callable[[str], Backbone], kind: str) -> None:
    """A defence tunes on float32 states whatever the model's type."""
    backbone = build(kind)
    adapters, weights = adapters_for(backbone), other_weights(backbone)
    exact = backbone.adapted(weights, adapters)
    short = build(kind)
    short.model.bfloat16()
    view = short.adapted(
        {name: weight.bfloat16() for name, weight in weights.items()},
        dataclasses.replace(adapters, down=adapters.down.bfloat16(), up=adapters.up.bfloat16()),
    )
    batch = backbone.pad(ROWS)
    nothing = torch.zeros(backbone.prefix_shape(0))
    last = backbone.num_layers - 1
    with torch.no_grad():
        hidden = exact.embed(batch, 0)
        expected = exact.run_layers(hidden, 0, last, batch, nothing)
        found = view.run_layers(hidden, 0, last, batch, nothing)
        half = view.run_layers(hidden.bfloat16(), 0, last, batch, nothing)
    assert (found.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    real = batch.real
    scale = expected[:, : real.shape[1]][real].std()
    for each in (found, half.float()):
        error = (each - expected)[:, : real.shape[1]][real].std()
        assert error < 0.2 * scale
    frozen = short.run_layers(hidden, 0, last, batch, nothing)
    assert (frozen - expected)[:, : real.shape[1]][real].std() > 0.4 * scale


def test_gradients_lead_to_what_was_put_in(backbone: Backbone) -> None:
    adapters = adapters_for(backbone)
    adapters.down.requires_grad_()
    adapters.up.requires_grad_()
    weights = {name: w.requires_grad_() for name, w in other_weights(backbone).items()}
    view = backbone.adapted(weights, adapters)
    batch = backbone.pad(ROWS)
    nothing = torch.zeros(backbone.prefix_shape(0))
    state = view.run_to_answer(view.embed(batch, 0), 0, batch, nothing)
    view.next_token_logits(state).sum().backward()
    for tensor in (adapters.down, adapters.up):
        assert tensor.grad is not None
        assert (tensor.grad.abs().amax((1, 2)) > 0).all()  # of every adapter
    for name, weight in weights.items():
        assert weight.grad is not None, name
        assert weight.grad.abs().max() > 0, name
    assert all(weight.grad is None for weight in backbone.model.parameters())


def test_adapters_that_do_not_fit_each_other(backbone: Backbone) -> None:
    adapters = adapters_for(backbone)
    for wrong in (
        {"up": adapters.up[:, :, :-1]},
        {"down": adapters.down[1:]},
        {"activation": "sine"},
    ):
        with pytest.raises(ArtifactError, match="expected adapters at 6 places of the shapes"):
            replace(adapters, **wrong)


@pytest.mark.parametrize("kind", ["llama", "bert", "t5"])
def test_a_view_goes_when_it_is_no_longer_needed(
    build: Callable[[str], Backbone], kind: str
) -> None:
    """At once: training makes one a step, and the graph of the step hangs on it."""
    backbone = build(kind)
    weights = {name: weight.requires_grad_() for name, weight in other_weights(backbone).items()}
    view = backbone.adapted(weights, adapters_for(backbone))
    gone = weakref.ref(view.model)
    gc.disable()
    try:
        batch = backbone.pad(ROWS)
        nothing = torch.zeros(backbone.prefix_shape(0))
        state = view.run_to_answer(view.embed(batch, 0), 0, batch, nothing)
        view.next_token_logits(state).sum().backward()
        del view, state
        assert gone() is None
    finally:
        gc.enable()
