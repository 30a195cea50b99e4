"""Encoders: the layer loop against independent computations, and the path through the house."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import gelu, layer_norm
from transformers import AddedToken, BertForSequenceClassification, DynamicCache

from robust_prefix.backbones import EncoderBackbone, TokenBatch, load_backbone
from robust_prefix.classifier import PrefixClassifier
from robust_prefix.configs import SubspaceConfig, TrainingConfig
from robust_prefix.data import load_split, rows_as_fields
from robust_prefix.defenses import Ensemble, Projection, RandomPrefix, RobustPrefix
from robust_prefix.errors import ArtifactError, ConfigError, InputError
from robust_prefix.fitting import fit_subspaces
from robust_prefix.objectives import PrefixObjective
from robust_prefix.prefixes import Prefix, PrefixModel, build_method, plain_scores, virtual
from robust_prefix.prefixes.model import Prompter
from robust_prefix.prefixes.peft import PeftCheckpoint, write_peft
from robust_prefix.subspaces import Subspaces, residual_norm_squared
from robust_prefix.tasks import VIRTUAL, Task
from robust_prefix.training import train_prefix

from .families import ENCODER_BUILDERS, enlarge, tiny_encoder, word_tokenizer

MASKED = "{text} . it was {mask} ."
ROWS = [[2, 30, 31, 4, 33, 34, 3], [2, 4, 3], [2, 35, 4, 36, 3]]  # [CLS] ... [MASK] ... [SEP]
TEXTS = ["the film is good and warm", "the plot is dull", "a story"]
SHORT = TrainingConfig(epochs=1, batch_size=8, learning_rate=0.02, evaluations_per_epoch=2)


@pytest.fixture(params=ENCODER_BUILDERS)
def encoder(request: pytest.FixtureRequest) -> EncoderBackbone:
    """Each architecture in turn, with a head that predicts masked words."""
    return tiny_encoder(request.param)


def random_prefix(backbone: EncoderBackbone, length: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(backbone.prefix_shape(length), generator=generator)


def own_forward(backbone: EncoderBackbone, prefix: torch.Tensor, batch: TokenBatch) -> Any:
    """transformers' own forward over the whole model, prefix as its cache, padding masked."""
    cache = DynamicCache()
    for layer in range(backbone.num_layers):
        keys, values = (part.expand(len(batch.ids), -1, -1, -1) for part in prefix[layer])
        cache.update(keys, values, layer)
    shown = torch.ones(len(batch.ids), prefix.shape[3])
    mask = torch.cat([shown, batch.real.float()], dim=1)
    with torch.no_grad():
        return backbone.model.base_model(
            batch.ids, attention_mask=mask, past_key_values=cache
        ).last_hidden_state


def test_layer_loop_equals_the_models_own_forward(encoder: EncoderBackbone) -> None:
    prefix = random_prefix(encoder)
    batch = encoder.pad(ROWS)
    with torch.no_grad():
        hidden = encoder.embed(batch, 5)
        for layer in range(encoder.num_layers):  # in pieces, as a defence runs it
            hidden = encoder.run_layers(hidden, layer, layer + 1, batch, prefix)
    theirs = own_forward(encoder, prefix, batch)
    assert theirs.std() > 0.1
    torch.testing.assert_close(hidden[batch.real], theirs[batch.real], atol=1e-5, rtol=1e-5)


def test_the_masked_word_is_the_models_own(encoder: EncoderBackbone) -> None:
    batch = encoder.pad(ROWS)
    nothing = torch.zeros(encoder.prefix_shape(0))
    words = torch.tensor([30, 36])
    with torch.no_grad():
        theirs = encoder.model(batch.ids, attention_mask=batch.real.long()).logits
        state = encoder.run_to_answer(encoder.embed(batch, 0), 0, batch, nothing)
        ours = encoder.next_token_logits(state)
        some = encoder.next_token_logits(state, words)
    assert batch.answer.tolist() == [3, 1, 2]
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, batch.at_answer(theirs), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(some, ours[:, words])


def test_one_layer_by_hand() -> None:
    """Attention over prefix and text written out, for one row without padding."""
    backbone = tiny_encoder("bert")
    prefix = random_prefix(backbone, 2)
    batch = backbone.pad(ROWS[:1])
    hidden = backbone.embed(batch, 2)
    layer = backbone.model.base_model.encoder.layer[1]
    text = hidden[0]
    query, key, value = (
        part(text).view(7, 4, 8).transpose(0, 1)
        for part in (
            layer.attention.self.query,
            layer.attention.self.key,
            layer.attention.self.value,
        )
    )
    keys, values = torch.cat([prefix[1, 0], key], 1), torch.cat([prefix[1, 1], value], 1)
    weights = (query @ keys.transpose(1, 2) / math.sqrt(8)).softmax(-1)
    mixed = (weights @ values).transpose(0, 1).reshape(7, 32)
    attended = layer.attention.output
    norm = attended.LayerNorm
    text = layer_norm(attended.dense(mixed) + text, (32,), norm.weight, norm.bias, norm.eps)
    wide = layer.output.dense(gelu(layer.intermediate.dense(text)))
    norm = layer.output.LayerNorm
    expected = layer_norm(wide + text, (32,), norm.weight, norm.bias, norm.eps)
    ours = backbone.run_layers(hidden, 1, 2, batch, prefix)[0]
    assert weights[:, :, :2].sum(-1).mean() > 0.05, "nobody reads the prefix"
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_logits_are_those_of_peft(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    backbone = tiny_encoder("bert", words=False)
    torch.manual_seed(0)
    classifier = enlarge(BertForSequenceClassification(backbone.model.config)).eval()
    classifier.bert.load_state_dict(backbone.model.state_dict(), strict=False)
    config = peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=5)
    theirs = peft.get_peft_model(classifier, config).eval()
    table = theirs.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        table.copy_(torch.randn(table.shape, generator=torch.Generator().manual_seed(0)))
    # A virtual token's row: for each layer its keys, then its values.
    prefix = table.detach().view(5, 3, 2, 4, 8).permute(1, 2, 3, 0, 4).contiguous()
    batch = backbone.pad([[2, 30, 31, 3], [2, 36, 3]])
    with torch.no_grad():
        expected = theirs(batch.ids, attention_mask=batch.real.long()).logits
        state = backbone.run_to_answer(backbone.embed(batch, 5), 0, batch, prefix)
        pooled = torch.tanh(classifier.bert.pooler.dense(state))
        linear = classifier.classifier.modules_to_save["default"]
        ours = linear(pooled)
    assert expected.std() > 0.01
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_a_layer_at_the_answer_position_alone(encoder: EncoderBackbone) -> None:
    batch = encoder.pad(ROWS)
    shared = random_prefix(encoder)
    own = shared + torch.randn(3, *shared.shape, generator=torch.Generator().manual_seed(1))
    weights = torch.linspace(-1, 1, 96).view(3, 32)
    for prefixes in (shared.clone(), own.transpose(0, 1)):
        prefixes.requires_grad_()
        hidden = encoder.embed(batch, 5).requires_grad_()
        whole = batch.at_answer(encoder.run_layers(hidden, 1, 2, batch, prefixes))
        alone = encoder.run_layer_at_answer(hidden, 1, batch, prefixes)
        torch.testing.assert_close(alone, whole, atol=1e-5, rtol=1e-5)
        theirs = torch.autograd.grad((whole * weights).sum(), [prefixes, hidden])
        ours = torch.autograd.grad((alone * weights).sum(), [prefixes, hidden])
        assert theirs[0].abs().max() > 0.01
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_real_tokens_to_start_from_are_those_of_the_text_alone(encoder: EncoderBackbone) -> None:
    tokens = encoder.tokenize(["the film is good"])[0]
    found = encoder.token_keys_and_values(tokens)
    assert found.shape == encoder.prefix_shape(len(tokens))
    hidden = encoder.embed(encoder.pad([tokens]), 0)
    keys = encoder.model.base_model.encoder.layer[0].attention.self.key(hidden)[0]
    torch.testing.assert_close(found[0, 0], keys.view(-1, 4, 8).transpose(0, 1))


def test_text_that_spells_a_special_token_is_ordinary_text() -> None:
    backbone = tiny_encoder("bert")
    [row] = backbone.tokenize(["good [MASK] [PAD] [SEP]"])
    special = {backbone.mask_token, backbone.padding, *backbone.before, *backbone.after}
    assert not special & set(row)


def test_too_many_positions_is_one_clear_line(encoder: EncoderBackbone) -> None:
    most = 128 - (0 if encoder.model.config.model_type == "bert" else 1)
    encoder.embed(encoder.pad([[30] * (most - 10)]), 10)
    with pytest.raises(InputError, match=f"at most {most} positions"):
        encoder.embed(encoder.pad([[30] * (most - 9)]), 10)


# The path through the house: what answers, and on which model and template.
CASES: dict[str, tuple[str, str, bool, str]] = {
    "masked-word": ("prefix-tuning(length=4)", "bert", True, MASKED),
    "masked-word-first": ("prefix-tuning(length=4)", "roberta", True, "{mask} : {text}"),
    "head": ("p-tuning-v2(length=4)", "bert", False, "{text} is it good ?"),
    "head-by-itself": ("prefix-tuning(length=4)", "bert", False, "{text} is it good ?"),
    "head-through-an-mlp": (
        "p-tuning-v2(length=4, reparameterization=mlp, mlp_width=16, init=random)",
        "xlm-roberta",
        True,
        "{text} is it good ?",
    ),
}


class Trained:
    """A method and what a short training with it gave."""

    def __init__(self, case: str, task: Task) -> None:
        spec, kind, words, template = CASES[case]
        self.head = case.startswith("head")
        self.backbone = tiny_encoder(kind, words)
        self.task = replace(task, template=template, max_tokens=64)
        self.method = build_method(spec)
        self.prefix = self.train()

    def train(self, **settings: Any) -> Prefix:
        method = self.method.config
        training = replace(SHORT, **settings)
        return train_prefix(self.backbone, self.task, prefix=method, training=training, seed=3)

    def model(self) -> PrefixModel:
        return PrefixModel(self.backbone, self.task, self.prefix)


@pytest.fixture(scope="module", params=CASES)
def trained(request: pytest.FixtureRequest, task: Task) -> Trained:
    return Trained(request.param, task)


@pytest.fixture(scope="module")
def spaces(trained: Trained) -> Subspaces:
    config = SubspaceConfig(threshold=0.6)
    return fit_subspaces(trained.backbone, trained.prefix, trained.task, config=config)


def test_a_few_texts_are_learned_by_heart(trained: Trained) -> None:
    backbone, task = trained.backbone, trained.task
    torch.manual_seed(3)
    prompter = Prompter(backbone, task, head=trained.head)
    objective = PrefixObjective(prompter, trained.method.trainable(backbone, task))
    rows = load_split(task, "train").select(range(6, 14))
    batch = backbone.pad(prompter.encode(rows_as_fields(task, rows)).rows)
    labels = torch.tensor(rows["label"])
    assert 0 < labels.sum() < len(labels)
    optimizer = torch.optim.Adam(objective.parameters(), 0.05)
    losses = []
    for _ in range(80):
        found = objective(batch.ids, batch.answer, labels, lengths=batch.lengths)
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        losses.append(found["loss"].item())
    assert min(losses) < 0.7 * losses[0]
    assert found["logits"].shape == (8, 2)


def test_what_is_learned_is_counted(trained: Trained) -> None:
    prefix = trained.prefix
    deep = 3 * 2 * 4 * 4 * 8
    assert prefix.tensor.numel() == deep
    if not trained.head:
        assert prefix.head is None
        assert prefix.parameters == deep
        return
    assert prefix.head is not None
    assert prefix.head.shape == (2, 33)
    assert prefix.parameters == deep + 2 * 33
    torch.manual_seed(3)
    before = trained.method.trainable(trained.backbone, trained.task)(trained.backbone)
    assert (prefix.head - before.head).abs().max() > 1e-3


def test_it_comes_back_with_the_same_answers(trained: Trained, tmp_path: Path) -> None:
    saved = PrefixClassifier(trained.backbone, trained.task, trained.prefix)
    saved.save_pretrained(tmp_path)
    loaded = PrefixClassifier.from_pretrained(tmp_path, backbone=trained.backbone)
    assert torch.equal(loaded.logits(TEXTS), saved.logits(TEXTS))
    assert loaded.model.prefix.fingerprint == trained.prefix.fingerprint


def test_it_goes_on_from_itself(trained: Trained) -> None:
    again = trained.method.trainable(trained.backbone, trained.task, trained.prefix)
    for name, tensor in again(trained.backbone).tensors().items():
        torch.testing.assert_close(tensor, trained.prefix.learned.tensors()[name])


def test_scores_are_those_of_each_text_alone(trained: Trained) -> None:
    """The texts begin alike, which saves nothing where states depend on what follows."""
    model = trained.model()
    texts = [(f"the film is good and {word}",) for word in ("warm", "dull", "bright and weak")]
    together = plain_scores(model, model.prompter.encode(texts))
    with torch.no_grad():
        alone = [model.logits(model.pad(model.prompter.encode([text]))) for text in texts]
    assert together.std() > 1e-3
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)


def test_it_can_be_defended(trained: Trained, spaces: Subspaces, tmp_path: Path) -> None:
    plain = PrefixClassifier(trained.backbone, trained.task, trained.prefix)
    defense = RobustPrefix(spaces, steps=3)
    for other in (defense, Projection(spaces), RandomPrefix(rms=0.5)):
        defended = plain.with_defense(other)
        together = defended.logits(TEXTS)
        assert (together - plain.logits(TEXTS)).abs().max() > 1e-4
        alone = torch.cat([defended.logits([text]) for text in TEXTS])
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-3)
    tuned = plain.with_defense(defense)
    tuned.save_pretrained(tmp_path)
    loaded = PrefixClassifier.from_pretrained(tmp_path, backbone=trained.backbone)
    assert torch.equal(loaded.logits(TEXTS), tuned.logits(TEXTS))


def test_members_of_an_ensemble_keep_their_heads(trained: Trained) -> None:
    others = [trained.prefix, trained.train(epochs=2)]
    alone = [
        PrefixClassifier(trained.backbone, trained.task, prefix).logits(TEXTS) for prefix in others
    ]
    assert (alone[0] - alone[1]).abs().max() > 1e-4
    together = PrefixClassifier(trained.backbone, trained.task, others[0], Ensemble(others[1:]))
    means = torch.stack([scores.softmax(-1) for scores in alone]).mean(0)
    torch.testing.assert_close(together.logits(TEXTS).softmax(-1), means, atol=1e-5, rtol=1e-4)


def test_tuning_lowers_its_loss(trained: Trained, spaces: Subspaces) -> None:
    """On the first layers of an encoder, where the additional prefix is read both ways."""
    model = trained.model()
    encoded = model.prompter.encode([(text,) for text in TEXTS])
    deepest = max(spaces.layers)
    inputs = model.pad(encoded)

    def left_over(added: torch.Tensor) -> torch.Tensor:
        hidden = inputs.embedded
        batch = inputs.batch
        for layer in range(deepest):
            prefixes = {layer: model.prefix_tensor[layer] + added[:, layer]}
            hidden = trained.backbone.run_layers(hidden, layer, layer + 1, batch, prefixes)  # type: ignore[arg-type]
        return residual_norm_squared(spaces.layers[deepest], batch.at_answer(hidden))

    defense = RobustPrefix(spaces, steps=10, optimizer="polyak")
    added = defense.additional_prefix(model, encoded)
    with torch.no_grad():
        assert left_over(added).sum() < 0.5 * left_over(torch.zeros_like(added)).sum()


def test_gradients_name_every_token(trained: Trained) -> None:
    classifier = PrefixClassifier(trained.backbone, trained.task, trained.prefix)
    [found] = classifier.gradients(["the film is good"], [1])
    assert len(found.tokens) == len(found.spans) == len(found.gradient)
    named = [span for span in found.spans if span is not None]
    assert named == [(0, 0, 3), (0, 4, 8), (0, 9, 11), (0, 12, 16)]
    assert all((abs(row) > 0).any() for row in found.gradient)


@pytest.mark.parametrize("adversary", ["pgd(steps=1)", "freelb(steps=1)"])
def test_an_adversary_leaves_the_padding_alone(trained: Trained, adversary: str) -> None:
    prefix = trained.train(adversary=adversary)
    assert torch.isfinite(prefix.tensor).all()
    assert prefix.config["dev_accuracy"] >= 0


def test_a_long_text_loses_tokens_and_nothing_of_the_template(trained: Trained) -> None:
    task = replace(trained.task, max_tokens=12)
    prompter = Prompter(trained.backbone, task, head=trained.head)
    [short], [long] = (prompter.encode([(text,)]).rows for text in ("good", "good " * 40))
    assert len(long) <= 12
    assert [token for token in long if token != short[short.index(long[3])]] != []
    fixed = [token for token in short if token not in trained.backbone.tokenize(["good"])[0]]
    assert [token for token in long if token in fixed] == fixed
    assert len(prompter.spans(("good " * 40,))) == len(long)


@pytest.mark.parametrize(
    ("spec", "words", "template", "message"),
    [
        pytest.param(
            "prefix-tuning", True, "{text} is it good ?", r"\{mask\} in the template", id="causal"
        ),
        pytest.param(
            "p-tuning-v2(answer=words)", False, MASKED, "no language-model head", id="no-words"
        ),
        pytest.param(
            "prompt-tuning", True, MASKED, "expected a decoder for prompt-tuning", id="soft"
        ),
        pytest.param(
            "p-tuning", True, MASKED, "expected a decoder for p-tuning", id="soft-encoder"
        ),
    ],
)
def test_what_does_not_fit_an_encoder_is_refused(
    task: Task, spec: str, words: bool, template: str, message: str
) -> None:
    backbone = tiny_encoder("bert", words)
    task = replace(task, template=template)
    with pytest.raises(ConfigError, match=message):
        train_prefix(backbone, task, prefix=build_method(spec).config, training=SHORT)


def test_a_mask_is_refused_on_a_decoder(model: PrefixModel, task: Task) -> None:
    with pytest.raises(ConfigError, match="does not fill in blanks"):
        Prompter(model.backbone, replace(task, template=MASKED))


def test_a_head_of_other_classes_is_refused(task: Task) -> None:
    backbone = tiny_encoder("bert", words=False)
    prefix = Prefix(random_prefix(backbone), "b", backbone.fingerprint, head=torch.zeros(3, 33))
    with pytest.raises(ArtifactError, match="head of the 2 classes"):
        PrefixModel(backbone, task, prefix)
    narrow = replace(prefix, head=torch.zeros(2, 9))
    with pytest.raises(ArtifactError, match="head over 32 dimensions"):
        PrefixModel(backbone, task, narrow)


def test_peft_checkpoints_are_for_decoders(tmp_path: Path) -> None:
    backbone = tiny_encoder("bert", words=False)
    prefix = Prefix(random_prefix(backbone), "b", backbone.fingerprint)
    with pytest.raises(ConfigError, match="classification head"):
        write_peft(replace(prefix, head=torch.zeros(2, 33)), tmp_path)
    write_peft(prefix, tmp_path)
    with pytest.raises(ConfigError, match="a decoder for a PEFT checkpoint"):
        PeftCheckpoint.read(tmp_path).prefix(backbone)


@pytest.mark.parametrize("words", [True, False], ids=["with-words", "without"])
def test_a_folder_is_loaded_as_what_it_holds(tmp_path: Path, words: bool) -> None:
    backbone = tiny_encoder("bert", words)
    backbone.model.save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    loaded, again = (load_backbone(str(tmp_path), dtype="float32") for _ in range(2))
    assert isinstance(loaded, EncoderBackbone)
    assert loaded.vocabulary == words
    assert loaded.fingerprint == again.fingerprint  # nothing in it is made up at loading
    batch = backbone.pad(ROWS)
    prefix = random_prefix(backbone)
    with torch.no_grad():
        ours, theirs = (
            one.run_to_answer(one.embed(batch, 5), 0, batch, prefix).float()
            for one in (load_backbone(str(tmp_path), dtype="float32"), backbone)
        )
    torch.testing.assert_close(ours, theirs)


def test_an_unknown_encoder_is_refused() -> None:
    backbone = tiny_encoder("bert")
    backbone.model.config.model_type = "odd"
    with pytest.raises(ConfigError, match="'odd'"):
        EncoderBackbone(backbone.model, backbone.tokenizer, "odd")
    backbone.model.config.model_type = "bert"
    backbone.model.config.is_decoder = True
    with pytest.raises(ConfigError, match="is_decoder"):
        EncoderBackbone(backbone.model, backbone.tokenizer, "decoder")


def test_layers_compute_in_float32_for_float32_states() -> None:
    """As the tuning asks for, whatever the model's own type."""
    backbone = tiny_encoder("bert")
    backbone.model.to(torch.bfloat16)
    batch = backbone.pad(ROWS)
    prefix = random_prefix(backbone)
    hidden = backbone.embed(batch, 5).float()
    with torch.no_grad():
        found = backbone.run_layers(hidden, 0, 2, batch, prefix)
        alone = backbone.run_layer_at_answer(hidden, 0, batch, prefix)
    assert found.dtype == alone.dtype == torch.float32


def test_a_space_before_the_mask_is_the_masks_where_its_tokenizer_says_so() -> None:
    """RoBERTa's own tokenizer swallows it; kept, it would be a token that was never seen there."""
    backbone = tiny_encoder("roberta")
    task = Task(
        name="own",
        columns=("text",),
        labels=("no", "yes"),
        label_words=(" no", " yes"),
        template="{text} it was {mask} .",
    )
    prompt = task.render(("good",))
    assert not backbone.mask_takes_space
    kept = [text for _, text in virtual._pieces(backbone, task, prompt)]
    del backbone.mask_takes_space
    mask = AddedToken(backbone.tokenizer.mask_token, lstrip=True, special=True)
    backbone.tokenizer.add_special_tokens({"mask_token": mask})
    assert backbone.mask_takes_space
    taken = [text for _, text in virtual._pieces(backbone, task, prompt)]
    assert kept == ["good it was ", VIRTUAL, " ."]
    assert taken == ["good it was", VIRTUAL, " ."]
    rows = virtual.tokenize(backbone, task, [prompt])
    assert len(rows[0]) == len(virtual.token_offsets(backbone, task, prompt))
