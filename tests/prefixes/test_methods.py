"""Every method through the whole house: trained, killed, saved, loaded, defended."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from robust_prefix import trainer
from robust_prefix.backbones import CausalBackbone
from robust_prefix.classifier import PrefixClassifier
from robust_prefix.configs import MethodConfig, PrefixTuningConfig, SubspaceConfig, TrainingConfig
from robust_prefix.data import load_split, rows_as_fields
from robust_prefix.defenses import RandomPrefix, RobustPrefix
from robust_prefix.errors import ArtifactError, ConfigError
from robust_prefix.evaluation.accuracy import measured_run
from robust_prefix.fitting import fit_subspaces
from robust_prefix.prefixes import METHODS, Prefix, build_method, method_of
from robust_prefix.prefixes.searched import Searched
from robust_prefix.tasks import Task
from robust_prefix.training import train_prefix

PLAIN = "{text} is this review negative or positive ?"
SPECS = {
    "prefix-tuning(length=4)": PLAIN,
    "prefix-tuning(length=4, layers=1-2, reparameterization=mlp, mlp_width=16)": PLAIN,
    "gated-prefix(length=4, init=activations)": PLAIN,
    "gated-prefix(length=4, gate=token, gated=both)": PLAIN,
    "conv-prompt(width=3)": PLAIN,
    "p-tuning-v2(length=4, layers=0-1)": PLAIN,
    "adapters(width=4)": PLAIN,
    "adapters(width=6, places=feed-forward, activation=tanh, layers=1-2)": PLAIN,
    "fine-tuning": PLAIN,
    "fine-tuning(layers=1)": PLAIN,
    "prompt-tuning(length=4)": PLAIN,
    "prompt-tuning(length=0)": "{text} is it{prompt:3} good ?{prompt:1}",
    "p-tuning(length=4, encoder_width=16)": PLAIN,
    "p-tuning(length=1, encoder=mlp, encoder_width=16, init=labels)": "{prompt:3}{text}{prompt:2}",
}
"""Methods and the template of the task they are trained on."""
TEXTS = ["the film is good and warm", "the plot is dull", "a story"]
SHORT = TrainingConfig(epochs=1, batch_size=8, learning_rate=0.02, evaluations_per_epoch=2)


def config_of(spec: str) -> MethodConfig:
    config: MethodConfig = build_method(spec).config
    return config


@dataclass(frozen=True)
class Trained:
    """A method and what a short training with it gave."""

    spec: str
    task: Task
    prefix: Prefix


@pytest.fixture(scope="module", params=SPECS)
def trained(request: pytest.FixtureRequest, backbone: CausalBackbone, task: Task) -> Trained:
    """Each of them in turn."""
    spec: str = request.param
    task = replace(task, template=SPECS[spec])
    prefix = train_prefix(backbone, task, prefix=config_of(spec), training=SHORT, seed=3)
    return Trained(spec, task, prefix)


def test_every_method_is_in_the_table() -> None:
    trained = {name for name, method in METHODS.items() if not issubclass(method, Searched)}
    assert {build_method(spec).name for spec in SPECS} == trained


def test_training_changes_what_is_learned_and_counts_it(
    backbone: CausalBackbone, trained: Trained
) -> None:
    task, prefix = trained.task, trained.prefix
    method = build_method(trained.spec)
    assert prefix.config["method"] == method.name
    torch.manual_seed(3)
    with torch.no_grad():
        before = method.trainable(backbone, task)(backbone)
    for name, tensor in prefix.learned.tensors().items():
        assert tensor.dtype == torch.float32
        if tensor.numel():  # no keys and values where nothing stands before the prompt
            assert (tensor - before.tensors()[name]).abs().max() > 1e-3
    sizes = {
        "layers": backbone.num_layers if prefix.layers is None else len(prefix.layers),
        "kv_heads": backbone.kv_heads,
        "head_dim": backbone.head_dim,
        "hidden": backbone.hidden_size,
        "length": method.length(task) + task.virtual_tokens[1],
        "classes": len(task.labels),
        "width": _width(prefix),
        "weights": sum(weight.numel() for weight in prefix.weights.values()),
        "adapters": len(prefix.adapters.places) if prefix.adapters is not None else 0,
    }
    kept = 0
    for term in method.formula.split(" + "):
        factors = (sizes[f] if f in sizes else int(f) for f in term.split(" * "))
        kept += math.prod(factors)
    assert prefix.parameters == kept
    assert prefix.config["trained_parameters"] >= kept
    parameters = measured_run(backbone, task, prefix).measurements["parameters"]
    assert parameters["trainable"] == kept
    assert parameters["percent"] == pytest.approx(100 * kept / parameters["frozen"])


def _width(prefix: Prefix) -> int:
    if prefix.adapters is not None:
        return prefix.adapters.width
    return 0 if prefix.kernel is None else len(prefix.kernel)


def test_it_comes_back_with_the_same_answers(
    backbone: CausalBackbone, trained: Trained, tmp_path: Path
) -> None:
    task, prefix = trained.task, trained.prefix
    saved = PrefixClassifier(backbone, task, prefix)
    saved.save_pretrained(tmp_path)
    loaded = PrefixClassifier.from_pretrained(tmp_path, backbone=backbone)
    assert torch.equal(loaded.logits(TEXTS), saved.logits(TEXTS))
    assert loaded.model.prefix.fingerprint == prefix.fingerprint
    assert loaded.model.prefix.learned.tensors().keys() == prefix.learned.tensors().keys()


def test_a_killed_training_ends_in_the_same(
    backbone: CausalBackbone,
    trained: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec, task, whole = trained.spec, trained.task, trained.prefix

    class Killed(BaseException):
        pass

    @contextlib.contextmanager
    def deadly(description: str, total: int, done: int = 0) -> Iterator[object]:
        def advance(completed: int, note: str) -> None:
            if completed >= 3:
                raise Killed

        yield advance

    def train() -> Prefix:
        config = config_of(spec)
        return train_prefix(backbone, task, prefix=config, training=SHORT, seed=3, out=tmp_path)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "progress", deadly)
        with pytest.raises(Killed):
            train()
    assert (tmp_path / "checkpoints" / "checkpoint-2").is_dir()
    assert train().fingerprint == whole.fingerprint


def test_it_can_be_defended(backbone: CausalBackbone, trained: Trained) -> None:
    task, prefix = trained.task, trained.prefix
    spaces = fit_subspaces(backbone, prefix, task, config=SubspaceConfig(threshold=0.6))
    classifier = PrefixClassifier(backbone, task, prefix)
    defense = RobustPrefix(spaces, steps=2)
    plain, defended = (
        PrefixClassifier(backbone, task, prefix, defense=each).logits(TEXTS)
        for each in (None, defense)
    )
    assert (plain - defended).abs().max() > 1e-3
    alone = PrefixClassifier(backbone, task, prefix, defense=defense).logits(TEXTS[:1])
    torch.testing.assert_close(alone, defended[:1], atol=1e-3, rtol=1e-3)
    texts = rows_as_fields(task, load_split(task, "dev"))[:4]
    control = RandomPrefix.matching(defense, classifier.model, texts)
    noisy = PrefixClassifier(backbone, task, prefix, defense=control).logits(TEXTS)
    assert (plain - noisy).abs().max() > 1e-3
    [gradients] = classifier.gradients(TEXTS[:1], [1])
    assert abs(gradients.gradient).max() > 0


def test_it_goes_on_from_itself(backbone: CausalBackbone, trained: Trained) -> None:
    spec, task, prefix = trained.spec, trained.task, trained.prefix
    still = TrainingConfig(epochs=1, learning_rate=1e-12, batch_size=16)
    again = train_prefix(backbone, task, prefix=config_of(spec), training=still, start=prefix)
    for name, tensor in again.learned.tensors().items():
        torch.testing.assert_close(tensor, prefix.learned.tensors()[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("spec", "settings", "message"),
    [
        pytest.param("promt-tuning", {}, "did you mean 'prompt-tuning'", id="unknown method"),
        pytest.param("prompt-tuning(len=2)", {}, "did you mean 'length'", id="unknown setting"),
        pytest.param("prefix-tuning(length=0)", {}, "a valid length", id="no virtual token"),
        pytest.param("prompt-tuning(length=many)", {}, "got 'many'", id="no number"),
        pytest.param("prompt-tuning(init=labels)", {"mlp_width": 3}, "'mlp_width'", id="foreign"),
        pytest.param(
            "prompt-tuning(length=3)", {"length": 4}, "each setting of prompt-tuning once", id="two"
        ),
    ],
)
def test_a_bad_method_is_one_clear_line(
    spec: str, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        build_method(spec, **settings)
    assert "\n" not in str(raised.value)


def test_a_configuration_names_its_method() -> None:
    for spec in SPECS:
        method = build_method(spec)
        assert type(method_of(method.config)) is type(method)
    with pytest.raises(ConfigError, match="configuration of a method"):
        method_of(TrainingConfig())


@pytest.mark.parametrize("spec", ["prefix-tuning(length=256)", "prompt-tuning(length=300)"])
def test_a_length_beyond_the_positions_is_found_before_training(
    backbone: CausalBackbone, task: Task, spec: str
) -> None:
    with pytest.raises(ConfigError, match="a length below the 256 positions of tiny-llama, got"):
        train_prefix(backbone, task, prefix=config_of(spec))


@pytest.mark.parametrize(
    ("spec", "template", "message"),
    [
        pytest.param(
            "p-tuning(length=0)", PLAIN, "expected virtual tokens for p-tuning, got", id="none"
        ),
        pytest.param(
            "prefix-tuning", "{text}{prompt:2}", "a method that learns embeddings", id="deep"
        ),
        pytest.param(
            "p-tuning(length=200)", "{prompt:60}{text} ?", "positions of tiny-llama, got", id="long"
        ),
    ],
)
def test_a_method_that_does_not_fit_the_template(
    backbone: CausalBackbone, task: Task, spec: str, template: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train_prefix(backbone, replace(task, template=template), prefix=config_of(spec))


def test_only_embeddings_can_go_on_as_embeddings(
    backbone: CausalBackbone, task: Task, prefix: Prefix
) -> None:
    with pytest.raises(ConfigError, match="a prefix with soft tokens to start from, got one of"):
        build_method("prompt-tuning(length=4)").trainable(backbone, task, prefix)


def test_soft_tokens_of_another_size_are_refused(backbone: CausalBackbone, prefix: Prefix) -> None:
    wrong = Prefix(
        prefix.tensor, backbone.name, backbone.fingerprint, soft_tokens=torch.zeros(4, 31)
    )
    with pytest.raises(ArtifactError, match="32 dimensions for tiny-llama, got 31"):
        wrong.check_base(backbone)


def test_a_tenth_of_a_percent() -> None:
    """Li & Liang's claim, at the sizes of GPT-2 medium (section 6 of the paper) and of ours."""
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    medium = GPT2Config(n_embd=1024, n_layer=24, n_head=16)
    small = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    percents = []
    for config in (medium, small):
        with torch.device("meta"):
            backbone = CausalBackbone(AutoModelForCausalLM.from_config(config), None, "meta")
        frozen = sum(weight.numel() for weight in backbone.model.parameters())
        shape = backbone.prefix_shape(PrefixTuningConfig().length)
        percents.append(100 * torch.Size(shape).numel() / frozen)
    assert percents == pytest.approx([0.14, 0.09], abs=0.005)
