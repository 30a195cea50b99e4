"""Gradients through every defence, against finite differences of what the defence answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from robust_prefix.backbones import Backbone, CausalBackbone
from robust_prefix.classifier import PrefixClassifier
from robust_prefix.configs import SubspaceConfig
from robust_prefix.defenses import Defense, Fitted, NoDefense, RobustPrefix, build_defense
from robust_prefix.defenses import robust_prefix as tuned_defense
from robust_prefix.defenses.base import NoSettings
from robust_prefix.defenses.robust_prefix import add_to_first_layers
from robust_prefix.defenses.tuner import Adam, Polyak, Rule, descend
from robust_prefix.errors import ConfigError, InputError, RobustPrefixError
from robust_prefix.evaluation.trial import CountingVictim
from robust_prefix.fitting import fit_subspaces
from robust_prefix.gradients import Through
from robust_prefix.prefixes import Inputs, Prefix, PrefixModel
from robust_prefix.subspaces import Subspaces
from robust_prefix.tasks import Fields, Task

from .families import tiny_encoder, tiny_seq2seq

TEXTS: list[Fields] = [
    ("the film is good",),
    ("a dull and weak plot , poor cast",),
    ("warm",),
    ("the end is great and the start is flat and cold",),
]
LABELS = [1, 0, 1, 1]
BOTH = pytest.mark.parametrize("through", ["fixed", "unrolled"])


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: tiny_encoder("bert"), id="bert"),
        pytest.param(lambda: tiny_encoder("roberta"), id="roberta"),
        pytest.param(lambda: tiny_seq2seq("bart"), id="bart"),
        pytest.param(lambda: tiny_seq2seq("t5"), id="t5"),
    ],
)
def test_gradients_are_those_at_the_input_embeddings(
    make: Callable[[], Backbone], task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attacks multiply them with rows of the embedding matrix, which some families norm first."""
    backbone = make()
    template = "{text} it was {mask} ." if backbone.mask_token is not None else task.template
    task = dataclasses.replace(task, template=template, max_tokens=64)
    generator = torch.Generator().manual_seed(0)
    tensor = 0.3 * torch.randn(backbone.prefix_shape(3), generator=generator)
    prefix = Prefix(tensor, backbone.name, backbone.fingerprint)
    classifier = PrefixClassifier(backbone, task, prefix)
    text, token = "the film is good", 2
    [found] = classifier.gradients([text], [1])
    slope = torch.from_numpy(found.gradient[token])
    along = slope / slope.norm()
    look_up = backbone._look_up

    def loss(step: float) -> float:
        def moved(ids: torch.Tensor, *rest: Any) -> torch.Tensor:
            hidden = look_up(ids, *rest).clone()
            hidden[:, token] += step * along
            return hidden

        with monkeypatch.context() as patch:
            patch.setattr(backbone, "_look_up", moved)
            return float(-classifier.logits([text]).double().log_softmax(-1)[0, 1])

    size = 1e-2
    change = (loss(size) - loss(-size)) / (2 * size)
    assert change == pytest.approx(float(slope.norm()), rel=0.05)
    assert abs(change) > 1e-4


@pytest.fixture(scope="module")
def spaces(backbone: CausalBackbone, prefix: Prefix, task: Task) -> Subspaces:
    return fit_subspaces(backbone, prefix, task, config=SubspaceConfig(threshold=0.6))


def check_slopes(
    model: PrefixModel,
    defense: Defense,
    through: Through,
    run: Callable[[Inputs], Tensor],
    tolerance: float = 2e-3,
) -> None:
    """Compare with central differences of ``run``'s loss, along the gradient and halfway off it."""
    for seed, (text, label) in enumerate(zip(TEXTS, LABELS, strict=True)):
        [found] = defense.gradients(model, [text], [label], through)
        inputs = model.pad(model.prompter.encode([text]))

        def loss(embedded: Tensor, inputs: Inputs = inputs, label: int = label) -> float:
            with torch.no_grad():
                scores = run(dataclasses.replace(inputs, embedded=embedded))
            return cross_entropy(scores.double(), torch.tensor([label])).item()

        gradient = torch.from_numpy(found.gradient)
        assert found.loss == pytest.approx(loss(inputs.embedded), abs=1e-4)
        assert gradient.norm() > 0.5
        noise = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(seed))
        along = gradient / gradient.norm()
        off = along + noise / noise.norm()
        step = 2e-3
        for direction in (along, off / off.norm()):
            ahead = loss(inputs.embedded + step * direction)
            behind = loss(inputs.embedded - step * direction)
            expected = float((gradient * direction).sum())
            assert (ahead - behind) / (2 * step) == pytest.approx(expected, rel=tolerance)


@BOTH
@pytest.mark.parametrize("spec", ["none", "projection", "random-prefix(rms=0.3)"])
def test_it_is_the_slope_of_the_defended_loss(
    model: PrefixModel, spaces: Subspaces, spec: str, through: Through
) -> None:
    defense = build_defense(spec, Fitted(spaces))
    check_slopes(model, defense, through, lambda inputs: defense.run(model, inputs))


@pytest.mark.parametrize("mode", ["example", "batch"])
def test_fixed_holds_the_tuned_prefix_constant(
    model: PrefixModel, spaces: Subspaces, mode: str
) -> None:
    defense = RobustPrefix(spaces, mode=mode, steps=5)
    added = {
        text: defense.additional_prefix(model, model.prompter.encode([text])) for text in TEXTS
    }

    def run(inputs: Inputs) -> Tensor:
        prefixes = add_to_first_layers(model.prefix_tensor, added[inputs.texts[0]])
        return model.logits(inputs, prefixes)

    check_slopes(model, defense, "fixed", run)


@pytest.mark.parametrize("mode", ["example", "batch"])
def test_unrolled_is_the_slope_of_tuning_and_answer_together(
    model: PrefixModel, spaces: Subspaces, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the epsilon of 1e-8 a step jumps wherever a gradient changes its sign, and no finite
    difference is blind to that. The same graph with an epsilon of 1 has no jumps."""
    monkeypatch.setattr(tuned_defense, "Adam", partial(Adam, epsilon=1.0))
    defense = RobustPrefix(spaces, mode=mode, steps=3)
    check_slopes(
        model, defense, "unrolled", lambda inputs: defense.run(model, inputs), tolerance=2e-2
    )
    for text, label in zip(TEXTS, LABELS, strict=True):
        [unrolled] = defense.gradients(model, [text], [label], "unrolled")
        [fixed] = defense.gradients(model, [text], [label], "fixed")
        apart = np.linalg.norm(unrolled.gradient - fixed.gradient)
        assert apart > 0.05 * np.linalg.norm(fixed.gradient)


def test_one_step_of_adam_is_a_sign_and_passes_next_to_no_gradient(
    model: PrefixModel, spaces: Subspaces
) -> None:
    defense = RobustPrefix(spaces, steps=1)
    unrolled, fixed = (
        defense.gradients(model, TEXTS, LABELS, through) for through in ("unrolled", "fixed")
    )
    for one, other in zip(unrolled, fixed, strict=True):
        apart = np.linalg.norm(one.gradient - other.gradient)
        assert apart < 0.02 * np.linalg.norm(other.gradient)


@pytest.mark.parametrize("rule", [Adam(0.1, epsilon=0.5), Polyak()], ids=["adam", "polyak"])
def test_steps_unrolled_have_the_right_derivative(rule: Rule) -> None:
    start = torch.zeros(1, 4, dtype=torch.float64)
    target = torch.tensor([0.3, -0.7, 1.1, 0.2], dtype=torch.float64, requires_grad=True)

    def tuned(target: Tensor) -> Tensor:
        return descend(rule, start, lambda p, _: ((p - target) ** 4).sum(1), 4, unrolled=True)

    assert torch.autograd.gradcheck(tuned, target)
    constant = descend(rule, start, lambda p, _: ((p - target) ** 4).sum(1), 4)
    assert not constant.requires_grad
    assert not start.requires_grad


def test_adam_unrolled_is_finite_where_a_gradient_is_exactly_zero() -> None:
    """A softmax weight may underflow; the square root of the second moment is then at 0."""
    scale = torch.tensor([0.0, 2.0], requires_grad=True)
    tuned = descend(Adam(0.1), torch.ones(1, 2), lambda p, _: (scale * p).sum(1), 2, unrolled=True)
    (gradient,) = torch.autograd.grad(tuned.sum(), scale)
    assert torch.isfinite(gradient).all()


@BOTH
@pytest.mark.parametrize(
    "spec",
    [
        "none",
        "robust-prefix(steps=3)",
        "robust-prefix(mode=batch, steps=3)",
        "robust-prefix(optimizer=polyak, steps=2)",
        "random-prefix(rms=0.3)",
        "projection",
    ],
)
def test_a_gradient_is_the_same_in_any_company(
    model: PrefixModel, spaces: Subspaces, spec: str, through: Through
) -> None:
    """Of the setting whose answers depend on the batch, too: each text counts as alone."""
    defense = build_defense(spec, Fitted(spaces))
    together = defense.gradients(model, TEXTS, LABELS, through)
    for found, text, label in zip(together, TEXTS, LABELS, strict=True):
        [alone] = defense.gradients(model, [text], [label], through)
        assert (found.tokens, found.spans) == (alone.tokens, alone.spans)
        assert found.gradient.shape == (len(found.tokens), model.backbone.hidden_size)
        assert found.gradient.dtype == np.float32
        scale = np.abs(alone.gradient).max()
        np.testing.assert_allclose(found.gradient / scale, alone.gradient / scale, atol=2e-3)
        assert found.loss == pytest.approx(alone.loss, abs=1e-3)


def test_in_every_architecture_a_token_moves_the_loss_as_its_gradient_says(
    any_backbone: CausalBackbone, task: Task
) -> None:
    """By the embedding matrix itself: positions are added after it, and drop out."""
    prefix = Prefix(
        torch.randn(any_backbone.prefix_shape(4), generator=torch.Generator().manual_seed(1)),
        any_backbone.name,
        any_backbone.fingerprint,
    )
    classifier = PrefixClassifier(any_backbone, task, prefix)
    [found] = classifier.gradients(["the film is good"], [1])
    [token] = classifier.encode([" film"])[0]
    place = found.tokens.index(token)
    row = any_backbone.embeddings[token]
    assert torch.equal(row, torch.from_numpy(classifier.embeddings()[token]))
    direction = torch.from_numpy(found.gradient[place])
    direction = direction / direction.norm()
    losses = []
    for step in (1e-2, -2e-2):
        row += step * direction
        losses.append(cross_entropy(classifier.logits(["the film is good"]), torch.tensor([1])))
    expected = np.linalg.norm(found.gradient[place])
    assert (losses[0] - losses[1]).item() / 2e-2 == pytest.approx(expected, rel=1e-2)


def pieces(texts: Sequence[str], spans: Sequence[tuple[int, int, int] | None]) -> list[str | None]:
    return [None if s is None else texts[s[0]][s[1] : s[2]] for s in spans]


def test_spans_say_what_each_token_covers(model: PrefixModel) -> None:
    text = (" the film is good \U0001f600 is this",)
    [found] = NoDefense().gradients(model, [text], [1])
    decoded = [model.backbone.decode([token]) for token in found.tokens]
    covered = pieces(text, found.spans)
    template = model.backbone.tokenize([" is this review negative or positive ?"])[0]
    assert covered[-len(template) :] == [None] * len(template)
    inside = len(covered) - len(template)
    assert covered[:4] == [" the", " film", " is", " good"]
    assert covered[inside - 2 : inside] == [" is", " this"]
    for place in range(inside):
        whole = covered[place]
        assert whole is not None
        if "\ufffd" not in decoded[place]:
            assert decoded[place].strip() == whole.strip()
    # What one character is made of covers it together.
    assert [piece for piece in covered[:inside] if piece is not None and "\U0001f600" in piece][1:]


@pytest.mark.parametrize("limit", range(17, 26))
def test_spans_of_a_truncated_text_stay_inside_it(
    backbone: CausalBackbone, task: Task, prefix: Prefix, limit: int
) -> None:
    """Some of these limits cut the emoji in two."""
    model = PrefixModel(backbone, dataclasses.replace(task, max_tokens=limit), prefix)
    text = (" the film is good and the plot is \U0001f600 warm and the cast is bright",)
    assert model.prompter.encode([text]).truncated == (True,)
    [found] = NoDefense().gradients(model, [text], [1])
    assert limit - 4 < len(found.tokens) <= limit
    spans = [span for span in found.spans if span is not None]
    covered = sorted({place for _, start, end in spans for place in range(start, end)})
    assert covered == list(range(len(covered)))
    assert len(" the film is good and the plot") <= len(covered) < len(text[0])
    assert all(pieces(text, spans))


def test_spans_name_the_column(backbone: CausalBackbone, task: Task, prefix: Prefix) -> None:
    pair = dataclasses.replace(
        task,
        columns=("premise", "hypothesis"),
        template="question : {hypothesis} | {premise} yes or no ?",
        splits={},
    )
    texts = ("the film is good", "film")
    [found] = NoDefense().gradients(PrefixModel(backbone, pair, prefix), [texts], [0])
    columns = [span[0] for span in found.spans if span is not None]
    assert sorted(columns, reverse=True) == columns  # the hypothesis stands first
    for column, text in enumerate(texts):
        own = [span for span in found.spans if span is not None and span[0] == column]
        assert "".join(text[start:end] for _, start, end in own).strip() == text


def test_the_frozen_model_stays_as_it_was(model: PrefixModel, spaces: Subspaces) -> None:
    before = {name: p.clone() for name, p in model.backbone.model.named_parameters()}
    RobustPrefix(spaces, steps=2).gradients(model, TEXTS, LABELS, "unrolled")
    assert not model.backbone.model.training
    for name, parameter in model.backbone.model.named_parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad
        assert torch.equal(parameter, before[name])
    assert not model.prefix_tensor.requires_grad
    assert torch.is_grad_enabled()


def test_it_works_where_gradients_are_switched_off(model: PrefixModel, spaces: Subspaces) -> None:
    defense = RobustPrefix(spaces, steps=2)
    with torch.no_grad():
        [found] = defense.gradients(model, TEXTS[:1], LABELS[:1], "unrolled")
    assert np.abs(found.gradient).max() > 0


@pytest.mark.parametrize(
    ("spec", "through", "forward", "backward"),
    [
        ("none", "fixed", 1, 1),
        ("none", "unrolled", 1, 1),
        # 6 steps through 2 of 3 layers, forward and backward
        ("robust-prefix(steps=6)", "fixed", 1 + 4, 1 + 4),
        # and the way back through both
        ("robust-prefix(steps=6)", "unrolled", 1 + 4, 1 + 3 * 4),
    ],
)
def test_cost_counts_every_pass(
    model: PrefixModel,
    spaces: Subspaces,
    spec: str,
    through: Through,
    forward: float,
    backward: float,
) -> None:
    defense = build_defense(spec, Fitted(spaces))
    defense.gradients(model, TEXTS, LABELS, through)
    assert defense.cost.forward == pytest.approx(len(TEXTS) * forward)
    assert defense.cost.backward == pytest.approx(len(TEXTS) * backward)


class Deaf(Defense[NoSettings]):
    """Scores the text anew, whatever embeddings it is given."""

    name = "deaf"

    def run(self, model: PrefixModel, inputs: Inputs) -> Tensor:
        return model.logits(model.pad(model.prompter.encode(inputs.texts)))


class Kinked(Defense[NoSettings]):
    """Finite scores, infinite slope."""

    name = "kinked"

    def run(self, model: PrefixModel, inputs: Inputs) -> Tensor:
        scores = model.logits(inputs)
        return scores + (scores - scores.detach()).abs().sqrt()


@pytest.mark.parametrize(
    ("defense", "arguments", "error", "message"),
    [
        pytest.param(
            Deaf(), {}, ConfigError, "expected a differentiable defence, got 'deaf'", id="constant"
        ),
        pytest.param(
            Kinked(), {}, RobustPrefixError, "expected finite gradients .* 'kinked'", id="nan"
        ),
        pytest.param(
            NoDefense(), {"labels": [1]}, InputError, "expected 4 labels of 0 to 1", id="too few"
        ),
        pytest.param(
            NoDefense(), {"labels": [0, 1, 2, 0]}, InputError, "expected 4 labels", id="label 2"
        ),
        pytest.param(
            NoDefense(), {"through": "unroled"}, ConfigError, "did you mean 'unrolled'", id="typo"
        ),
    ],
)
def test_what_cannot_be_differentiated_says_so(
    model: PrefixModel,
    defense: Defense,
    arguments: dict,
    error: type[RobustPrefixError],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        defense.gradients(model, TEXTS, **({"labels": LABELS} | arguments))


@pytest.fixture
def classifier(model: PrefixModel, spaces: Subspaces) -> PrefixClassifier:
    defense = RobustPrefix(spaces, steps=2)
    return PrefixClassifier(model.backbone, model.task, model.prefix, defense)


def test_the_classifier_shows_gradients_embeddings_and_tokens(classifier: PrefixClassifier) -> None:
    [found] = classifier.gradients(["the film is good"], [1], "unrolled")
    [same] = classifier.defense.gradients(classifier.model, TEXTS[:1], [1], "unrolled")
    np.testing.assert_array_equal(found.gradient, same.gradient)
    matrix = classifier.embeddings()
    assert matrix.dtype == np.float32
    assert matrix.shape == (
        len(classifier.model.backbone.tokenizer),
        classifier.model.backbone.hidden_size,
    )
    for text in (" good", "good", "x", " the film is", ""):
        [tokens] = classifier.encode([text])
        assert classifier.decode(tokens) == text
    assert classifier.encode([" good"]) != classifier.encode(["good"])
    with pytest.raises(InputError, match="text 1"):
        classifier.gradients(["good", " "], [1, 1])


def test_a_victim_counts_a_gradient_as_one_query_and_its_passes(
    classifier: PrefixClassifier,
) -> None:
    victim = CountingVictim(classifier)
    found = victim.gradients(TEXTS[:3], LABELS[:3])
    assert len(found) == victim.queries == 3
    assert classifier.defense.cost.backward == pytest.approx(3 * (1 + 2 * 2 / 3))
    victim.logits(TEXTS)
    assert victim.queries == 7
    assert victim.decode(victim.encode([" film"])[0]) == " film"
    assert victim.embeddings().shape == classifier.embeddings().shape
    assert victim.queries == 7


def test_a_black_box_says_that_it_is_one(classifier: PrefixClassifier) -> None:
    class BlackBox:
        task = classifier.task
        defense = classifier.defense

        def logits(self, texts: list[Fields]) -> Tensor:
            return classifier.logits(texts)

    victim = CountingVictim(BlackBox())
    for ask in (
        lambda: victim.gradients(TEXTS, LABELS),
        victim.embeddings,
        lambda: victim.decode([1]),
        lambda: victim.encode(["good"]),
    ):
        with pytest.raises(
            ConfigError, match="expected a classifier that gives gradients"
        ) as error:
            ask()
        assert "\n" not in str(error.value)
    assert victim.queries == 0
