"""Adapters and fine-tuning: what is particular to methods that change the model itself."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from robust_prefix.artifacts import load_tensors, save_tensors
from robust_prefix.backbones import Backbone, CausalBackbone
from robust_prefix.classifier import PrefixClassifier
from robust_prefix.configs import SubspaceConfig, TrainingConfig
from robust_prefix.data import load_split
from robust_prefix.defenses import (
    Ensemble,
    MaskedVote,
    Projection,
    RandomPrefix,
    RobustPrefix,
    build_defense,
)
from robust_prefix.errors import ArtifactError, ConfigError
from robust_prefix.evaluation.bench import DATABASE, run_attack
from robust_prefix.evaluation.protocols import Attempt
from robust_prefix.evaluation.quality import pair_key, read_qualities
from robust_prefix.evaluation.store import RecordStore
from robust_prefix.fitting import fit_subspaces
from robust_prefix.objectives import PrefixObjective, build_adversary
from robust_prefix.prefixes import Prefix, PrefixModel, build_method
from robust_prefix.prefixes.model import Prompter
from robust_prefix.prefixes.peft import write_peft
from robust_prefix.tasks import Task
from robust_prefix.training import train_prefix

from ..conftest import tiny_backbone
from ..evaluation.evaluation_fakes import FunctionAttack
from ..families import tiny_encoder, tiny_seq2seq

TEXTS = ["the film is good and warm", "the plot is dull", "a story"]
SHORT = TrainingConfig(epochs=1, batch_size=8, learning_rate=0.02, evaluations_per_epoch=2)
SPECS = ("adapters(width=4)", "fine-tuning(layers=0-1)")
FAMILIES = {
    "gpt2": "{text} is this review negative or positive ?",
    "gpt_neox": "{text} is this review negative or positive ?",
    "bert": "{text} . it was {mask} .",
    "roberta": "{text} . it was {mask} .",
    "t5": "{text} is it good ?",
    "bart": "{text} is it good ?",
}


@pytest.fixture
def build(tokenizer: PreTrainedTokenizerFast) -> Callable[[str], Backbone]:
    """A tiny model of any architecture."""

    def built(kind: str) -> Backbone:
        if kind in ("bert", "roberta"):
            return tiny_encoder(kind)
        return tiny_seq2seq(kind) if kind in ("t5", "bart") else tiny_backbone(kind, tokenizer)

    return built


def trained(backbone: Backbone, task: Task, spec: str, seed: int = 3, **settings: object) -> Prefix:
    config = build_method(spec).config
    training = dataclasses.replace(SHORT, **settings)  # type: ignore[arg-type]
    return train_prefix(backbone, task, prefix=config, training=training, seed=seed)


@pytest.fixture(scope="module")
def prefixes(backbone: CausalBackbone, task: Task) -> dict[str, Prefix]:
    """One of each method, on the tiny Llama."""
    return {spec: trained(backbone, task, spec) for spec in SPECS}


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_is_trained_saved_and_defended(
    build: Callable[[str], Backbone], task: Task, tmp_path: Path, kind: str, spec: str
) -> None:
    backbone = build(kind)
    task = replace(task, template=FAMILIES[kind], max_tokens=64)
    torch.manual_seed(0)
    frozen = build_method("adapters").trainable(backbone, task)(backbone)
    before = PrefixClassifier(backbone, task, Prefix.of(frozen, backbone, {})).logits(TEXTS)
    prefix = trained(backbone, task, spec)
    classifier = PrefixClassifier(backbone, task, prefix)
    plain = classifier.logits(TEXTS)
    assert (plain - before).abs().max() > 1e-2
    classifier.save_pretrained(tmp_path)
    loaded = PrefixClassifier.from_pretrained(tmp_path, backbone=backbone)
    assert torch.equal(loaded.logits(TEXTS), plain)
    assert loaded.model.prefix.fingerprint == prefix.fingerprint
    again = PrefixClassifier(build(kind), task, loaded.model.prefix)  # a model never trained on
    assert torch.equal(again.logits(TEXTS), plain)
    alone = torch.cat([classifier.logits([text]) for text in TEXTS])
    torch.testing.assert_close(alone, plain, atol=1e-4, rtol=1e-4)
    spaces = fit_subspaces(backbone, prefix, task, config=SubspaceConfig(threshold=0.6))
    for defense in (
        RobustPrefix(spaces, steps=2),
        RobustPrefix(spaces, steps=2, mode="batch"),
        RandomPrefix(rms=1.0),
        Projection(spaces),
        MaskedVote(build_defense("none"), copies=3, mask=0.5),
    ):
        defended = classifier.with_defense(defense)
        assert (defended.logits(TEXTS) - plain).abs().max() > 1e-3, defense.spec
        [gradients] = defended.gradients(TEXTS[:1], [1])
        assert abs(gradients.gradient).max() > 0, defense.spec
    untouched = PrefixClassifier(backbone, task, Prefix.of(frozen, backbone, {})).logits(TEXTS)
    assert torch.equal(untouched, before)


@pytest.mark.parametrize("spec", SPECS)
def test_an_encoder_without_words_gets_a_head(task: Task, spec: str) -> None:
    encoder = tiny_encoder("bert", words=False)
    task = replace(task, template="{text} is it good ?", max_tokens=64)
    prefix = trained(encoder, task, spec)
    assert prefix.head is not None
    torch.manual_seed(3)
    start = build_method(spec).trainable(encoder, task)(encoder)
    assert start.head is not None
    assert (prefix.head - start.head).abs().max() > 1e-3
    again = trained(encoder, task, spec, learning_rate=1e-12)
    assert again.parameters == prefix.parameters
    names = prefix.learned.tensors()
    assert prefix.parameters == sum(tensor.numel() for tensor in names.values())


def test_training_starts_at_the_frozen_model(backbone: CausalBackbone, task: Task) -> None:
    """With adapters exactly: their up-projection is zero, and it alone has a gradient at first."""
    torch.manual_seed(0)
    parameters = build_method("adapters(width=4)").trainable(backbone, task)
    learned = parameters(backbone)
    assert learned.adapters is not None
    adapted = PrefixModel(backbone, task, Prefix.of(learned, backbone, {}))
    plain = Prefix(torch.zeros(backbone.prefix_shape(0)), backbone.name, backbone.fingerprint)
    inputs = adapted.pad(adapted.prompter.encode([(text,) for text in TEXTS]))
    assert torch.equal(adapted.logits(inputs), PrefixModel(backbone, task, plain).logits(inputs))
    objective = PrefixObjective(Prompter(backbone, task), parameters)
    batch = inputs.batch
    objective(batch.ids, batch.answer, torch.tensor([1, 0, 1]))["loss"].backward()
    up, down = parameters.get_parameter("up").grad, parameters.get_parameter("down").grad
    assert up is not None
    assert down is not None
    assert (up.abs().amax((1, 2)) > 0).all()
    assert down.abs().max() == 0


@pytest.mark.parametrize(
    ("spec", "places"),
    [
        ("adapters(places=attention)", [(0, "attention"), (1, "attention"), (2, "attention")]),
        ("adapters(places=feed-forward, layers=0/2)", [(0, "feed-forward"), (2, "feed-forward")]),
        ("adapters(layers=1)", [(1, "attention"), (1, "feed-forward")]),
    ],
)
def test_where_adapters_stand(
    backbone: CausalBackbone, task: Task, spec: str, places: list[tuple[int, str]]
) -> None:
    adapters = build_method(spec).trainable(backbone, task)(backbone).adapters
    assert adapters is not None
    assert list(adapters.places) == places
    assert (adapters.width, adapters.hidden_size) == (64, 32)


def test_a_decoder_that_reads_an_encoder_has_three_in_a_layer(task: Task) -> None:
    seq2seq = tiny_seq2seq("t5")
    task = replace(task, template="{text} is it good ?", max_tokens=64)
    found = build_method("adapters(layers=1-2)").trainable(seq2seq, task)(seq2seq).adapters
    assert found is not None
    assert [name for layer, name in found.places if layer == 1] == ["attention", "feed-forward"]
    decoder = [name for layer, name in found.places if layer == 2]
    assert decoder == ["attention", "cross-attention", "feed-forward"]


def test_which_weights_are_tuned(backbone: CausalBackbone, task: Task) -> None:
    every = build_method("fine-tuning").trainable(backbone, task)(backbone).weights
    named = dict(backbone.model.named_parameters())
    assert every.keys() == named.keys()
    some = build_method("fine-tuning(layers=0/2)").trainable(backbone, task)(backbone).weights
    inside = {name for name in named if ".layers.0." in name or ".layers.2." in name}
    assert set(some) == inside
    assert all(weight.dtype == torch.float32 for weight in some.values())


@pytest.mark.parametrize("spec", ["adapters(width=4)", "fine-tuning"])
@pytest.mark.parametrize("adversary", ["pgd(steps=2)", "masking(copies=2)"])
def test_adversaries_meet_the_model_that_is_trained(
    backbone: CausalBackbone, task: Task, spec: str, adversary: str
) -> None:
    """What they make harder is harder for the changed model. The loss is the adversary's alone, so
    that all gradients, those to embeddings among them, come through what it made."""
    prompter = Prompter(backbone, task)
    start = trained(backbone, task, spec)
    parameters = build_method(spec).trainable(backbone, task, start)
    texts = [(text,) for text in TEXTS]
    built = build_adversary(adversary, prompter, None)
    objective = PrefixObjective(prompter, parameters, built, texts, weight=1.0)
    batch = backbone.pad(prompter.encode(texts).rows)
    labels = torch.tensor([1, 0, 1])
    objective.eval()
    clean = objective(batch.ids, batch.answer, labels, torch.arange(3))
    model = PrefixModel(backbone, task, start)
    expected = model.logits(model.pad(prompter.encode(texts)))
    torch.testing.assert_close(clean["logits"], expected, atol=1e-5, rtol=1e-5)
    objective.train()
    harder = objective(batch.ids, batch.answer, labels, torch.arange(3))
    assert harder["loss"] > clean["loss"]
    harder["loss"].backward()
    for name, weight in parameters.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().max() > 0, name
    assert all(weight.grad is None for weight in backbone.model.parameters())


def test_runs_on_one_model_do_not_disturb_each_other(
    backbone: CausalBackbone, task: Task, prefix: Prefix, prefixes: dict[str, Prefix]
) -> None:
    """Classifiers of three kinds, one of them in training, in turn and inside each other."""
    every = [prefix, *prefixes.values()]
    alone = [PrefixClassifier(backbone, task, each).logits(TEXTS) for each in every]
    assert (alone[1] - alone[2]).abs().max() > 1e-2
    classifiers = [PrefixClassifier(backbone, task, each) for each in every]
    for spec in SPECS:
        assert trained(backbone, task, spec).fingerprint == prefixes[spec].fingerprint
        with classifiers[0].remembering(), classifiers[1].remembering():
            for _ in range(2):
                for classifier, expected in zip(classifiers, alone, strict=True):
                    torch.testing.assert_close(classifier.logits(TEXTS), expected)
    for classifier, expected in zip(classifiers, alone, strict=True):
        assert torch.equal(classifier.logits(TEXTS), expected)
    assert all(each.model.backbone.frozen is backbone for each in classifiers)


def test_an_ensemble_of_changed_models_asks_each_apart(
    backbone: CausalBackbone, task: Task, prefix: Prefix, prefixes: dict[str, Prefix]
) -> None:
    whole = trained(backbone, task, "fine-tuning", seed=4)  # with embeddings of its own
    every = [*prefixes.values(), prefix, whole]
    alone = torch.stack([PrefixClassifier(backbone, task, p).logits(TEXTS) for p in every])
    for turn in range(len(every)):
        own, *others = every[turn:] + every[:turn]
        classifier = PrefixClassifier(backbone, task, own, Ensemble(others))
        expected = alone.softmax(-1).mean(0).log()
        torch.testing.assert_close(classifier.logits(TEXTS), expected, atol=1e-4, rtol=1e-3)
        [gradients] = classifier.gradients(TEXTS[:1], [1])
        assert abs(gradients.gradient).max() > 0


def test_another_defence_shares_the_model(
    backbone: CausalBackbone, task: Task, prefixes: dict[str, Prefix]
) -> None:
    """Weights in the model's type are held once."""
    classifier = PrefixClassifier(backbone, task, prefixes[SPECS[1]])
    other = classifier.with_defense(RandomPrefix(rms=0.5))
    assert other.model.backbone is classifier.model.backbone
    assert classifier.defense.name == "none"
    with classifier.remembering():
        assert other.model.beginnings is None


def test_the_frozen_model_judges_how_fluent_adversaries_are(
    backbone: CausalBackbone, task: Task, tmp_path: Path
) -> None:
    """A tuned model would have a fluency of its own, stored under the frozen one's name."""
    classifier = PrefixClassifier(backbone, task, trained(backbone, task, "fine-tuning"))
    attack = FunctionAttack(lambda fields: Attempt((f"{fields[0]} or",), 1))
    run_attack(
        classifier,
        attack,
        load_split(task, "test"),
        defense=classifier.defense,
        protocol="direct",
        num_examples=8,
        seed=0,
        out=tmp_path,
    )
    with RecordStore(tmp_path / DATABASE) as store:
        qualities = read_qualities(store)
        judged = [r for r in store.records() if pair_key(r) in qualities]
    assert judged
    for record in judged:
        [text] = record.original
        [(total, _)] = backbone.log_likelihood([text])
        expected = math.exp(-total / len(text.split()))
        found = qualities[pair_key(record)].perplexity_original
        assert found == pytest.approx(expected, rel=1e-3)
        [(tuned, _)] = classifier.model.backbone.log_likelihood([text])
        assert abs(tuned - total) > 1


@pytest.mark.parametrize(
    ("spec", "asked", "message"),
    [
        pytest.param(SPECS[0], "adapters(width=5)", "adapters of width 5", id="width"),
        pytest.param(SPECS[0], "adapters(width=4, layers=0)", r"in \[0\] to start", id="layers"),
        pytest.param(SPECS[0], "adapters(width=4, activation=relu)", "relu", id="activation"),
        pytest.param(SPECS[1], "adapters(width=4)", "got none; ask", id="no adapters"),
        pytest.param(SPECS[1], "fine-tuning(layers=1)", "weights of the layers '1'", id="weights"),
        pytest.param(SPECS[0], "fine-tuning", "got 0 of", id="no weights"),
        pytest.param(SPECS[0], "prefix-tuning", "of length 10 to start from, got 0", id="prefix"),
    ],
)
def test_what_cannot_be_gone_on_with(
    backbone: CausalBackbone,
    task: Task,
    prefixes: dict[str, Prefix],
    spec: str,
    asked: str,
    message: str,
) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        build_method(asked).trainable(backbone, task, prefixes[spec])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("spec", SPECS)
def test_settings_that_do_not_fit_the_model(
    backbone: CausalBackbone, task: Task, spec: str
) -> None:
    name = build_method(spec).name
    with pytest.raises(ConfigError, match="layers of 0 to 2 for tiny-llama, got '3'"):
        build_method(f"{name}(layers=3)").trainable(backbone, task)
    with pytest.raises(ConfigError, match=f"that learns embeddings .* got '{name}'"):
        build_method(spec).trainable(backbone, replace(task, template="{prompt:2}{text} ?"))
    with pytest.raises(ConfigError, match="got a method that changes the model itself"):
        write_peft(trained(backbone, task, spec), "nowhere")


def test_a_file_that_was_tampered_with(
    backbone: CausalBackbone, prefixes: dict[str, Prefix], tmp_path: Path
) -> None:
    path = tmp_path / "prefix.safetensors"
    prefixes[SPECS[0]].save(path)
    tensors, metadata = load_tensors(path, "prefix")
    for wrong, message in (
        ({"places": metadata["places"][1:]}, "adapters at 5 places"),
        ({"activation": "sine"}, "one of gelu, relu, silu, tanh"),
        (
            {"places": [[9, "attention"]] * 6},
            r"layers of tiny-llama, got .* \[\(9, 'attention'\)\]",
        ),
    ):
        save_tensors(path, "prefix", tensors, {**metadata, **wrong})
        with pytest.raises(ArtifactError, match=message):
            Prefix.load(path).check_base(backbone)
    del metadata["places"]
    save_tensors(path, "prefix", tensors, metadata)
    with pytest.raises(ArtifactError, match="expected 'places' in the metadata"):
        Prefix.load(path)
    tuned = prefixes[SPECS[1]]
    name, weight = next(iter(tuned.weights.items()))
    for weights in ({"another": weight}, {name: weight[..., :-1]}):
        with pytest.raises(ArtifactError, match="weights of tiny-llama, got '"):
            replace(tuned, weights=weights).check_base(backbone)


def test_the_same_weights_have_one_fingerprint_in_any_order(
    prefixes: dict[str, Prefix], tmp_path: Path
) -> None:
    tuned = prefixes[SPECS[1]]
    turned = replace(tuned, weights=dict(reversed(tuned.weights.items())))
    assert turned.fingerprint == tuned.fingerprint
    names = list(tuned.weights)
    other = dict(zip(names[1:] + names[:1], tuned.weights.values(), strict=True))
    assert replace(tuned, weights=other).fingerprint != tuned.fingerprint


@pytest.mark.parametrize("spec", SPECS)
def test_what_a_model_in_bfloat16_takes_is_kept_in_bfloat16(
    tokenizer: PreTrainedTokenizerFast, task: Task, tmp_path: Path, spec: str
) -> None:
    """Half the file, and the dev accuracy of training is that of what is loaded."""
    backbone = tiny_backbone("llama", tokenizer)
    backbone.model.bfloat16()
    prefix = trained(backbone, task, spec)
    prefix.save(tmp_path / "a.safetensors")
    stored, _ = load_tensors(tmp_path / "a.safetensors", "prefix")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert Prefix.load(tmp_path / "a.safetensors").fingerprint == prefix.fingerprint
