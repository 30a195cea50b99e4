"""Defences against dense re-derivations of their formulas."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from robust_prefix.activations import correct_states
from robust_prefix.backbones import CausalBackbone
from robust_prefix.data import load_split, rows_as_fields
from robust_prefix.defenses import (
    DEFENSES,
    Defense,
    Fitted,
    NoDefense,
    Projection,
    RandomPrefix,
    RobustPrefix,
    build_defense,
)
from robust_prefix.defenses.base import NoSettings
from robust_prefix.detection import Detectors
from robust_prefix.errors import ArtifactError, ConfigError, RobustPrefixError
from robust_prefix.prefixes import Inputs, Prefix, PrefixModel
from robust_prefix.subspaces import Subspaces
from robust_prefix.synonyms import SynonymClusters
from robust_prefix.tasks import Fields, Task
from robust_prefix.word_scores import WordScores

TEXTS: list[Fields] = [
    ("the film is good",),
    ("a dull and weak plot , poor cast",),
    ("warm",),
    ("the end is great and the start is flat and cold",),
]


def _dense_states(
    model: PrefixModel, rows: Sequence[Sequence[int]], prefix: Tensor
) -> list[Tensor]:
    """h_0 .. h_L at the answer position, from transformers' own forward of the whole model.

    Args:
        prefix: (layers, 2, heads, length, head_dim), for the whole batch.
    """
    from transformers import DynamicCache

    batch = model.backbone.pad(rows)
    cache = DynamicCache()
    for layer in range(model.backbone.num_layers):
        keys, values = (part.expand(len(rows), -1, -1, -1) for part in prefix[layer])
        cache.update(keys, values, layer)
    states: list[Tensor] = []
    layers = model.backbone.model.model.layers
    handles = [
        layer.register_forward_hook(lambda _m, _i, out: states.append(batch.at_answer(out)))
        for layer in layers
    ]
    try:
        mask = torch.ones(len(rows), prefix.shape[3] + batch.ids.shape[1], dtype=torch.long)
        model.backbone.model(batch.ids, past_key_values=cache, attention_mask=mask)
    finally:
        for handle in handles:
            handle.remove()
    embedding = model.backbone.model.model.embed_tokens(batch.ids)
    return [batch.at_answer(embedding), *states]


def _paper_prefixes(
    model: PrefixModel, spaces: Subspaces, texts: list[Fields], steps: int, learning_rate: float
) -> list[Tensor]:
    """The paper's tuning to the letter: P' in all layers, all layers run, dense Q_j, torch's Adam.

    Returns P' after each step, (layers, 2, heads, length, head_dim).
    """
    rows = model.prompter.encode(texts).rows
    dense = {}
    for layer, space in spaces.layers.items():
        hidden = len(space.mean)
        inner = space.basis @ space.basis.T
        dense[layer] = torch.eye(hidden) - inner if space.is_complement else inner
    additional = torch.zeros_like(model.prefix.tensor).requires_grad_()
    optimizer = torch.optim.Adam([additional], lr=learning_rate)
    after = []
    for _ in range(steps):
        states = _dense_states(model, rows, model.prefix.tensor + additional)
        loss = torch.zeros(())
        for layer, q in dense.items():
            h = states[layer]
            centered = h - h.mean(0) if len(texts) > 1 else h
            loss = loss + (centered @ (torch.eye(len(q)) - q)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after.append(additional.detach().clone())
    return after


@pytest.mark.parametrize("count", [1, 4], ids=["one text, not centred", "batch mean"])
def test_batch_mode_is_the_papers_formula_step_by_step(
    model: PrefixModel, spaces: Subspaces, count: int
) -> None:
    texts = TEXTS[:count]
    encoded = model.prompter.encode(texts)
    expected = _paper_prefixes(model, spaces, texts, steps=4, learning_rate=0.1)
    tuned_layers = max(spaces.layers)
    for step, theirs in enumerate(expected, start=1):
        defense = RobustPrefix(spaces, mode="batch", steps=step, learning_rate=0.1)
        ours = defense.additional_prefix(model, encoded)
        assert ours.shape[0] == 1
        assert (theirs[tuned_layers:] == 0).all()  # why running the first layers is enough
        assert theirs[:tuned_layers].abs().max() > 0.05
        torch.testing.assert_close(ours[0], theirs[:tuned_layers], atol=1e-4, rtol=1e-3)
    final = _dense_states(model, encoded.rows, model.prefix.tensor + expected[-1])[-1]
    theirs = model.backbone.next_token_logits(final, model.prompter.label_tokens)
    ours = RobustPrefix(spaces, mode="batch", steps=4, learning_rate=0.1).logits(model, texts)
    torch.testing.assert_close(ours, theirs.detach(), atol=1e-3, rtol=1e-3)


def test_example_mode_is_the_formula_with_the_training_mean(
    model: PrefixModel, spaces: Subspaces
) -> None:
    """Each example alone, dense, every layer: gradient of sum ||(I - Q_j)(h_j - mu_j)||^2."""
    encoded = model.prompter.encode(TEXTS)
    ours = RobustPrefix(spaces, steps=3, learning_rate=0.1).additional_prefix(model, encoded)
    for index in range(len(TEXTS)):
        additional = torch.zeros_like(model.prefix.tensor).requires_grad_()
        optimizer = torch.optim.Adam([additional], lr=0.1)
        for _ in range(3):
            states = _dense_states(
                model, encoded.rows[index : index + 1], model.prefix.tensor + additional
            )
            loss = torch.zeros(())
            for layer, space in spaces.layers.items():
                q = space.basis @ space.basis.T
                outside = q if space.is_complement else torch.eye(len(q)) - q
                loss = loss + ((states[layer] - space.mean) @ outside).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        theirs = additional.detach()[: max(spaces.layers)]
        torch.testing.assert_close(ours[index], theirs, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(
    "spec",
    [
        "none",
        "robust-prefix(steps=5)",
        "robust-prefix(optimizer=polyak, steps=5, tolerance=0.3)",
        "gate(share=0.5)+robust-prefix(steps=5)",
        "random-prefix(rms=0.3)",
        "projection",
    ],
)
def test_a_prediction_is_the_same_in_any_company(
    model: PrefixModel, spaces: Subspaces, spec: str
) -> None:
    texts = [(f"{text[0]} {number} times",) for number in range(8) for text in TEXTS]
    defense = build_defense(spec, Fitted(spaces))
    together = defense.logits(model, texts, batch_size=32)
    alone = torch.cat([defense.logits(model, [text], batch_size=1) for text in texts])
    assert together.std() > 0.05
    torch.testing.assert_close(together, alone, atol=2e-4, rtol=1e-3)


def test_batch_mode_depends_on_its_neighbours(model: PrefixModel, spaces: Subspaces) -> None:
    """The weakness of the published setting, which the default does not have."""
    defense = RobustPrefix(spaces, mode="batch", steps=5)
    together = defense.logits(model, TEXTS)[0]
    alone = defense.logits(model, TEXTS[:1])[0]
    assert (together - alone).abs().max() > 1e-2


def test_tuning_lowers_the_loss_it_is_given(model: PrefixModel, spaces: Subspaces) -> None:
    encoded = model.prompter.encode(TEXTS)

    def total(steps: int) -> float:
        added = RobustPrefix(spaces, steps=steps, learning_rate=0.02).additional_prefix(
            model, encoded
        )
        value = 0.0
        for index in range(len(TEXTS)):
            prefix = model.prefix.tensor.clone()
            prefix[: added.shape[1]] += added[index]
            states = _dense_states(model, encoded.rows[index : index + 1], prefix)
            for layer, space in spaces.layers.items():
                q = space.basis @ space.basis.T
                outside = q if space.is_complement else torch.eye(len(q)) - q
                value += float(((states[layer] - space.mean) @ outside).square().sum())
        return value

    assert total(20) < 0.7 * total(0)


def test_no_steps_is_no_defence(model: PrefixModel, spaces: Subspaces) -> None:
    ours = RobustPrefix(spaces, steps=0).logits(model, TEXTS)
    torch.testing.assert_close(ours, NoDefense().logits(model, TEXTS), atol=1e-5, rtol=1e-5)


def test_the_control_has_the_norm_of_what_it_controls(
    model: PrefixModel, spaces: Subspaces
) -> None:
    defense = RobustPrefix(spaces, steps=5)
    control = RandomPrefix.matching(defense, model, TEXTS)
    added = defense.additional_prefix(model, model.prompter.encode(TEXTS))
    assert control.config.rms == pytest.approx(float(added.square().mean().sqrt()), abs=1e-4)
    assert control.config.layers == added.shape[1]
    noise = control._noise(TEXTS[0], (2, 2, 8, 64, 64))
    assert float(noise.square().mean().sqrt()) == pytest.approx(control.config.rms, rel=0.02)


def test_the_controls_noise_depends_on_text_and_seed_alone(model: PrefixModel) -> None:
    first = RandomPrefix(rms=0.5, seed=1).logits(model, TEXTS)
    again = RandomPrefix(rms=0.5, seed=1).logits(model, TEXTS)
    other = RandomPrefix(rms=0.5, seed=2).logits(model, TEXTS)
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 1e-3


def test_projection_sets_the_state_to_its_nearest_point(
    model: PrefixModel, spaces: Subspaces
) -> None:
    seen: list[Tensor] = []
    layers = model.backbone.model.model.layers
    last = max(spaces.layers)
    assert last == len(layers) - 1  # which projects the answer position's query first, alone
    handle = layers[last].input_layernorm.register_forward_pre_hook(
        lambda _m, inputs: seen.append(inputs[0].squeeze(1))
    )
    try:
        with torch.no_grad():
            Projection(spaces).run(model, model.pad(model.prompter.encode(TEXTS)))
    finally:
        handle.remove()
    space = spaces.layers[last]
    q = space.basis @ space.basis.T
    outside = q if space.is_complement else torch.eye(len(q)) - q
    assert ((seen[0] - space.mean) @ outside).abs().max() < 1e-3
    plain = model.answer_states(model.prompter.encode(TEXTS), [last])[0][last]
    assert ((plain - space.mean) @ outside).abs().max() > 0.1


def test_cost_counts_what_was_run(model: PrefixModel, spaces: Subspaces) -> None:
    plain, tuned = NoDefense(), RobustPrefix(spaces, steps=10)
    plain.logits(model, TEXTS)
    tuned.logits(model, TEXTS)
    assert (plain.cost.forward, plain.cost.backward) == (pytest.approx(4), 0)
    # 10 steps through 2 of 3 layers, then the whole model
    assert tuned.cost.forward == pytest.approx(4 * (1 + 10 * 2 / 3))
    assert tuned.cost.backward == pytest.approx(4 * 10 * 2 / 3)


def test_only_correctly_classified_examples_are_fitted(model: PrefixModel, task: Task) -> None:
    rows = load_split(task, "train")
    texts, labels = rows_as_fields(task, rows), list(rows["label"])
    predictions = NoDefense().logits(model, texts).argmax(-1)
    right = int((predictions == torch.tensor(labels)).sum())
    assert 0 < right < len(texts)
    collected = [states[1] for _, states in correct_states(model, texts, labels, [1], 5)]
    assert sum(len(rows) for rows in collected) == right
    chosen = [t for t, p, y in zip(texts, predictions.tolist(), labels, strict=True) if p == y]
    alone = model.answer_states(model.prompter.encode(chosen), [1])[0][1]
    torch.testing.assert_close(torch.cat(collected).sum(0), alone.sum(0), atol=1e-3, rtol=1e-3)


def test_every_spec_builds_the_same_defence_again(
    spaces: Subspaces, prefix: Prefix, detectors: Detectors
) -> None:
    for name in DEFENSES:
        settings = {"random-prefix": "(rms=0.25)", "gate": "+projection"}.get(name, "")
        clusters = SynonymClusters({})
        words = WordScores((), torch.zeros(0, 2), torch.zeros(2), "", {"limit": 1.0})
        fitted = Fitted(spaces, clusters, (prefix,), detectors, words)
        defense = build_defense(name + settings, fitted)
        assert build_defense(defense.spec, fitted).spec == defense.spec


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        pytest.param("robust-prefx", "did you mean 'robust-prefix'", id="typo"),
        pytest.param("robust-prefix(step=3)", "did you mean 'steps'", id="typo in a setting"),
        pytest.param("robust-prefix(mode=all)", "valid mode", id="bad choice"),
        pytest.param("robust-prefix(steps=-1)", "valid steps", id="out of range"),
        pytest.param("random-prefix", "rms", id="no norm"),
        pytest.param("none+projection", "expected a defence that wraps others", id="composition"),
        pytest.param("normalize+normalize", "'normalize' twice", id="twice"),
        pytest.param("__import__('os')", "expected name", id="code"),
    ],
)
def test_bad_specs(spaces: Subspaces, spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_defense(spec, Fitted(spaces))


def test_subspaces_are_asked_for() -> None:
    with pytest.raises(ArtifactError, match="fit-subspaces"):
        build_defense("robust-prefix")
    with pytest.raises(ArtifactError, match="fit-synonyms"):
        build_defense("normalize+synonyms")


def test_subspaces_of_another_prefix_are_refused(
    backbone: CausalBackbone, task: Task, prefix: Prefix, spaces: Subspaces
) -> None:
    other = Prefix(prefix.tensor + 1, prefix.base_model, prefix.base_fingerprint)
    with pytest.raises(ArtifactError, match="fit-subspaces"):
        RobustPrefix(spaces).logits(PrefixModel(backbone, task, other), TEXTS)


def test_scores_that_are_not_finite_are_an_error(model: PrefixModel) -> None:
    class Broken(Defense[NoSettings]):
        name = "broken"

        def run(self, model: PrefixModel, inputs: Inputs) -> Tensor:
            return model.logits(inputs) * float("nan")

    with pytest.raises(RobustPrefixError, match="finite"):
        Broken().logits(model, TEXTS)
