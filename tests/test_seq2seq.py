"""Encoder-decoders: each prefix against independent computations, and the way through the house."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from robust_prefix.backbones import Seq2SeqBackbone, TokenBatch, load_backbone
from robust_prefix.classifier import PrefixClassifier
from robust_prefix.configs import PrefixTuningConfig, SubspaceConfig, TrainingConfig
from robust_prefix.data import load_split, rows_as_fields
from robust_prefix.defenses import Projection, RandomPrefix, RobustPrefix
from robust_prefix.errors import ArtifactError, ConfigError, InputError
from robust_prefix.fitting import fit_subspaces
from robust_prefix.objectives import PrefixObjective
from robust_prefix.prefixes import Learned, Prefix, PrefixModel, build_method, plain_scores
from robust_prefix.prefixes.model import Prompter
from robust_prefix.prefixes.prefix_tuning import chosen_rows
from robust_prefix.tasks import Task
from robust_prefix.training import train_prefix

from .families import SEQ2SEQ_BUILDERS, tiny_seq2seq, word_tokenizer

ROWS = [[30, 31, 33, 34, 35, 3], [36, 3], [35, 36, 37, 3]]
TEXTS = ["the film is good and warm", "the plot is dull", "a story"]
SHORT = TrainingConfig(epochs=1, batch_size=8, learning_rate=0.02, evaluations_per_epoch=2)
ENCODER, DECODER, CROSS = (0, 1), (2, 3, 4), (5, 6, 7)  # rows of a prefix
PARTS = {
    "encoder": ENCODER,
    "decoder": DECODER,
    "cross": CROSS,
    "encoder/cross": ENCODER + CROSS,
    "all": ENCODER + DECODER + CROSS,
}


@pytest.fixture(params=SEQ2SEQ_BUILDERS)
def seq2seq(request: pytest.FixtureRequest) -> Seq2SeqBackbone:
    """Each architecture in turn."""
    return tiny_seq2seq(request.param)


def random_prefix(backbone: Seq2SeqBackbone, length: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(backbone.prefix_shape(length), generator=generator)


def ours(backbone: Seq2SeqBackbone, batch: TokenBatch, learned: Learned) -> torch.Tensor:
    """Scores at the answer, layer by layer, as a defence runs them."""
    prefixes = learned.by_layer()
    hidden = backbone.embed(batch, learned.length)
    for layer in range(backbone.num_layers):
        hidden = backbone.run_layers(hidden, layer, layer + 1, batch, prefixes)
    return backbone.next_token_logits(batch.at_answer(hidden))


def attend(
    module: Any, text: torch.Tensor, memory: torch.Tensor, prefix: Any, bias: Any, scale: float
) -> torch.Tensor:
    """One text's attention over prefix and memory, written out for four heads of eight."""
    names = ("q", "k", "v", "o")
    if not hasattr(module, "q"):
        names = ("q_proj", "k_proj", "v_proj", "out_proj")
    query, keys, values, out = (getattr(module, name) for name in names)
    heads = [part.view(-1, 4, 8).transpose(0, 1) for part in (query(text), keys(memory))]
    value = values(memory).view(-1, 4, 8).transpose(0, 1)
    if prefix is not None:
        heads[1], value = torch.cat([prefix[0], heads[1]], 1), torch.cat([prefix[1], value], 1)
    scores = heads[0] @ heads[1].transpose(1, 2) * scale
    mixed = (scores + bias).softmax(-1) @ value
    return out(mixed.transpose(0, 1).reshape(len(text), 32))


def by_hand_t5(model: PreTrainedModel, row: list[int], prefix: dict[int, Any]) -> torch.Tensor:
    """T5 for one text: pre-norm blocks, distances as biases, no scaling of scores."""

    def distances(stack: Any, queries: int, past: int) -> torch.Tensor:
        attention = stack.block[0].layer[0].SelfAttention
        keys = torch.arange(past + queries)[None]
        places = torch.arange(past, past + queries)[:, None]
        buckets = attention._relative_position_bucket(
            keys - places, not attention.is_decoder, 8, 12
        )
        return attention.relative_attention_bias(buckets).permute(2, 0, 1)

    def length(number: int) -> int:
        return prefix[number].shape[2] if number in prefix else 0

    text = model.shared(torch.tensor(row))
    for number, block in enumerate(model.encoder.block):
        normed = block.layer[0].layer_norm(text)
        bias = distances(model.encoder, len(row), length(number))
        attention = block.layer[0].SelfAttention
        text = text + attend(attention, normed, normed, prefix.get(number), bias, 1)
        text = block.layer[1](text)
    memory = model.encoder.final_layer_norm(text)
    state = model.shared(torch.tensor([0]))
    for number, block in enumerate(model.decoder.block, start=2):
        normed = block.layer[0].layer_norm(state)
        bias = distances(model.decoder, 1, length(number))
        attention = block.layer[0].SelfAttention
        state = state + attend(attention, normed, normed, prefix.get(number), bias, 1)
        normed = block.layer[1].layer_norm(state)
        attention = block.layer[1].EncDecAttention
        state = state + attend(attention, normed, memory, prefix.get(number + 3), 0, 1)
        state = block.layer[2](state)
    state = model.decoder.final_layer_norm(state)
    return (state * 32**-0.5) @ model.shared.weight.T


def by_hand_bart(model: PreTrainedModel, row: list[int], prefix: dict[int, Any]) -> torch.Tensor:
    """BART for one text: post-norm layers and learned positions."""
    scale = 1 / math.sqrt(8)
    encoder, decoder = model.model.encoder, model.model.decoder
    positions = encoder.embed_positions.weight[2 : 2 + len(row)]
    text = encoder.layernorm_embedding(encoder.embed_tokens(torch.tensor(row)) + positions)
    for number, layer in enumerate(encoder.layers):
        attended = attend(layer.self_attn, text, text, prefix.get(number), 0, scale)
        text = layer.self_attn_layer_norm(text + attended)
        wide = layer.fc2(layer.activation_fn(layer.fc1(text)))
        text = layer.final_layer_norm(text + wide)
    past = prefix[2].shape[2] if 2 in prefix else 0
    positions = decoder.embed_positions.weight[2 + past][None]
    state = decoder.layernorm_embedding(decoder.embed_tokens(torch.tensor([3])) + positions)
    for number, layer in enumerate(decoder.layers, start=2):
        attended = attend(layer.self_attn, state, state, prefix.get(number), 0, scale)
        state = layer.self_attn_layer_norm(state + attended)
        attended = attend(layer.encoder_attn, state, text, prefix.get(number + 3), 0, scale)
        state = layer.encoder_attn_layer_norm(state + attended)
        wide = layer.fc2(layer.activation_fn(layer.fc1(state)))
        state = layer.final_layer_norm(state + wide)
    return state @ model.lm_head.weight.T + model.final_logits_bias


@pytest.mark.parametrize("parts", PARTS)
def test_every_part_is_what_it_says(seq2seq: Seq2SeqBackbone, parts: str) -> None:
    """In a padded batch, against each text alone written out."""
    rows = PARTS[parts]
    tensor = random_prefix(seq2seq)
    assert chosen_rows(PrefixTuningConfig(parts=parts), seq2seq) == (
        None if parts == "all" else rows
    )
    learned = Learned(tensor, layers=rows)
    batch = seq2seq.pad(ROWS)
    hand = {"t5": by_hand_t5, "bart": by_hand_bart}[seq2seq.model.config.model_type]
    with torch.no_grad():
        found = ours(seq2seq, batch, learned)
        alone = [hand(seq2seq.model, row, {r: tensor[r] for r in rows}) for row in ROWS]
        without = [hand(seq2seq.model, row, {}) for row in ROWS]
    expected = torch.cat(alone)
    assert (expected - torch.cat(without)).abs().max() > 1e-2, "the prefix changes nothing"
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_without_a_prefix_it_is_the_model_itself(seq2seq: Seq2SeqBackbone) -> None:
    batch = seq2seq.pad(ROWS)
    start = torch.full((3, 1), seq2seq.model.config.decoder_start_token_id)
    with torch.no_grad():
        theirs = seq2seq.model(
            input_ids=batch.ids, attention_mask=batch.real.long(), decoder_input_ids=start
        ).logits[:, 0]
        found = ours(seq2seq, batch, Learned(random_prefix(seq2seq, 0)))
        words = torch.tensor([30, 36])
        state = seq2seq.run_to_answer(seq2seq.embed(batch, 0), 0, batch, random_prefix(seq2seq, 0))
        some = seq2seq.next_token_logits(state, words)
    torch.testing.assert_close(found, theirs, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(some, theirs[:, words], atol=1e-5, rtol=1e-4)


def test_peft_puts_its_prefix_into_the_decoder_alone(seq2seq: Seq2SeqBackbone) -> None:
    """Its prefix for an encoder-decoder is our part ``decoder``: it empties the cross-attention's
    cache, and the encoder gets none. It doubles its rows before it deals them out, two pairs a
    layer, so that layer ``i`` of ``n`` gets the pair ``2 i mod n``."""
    peft = pytest.importorskip("peft")
    config = peft.PrefixTuningConfig(
        task_type="SEQ_2_SEQ_LM",
        num_virtual_tokens=5,
        num_layers=3,
        num_attention_heads=4,
        token_dim=32,
    )
    reference = tiny_seq2seq(seq2seq.model.config.model_type).model
    theirs = peft.get_peft_model(reference, config).eval()
    table = theirs.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        table.copy_(torch.randn(table.shape, generator=torch.Generator().manual_seed(0)))
    tensor = random_prefix(seq2seq)
    pairs = table.detach().view(5, 3, 2, 4, 8).permute(1, 2, 3, 0, 4)
    tensor[2:5] = pairs[[0, 2, 1]]
    batch = seq2seq.pad(ROWS)
    start = torch.full((3, 1), seq2seq.model.config.decoder_start_token_id)
    with torch.no_grad():
        expected = theirs(
            input_ids=batch.ids, attention_mask=batch.real.long(), decoder_input_ids=start
        ).logits[:, 0]
        found = ours(seq2seq, batch, Learned(tensor, layers=DECODER))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_gradients_reach_every_row_and_no_weight(seq2seq: Seq2SeqBackbone) -> None:
    prefix = random_prefix(seq2seq).requires_grad_()
    ours(seq2seq, seq2seq.pad(ROWS), Learned(prefix)).square().sum().backward()
    assert prefix.grad is not None
    # The last encoder layer's keys and values are read, and so is every row after it.
    assert (prefix.grad.abs().amax((2, 3, 4)) > 0).all()
    assert all(weight.grad is None for weight in seq2seq.model.parameters())


def test_each_text_may_have_a_prefix_of_its_own(seq2seq: Seq2SeqBackbone) -> None:
    generator = torch.Generator().manual_seed(1)
    own = torch.randn(3, *seq2seq.prefix_shape(4), generator=generator)
    batch = seq2seq.pad(ROWS)
    with torch.no_grad():
        state = seq2seq.run_to_answer(seq2seq.embed(batch, 4), 0, batch, own.transpose(0, 1))
        together = seq2seq.next_token_logits(state)
        alone = [
            ours(seq2seq, seq2seq.pad([row]), Learned(prefix))
            for row, prefix in zip(ROWS, own, strict=True)
        ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)


def test_real_tokens_to_start_from(seq2seq: Seq2SeqBackbone) -> None:
    """In every part: what the encoder, the decoder and the attention between them store."""
    tokens = seq2seq.tokenize(["the film is good"])[0]
    found = seq2seq.token_keys_and_values(tokens)
    assert found.shape == seq2seq.prefix_shape(len(tokens))
    assert found.flatten(1).std(1).min() > 0.01
    first = seq2seq.model.get_encoder()
    hidden = seq2seq.embed(seq2seq.pad([tokens]), 0)[0]
    if seq2seq.model.config.model_type == "t5":
        layer = first.block[0].layer[0]
        keys = layer.SelfAttention.k(layer.layer_norm(hidden))
    else:
        keys = first.layers[0].self_attn.k_proj(hidden)
    torch.testing.assert_close(found[0, 0], keys.view(-1, 4, 8).transpose(0, 1))


def test_too_many_positions_is_one_clear_line(seq2seq: Seq2SeqBackbone) -> None:
    with pytest.raises(InputError, match="at most 128 positions"):
        seq2seq.embed(seq2seq.pad([[30] * 120]), 10)


# The path through the house.
SPECS = [
    "prefix-tuning(length=4)",
    "prefix-tuning(length=4, parts=encoder)",
    "prefix-tuning(length=4, parts=decoder/cross, reparameterization=mlp, mlp_width=16)",
    "prefix-tuning(length=4, layers=1-2)",
    "gated-prefix(length=4)",
    "p-tuning-v2(length=4, parts=cross)",
]


class Trained:
    """A method and what a short training with it gave."""

    def __init__(self, kind: str, spec: str, task: Task) -> None:
        self.backbone = tiny_seq2seq(kind)
        self.task = replace(task, max_tokens=64)
        self.method = build_method(spec)
        self.prefix = train_prefix(
            self.backbone, self.task, prefix=self.method.config, training=SHORT, seed=3
        )

    def model(self) -> PrefixModel:
        return PrefixModel(self.backbone, self.task, self.prefix)


@pytest.fixture(
    scope="module",
    params=[(("t5", "bart")[place % 2], spec) for place, spec in enumerate(SPECS)],
    ids=lambda case: "-".join(case),
)
def trained(request: pytest.FixtureRequest, task: Task) -> Trained:
    return Trained(*request.param, task)


def test_a_few_texts_are_learned_by_heart(trained: Trained) -> None:
    backbone, task = trained.backbone, trained.task
    torch.manual_seed(3)
    prompter = Prompter(backbone, task, head=trained.method.has_head(backbone))
    objective = PrefixObjective(prompter, trained.method.trainable(backbone, task))
    rows = load_split(task, "train").select(range(6, 14))
    batch = backbone.pad(prompter.encode(rows_as_fields(task, rows)).rows)
    labels = torch.tensor(rows["label"])
    optimizer = torch.optim.Adam(objective.parameters(), 0.05)
    losses = []
    for _ in range(60):
        found = objective(batch.ids, batch.answer, labels, lengths=batch.lengths)
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        losses.append(found["loss"].item())
    assert min(losses) < 0.9 * losses[0]


def test_it_comes_back_with_the_same_answers(trained: Trained, tmp_path: Path) -> None:
    saved = PrefixClassifier(trained.backbone, trained.task, trained.prefix)
    saved.save_pretrained(tmp_path)
    loaded = PrefixClassifier.from_pretrained(tmp_path, backbone=trained.backbone)
    assert torch.equal(loaded.logits(TEXTS), saved.logits(TEXTS))
    assert loaded.model.prefix.layers == trained.prefix.layers


def test_scores_are_those_of_each_text_alone(trained: Trained) -> None:
    model = trained.model()
    texts = [(f"the film is good and {word}",) for word in ("warm", "dull", "bright and weak")]
    together = plain_scores(model, model.prompter.encode(texts))
    with torch.no_grad():
        alone = [model.logits(model.pad(model.prompter.encode([text]))) for text in texts]
    assert together.std() > 1e-3
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("layers", [3, 5], ids=["encoder", "into-the-decoder"])
def test_it_can_be_defended(trained: Trained, layers: int, tmp_path: Path) -> None:
    config = SubspaceConfig(layers=layers, threshold=0.6)
    spaces = fit_subspaces(trained.backbone, trained.prefix, trained.task, config=config)
    plain = PrefixClassifier(trained.backbone, trained.task, trained.prefix)
    tuned = RobustPrefix(spaces, steps=3)
    for defense in (tuned, Projection(spaces), RandomPrefix(rms=0.5)):
        defended = plain.with_defense(defense)
        together = defended.logits(TEXTS)
        assert (together - plain.logits(TEXTS)).abs().max() > 1e-5
        alone = torch.cat([defended.logits([text]) for text in TEXTS])
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-3)
    defended = plain.with_defense(tuned)
    defended.save_pretrained(tmp_path)
    loaded = PrefixClassifier.from_pretrained(tmp_path, backbone=trained.backbone)
    assert torch.equal(loaded.logits(TEXTS), defended.logits(TEXTS))


def test_gradients_name_every_token(trained: Trained) -> None:
    classifier = PrefixClassifier(trained.backbone, trained.task, trained.prefix)
    [found] = classifier.gradients(["the film is good"], [1])
    named = [span for span in found.spans if span is not None]
    assert named == [(0, 0, 3), (0, 4, 8), (0, 9, 11), (0, 12, 16)]
    assert all((abs(row) > 0).any() for row in found.gradient)


@pytest.mark.parametrize(
    ("spec", "template", "message"),
    [
        pytest.param("prompt-tuning", "{text} is it ?", "expected a decoder", id="soft tokens"),
        pytest.param("prefix-tuning", "{text} {mask}", "does not fill in blanks", id="mask"),
        pytest.param(
            "prefix-tuning(layers=0-1, parts=cross)", "{text} is it ?", "have none", id="nothing"
        ),
        pytest.param("prefix-tuning(layers=5)", "{text} is it ?", "layers of 0 to 4", id="layer"),
    ],
)
def test_what_does_not_fit_is_refused(task: Task, spec: str, template: str, message: str) -> None:
    task = replace(task, template=template)
    with pytest.raises(ConfigError, match=message):
        train_prefix(tiny_seq2seq("t5"), task, prefix=build_method(spec).config, training=SHORT)


def test_a_decoder_has_no_parts(model: PrefixModel) -> None:
    with pytest.raises(ConfigError, match="an encoder-decoder for parts=cross"):
        chosen_rows(PrefixTuningConfig(parts="cross"), model.backbone)
    with pytest.raises(ConfigError, match="a valid parts"):
        build_method("prefix-tuning(parts=head)")


def test_a_folder_is_loaded_as_what_it_holds(seq2seq: Seq2SeqBackbone, tmp_path: Path) -> None:
    seq2seq.model.save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    loaded = load_backbone(str(tmp_path), device="cpu", dtype="float32")
    assert type(loaded) is type(seq2seq)
    assert loaded.fingerprint == seq2seq.fingerprint
    batch = seq2seq.pad(ROWS)
    learned = Learned(random_prefix(seq2seq))
    with torch.no_grad():
        torch.testing.assert_close(ours(loaded, batch, learned), ours(seq2seq, batch, learned))


def test_layers_compute_in_float32_for_float32_states(seq2seq: Seq2SeqBackbone) -> None:
    seq2seq.model.to(torch.bfloat16)
    batch = seq2seq.pad(ROWS)
    hidden = seq2seq.embed(batch, 5).float()
    with torch.no_grad():
        found = seq2seq.run_layers(hidden, 0, 5, batch, random_prefix(seq2seq))
    assert found.dtype == torch.float32


def test_scaled_embeddings_are_refused() -> None:
    backbone = tiny_seq2seq("bart")
    backbone.model.config.scale_embedding = True
    with pytest.raises(ConfigError, match="expected a model with scale_embedding=False"):
        type(backbone)(backbone.model, backbone.tokenizer, "scaled")


def test_different_heads_are_refused() -> None:
    backbone = tiny_seq2seq("bart")
    backbone.model.config.decoder_attention_heads = 2
    with pytest.raises(ConfigError, match="as many heads"):
        type(backbone)(backbone.model, backbone.tokenizer, "uneven")  # type: ignore[call-arg]


def test_prefixes_of_another_family_do_not_fit(task: Task) -> None:
    backbone = tiny_seq2seq("t5")
    prefix = Prefix(torch.zeros(5, 2, 4, 3, 8), "other", backbone.fingerprint)
    with pytest.raises(ArtifactError, match="expected a prefix of shape"):
        PrefixModel(backbone, task, prefix)
