"""The layer loop against the models' own forward."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import SafetensorError
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import DynamicCache, PreTrainedTokenizerFast

from robust_prefix.backbones import CausalBackbone, attention, load_backbone, loading, packing
from robust_prefix.backbones.packing import Packing
from robust_prefix.errors import ConfigError, InputError, ResourceError, StorageError

from .conftest import tiny_backbone


def _reference_logits(
    backbone: CausalBackbone, prefix: torch.Tensor, rows: list[list[int]]
) -> torch.Tensor:
    """transformers' own forward over the whole model, prefix as its cache, padding masked."""
    batch = backbone.pad(rows)
    cache = DynamicCache()
    for layer in range(backbone.num_layers):
        keys, values = (part.expand(len(rows), -1, -1, -1) for part in prefix[layer])
        cache.update(keys, values, layer)
    mask = torch.ones(len(rows), prefix.shape[3] + batch.ids.shape[1], dtype=torch.long)
    for row, last in enumerate(batch.answer.tolist()):
        mask[row, prefix.shape[3] + last + 1 :] = 0
    with torch.no_grad():
        logits = backbone.model(batch.ids, past_key_values=cache, attention_mask=mask).logits
    return logits[torch.arange(len(rows)), batch.answer]


def test_layer_loop_equals_the_models_own_forward(any_backbone: CausalBackbone) -> None:
    prefix = torch.randn(any_backbone.prefix_shape(5), generator=torch.Generator().manual_seed(0))
    rows = [[5, 6, 7, 8, 9], [300, 301], [42]]
    batch = any_backbone.pad(rows)
    with torch.no_grad():
        hidden = any_backbone.embed(batch, 5)
        for layer in range(any_backbone.num_layers):  # in pieces, as a defence runs it
            hidden = any_backbone.run_layers(hidden, layer, layer + 1, batch, prefix)
        ours = any_backbone.next_token_logits(batch.at_answer(hidden))
        words = torch.tensor([3, 77])
        some = any_backbone.next_token_logits(batch.at_answer(hidden), words)
    theirs = _reference_logits(any_backbone, prefix, rows)
    assert theirs.std() > 0.1  # a model whose answers are all alike would prove nothing
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(some, theirs[:, words], atol=2e-5, rtol=1e-4)


def test_a_layer_at_the_answer_position_alone(any_backbone: CausalBackbone) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [[5, 6, 7, 8, 9], [300, 301], [42]]
    batch = any_backbone.pad(rows)
    shared = torch.randn(any_backbone.prefix_shape(5), generator=generator)
    own = shared + torch.randn(3, *shared.shape, generator=generator)
    for prefixes in (shared, own.transpose(0, 1)):  # one for all, one for each text
        for seen in (None, torch.tensor([5, 2, 0])):
            past = 5 if seen is None else seen
            with torch.no_grad():
                hidden = any_backbone.embed(batch, past)
                whole = any_backbone.run_layers(hidden, 1, 2, batch, prefixes, seen)
                alone = any_backbone.run_layer_at_answer(hidden, 1, batch, prefixes, seen)
            assert whole.std() > 0.1
            torch.testing.assert_close(alone, batch.at_answer(whole), atol=2e-5, rtol=1e-4)


def test_gradients_at_the_answer_are_those_of_the_whole_layer(any_backbone: CausalBackbone) -> None:
    batch = any_backbone.pad([[5, 6, 7, 8], [9, 10]])
    prefix = torch.randn(any_backbone.prefix_shape(3)).requires_grad_()
    hidden = any_backbone.embed(batch, 3).requires_grad_()
    whole = batch.at_answer(any_backbone.run_layers(hidden, 1, 2, batch, prefix))
    alone = any_backbone.run_layer_at_answer(hidden, 1, batch, prefix)
    weights = torch.linspace(-1, 1, whole.numel()).view(whole.shape)
    theirs = torch.autograd.grad((whole * weights).sum(), [prefix, hidden])
    ours = torch.autograd.grad((alone * weights).sum(), [prefix, hidden])
    assert theirs[0].abs().max() > 0.01
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "float32 in a bfloat16"])
def test_packed_texts_are_what_padded_ones_are(
    any_backbone: CausalBackbone, dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    backbone = any_backbone
    if dtype is not None:
        backbone = CausalBackbone(any_backbone.model.to(dtype), any_backbone.tokenizer, "short")
    rows = [[5, 6, 7, 8, 9, 10, 11], [300, 301], [42]]
    batch = backbone.pad(rows)
    assert Packing.of(batch) is not None
    shared = torch.randn(backbone.prefix_shape(5), generator=generator)
    own = shared + torch.randn(3, *shared.shape, generator=generator)
    last = backbone.num_layers - 1
    before = backbone.model.config._attn_implementation
    for prefixes in (shared.requires_grad_(), own.transpose(0, 1)):
        for seen in (None, torch.tensor([5, 2, 0])):
            hidden = backbone.embed(batch, 5 if seen is None else seen).float()
            hidden = hidden.detach().requires_grad_()
            with monkeypatch.context() as padding:
                padding.setattr(packing, "_WORTHWHILE", 0.0)
                assert Packing.of(batch) is None
                padded = backbone.run_layers(hidden, 0, last, batch, prefixes, seen)
                expected = backbone.run_layer_at_answer(padded, last, batch, prefixes, seen)
            packed = backbone.run_to_answer(hidden, 0, batch, prefixes, seen)
            torch.testing.assert_close(packed, expected, atol=2e-5, rtol=1e-4)
            slopes = [torch.autograd.grad(each.sum(), hidden)[0] for each in (packed, expected)]
            assert slopes[0].abs().max() > 1e-3
            torch.testing.assert_close(*slopes, atol=2e-4, rtol=1e-3)
    assert backbone.model.config._attn_implementation == before


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_a_layer_whose_states_stay_is_the_layer_behind_each_prefix(
    any_backbone: CausalBackbone, packed: bool
) -> None:
    rows = [[5, 6, 7, 8, 9, 10, 11], [300, 301] if packed else [300] * 7]
    batch = any_backbone.pad(rows)
    assert (Packing.of(batch) is not None) == packed
    generator = torch.Generator().manual_seed(0)
    for past in (5, 0):
        hidden = any_backbone.embed(batch, past).detach().requires_grad_()
        behind = any_backbone.layer_behind(hidden, 0, batch)
        for rows_alike in (True, False):
            shape = any_backbone.prefix_shape(past)
            given = torch.randn(shape, generator=generator).requires_grad_()
            prefixes = given if rows_alike else given[:, None].expand(-1, 2, *shape[1:])
            found = [
                any_backbone.run_layers(hidden, 0, 1, batch, prefixes),
                behind(prefixes),
            ]
            kept = [each[batch.real] for each in found]
            torch.testing.assert_close(*kept, atol=2e-5, rtol=1e-4)
            assert kept[0].std() > 0.1
            read = [hidden, given] if past else [hidden]
            slopes = [
                torch.autograd.grad(each.square().sum(), read, retain_graph=True) for each in kept
            ]
            for slope, other in zip(*slopes, strict=True):
                assert slope.abs().max() > 1e-3
                torch.testing.assert_close(slope, other, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_long_texts_get_the_fused_attention_and_the_same_answers(
    any_backbone: CausalBackbone, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [[5, 6, 7, 8, 9, 10, 11], [300, 301] if packed else [300] * 7]
    batch = any_backbone.pad(rows)
    assert (Packing.of(batch) is not None) == packed
    prefix = torch.randn(any_backbone.prefix_shape(5), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        hidden = any_backbone.embed(batch, 5)
        short = any_backbone.run_to_answer(hidden, 0, batch, prefix)

        def refuse(*_: object) -> torch.Tensor:
            raise RuntimeError("the plain products were asked about a long text")

        monkeypatch.setattr(attention, "_SHORT", 11)  # a prefix of 5 and 7 tokens are 12 keys
        monkeypatch.setattr(attention, "grouped_attention", refuse)
        fused = any_backbone.run_to_answer(hidden, 0, batch, prefix)
    assert short.std() > 0.1
    torch.testing.assert_close(fused, short, atol=2e-5, rtol=1e-4)


def test_texts_of_one_length_need_no_packing(backbone: CausalBackbone) -> None:
    assert Packing.of(backbone.pad([[5, 6, 7], [8, 9, 10]])) is None


def test_a_text_continues_the_part_of_the_prefix_that_it_sees(
    any_backbone: CausalBackbone,
) -> None:
    """Texts that share a beginning: its keys and values are computed once and cut for each."""
    prefix = torch.randn(any_backbone.prefix_shape(3), generator=torch.Generator().manual_seed(0))
    rows = [[5, 6, 7, 8, 9, 10], [5, 6, 11], [5, 12, 13, 14]]
    shared = [4, 2, 1]
    first = any_backbone.pad(rows[:1])
    with torch.no_grad():
        beginning = any_backbone.record(any_backbone.embed(first, 3), prefix)[:, 0]
        longer = torch.cat([prefix, beginning], dim=3)
        rest = any_backbone.pad([row[n:] for row, n in zip(rows, shared, strict=True)])
        seen = torch.tensor(shared) + 3
        hidden = any_backbone.embed(rest, seen)
        last = any_backbone.num_layers - 1
        hidden = any_backbone.run_layers(hidden, 0, last, rest, longer, seen)
        ours = any_backbone.run_layer_at_answer(hidden, last, rest, longer, seen)
    theirs = _reference_logits(any_backbone, prefix, rows)
    torch.testing.assert_close(any_backbone.next_token_logits(ours), theirs, atol=2e-5, rtol=1e-4)


def test_a_prefix_of_real_keys_and_values_continues_the_text(any_backbone: CausalBackbone) -> None:
    first, second = "the film is good", " and warm"
    prefix = any_backbone.keys_and_values(first)
    whole = any_backbone.pad(any_backbone.tokenize([first + second]))
    rest = any_backbone.pad(any_backbone.tokenize([second]))
    with torch.no_grad():
        theirs = any_backbone.model(whole.ids).logits[:, -1]
        hidden = any_backbone.embed(rest, prefix.shape[3])
        hidden = any_backbone.run_layers(hidden, 0, any_backbone.num_layers, rest, prefix)
        ours = any_backbone.next_token_logits(rest.at_answer(hidden))
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_gradients_reach_the_prefix_and_no_weight(any_backbone: CausalBackbone) -> None:
    prefix = torch.randn(any_backbone.prefix_shape(2)).requires_grad_()
    batch = any_backbone.pad([[5, 6, 7]])
    hidden = any_backbone.run_layers(any_backbone.embed(batch, 2), 0, 2, batch, prefix)
    batch.at_answer(hidden).sum().backward()
    assert prefix.grad is not None
    assert (prefix.grad[:2].abs().amax((1, 2, 3, 4)) > 0).all()
    assert (prefix.grad[2:] == 0).all()  # layers that were not run
    assert all(weight.grad is None for weight in any_backbone.model.parameters())


def test_passes_count_layers_and_examples(backbone: CausalBackbone, prefix: object) -> None:
    backbone.passes.reset()
    batch = backbone.pad([[1, 2], [3, 4]])
    nothing = torch.zeros(backbone.prefix_shape(1))
    backbone.run_layers(backbone.embed(batch, 1), 0, 2, batch, nothing)
    assert backbone.passes.forward == pytest.approx(2 * 2 / 3)


def test_text_that_spells_a_special_token_is_ordinary_text(backbone: CausalBackbone) -> None:
    end = backbone.tokenizer.eos_token_id
    assert end not in backbone.tokenize(["good <|end|> bad"])[0]


def test_fingerprint_knows_the_weights_and_not_the_dtype(
    tokenizer: PreTrainedTokenizerFast, model_dir: Path, backbone: CausalBackbone
) -> None:
    half = load_backbone(str(model_dir), dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    assert half.fingerprint == backbone.fingerprint
    assert tiny_backbone("llama", tokenizer, seed=7).fingerprint != backbone.fingerprint


def test_label_words_must_be_one_token(backbone: CausalBackbone) -> None:
    with pytest.raises(ConfigError, match=r"label word ' extraordinary' to be one token"):
        backbone.word_token(" extraordinary")


def test_too_many_positions_is_one_clear_line(backbone: CausalBackbone) -> None:
    batch = backbone.pad([[1] * 250])
    with pytest.raises(InputError, match="at most 256 positions"):
        backbone.embed(batch, 10)


def test_a_sliding_window_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    backbone = tiny_backbone("mistral", tokenizer)
    backbone.model.config.sliding_window = 16
    with pytest.raises(ConfigError, match="sliding"):
        CausalBackbone(backbone.model, tokenizer, "windowed")


@pytest.mark.parametrize(
    "setting", [{"scale_attn_by_inverse_layer_idx": True}, {"scale_attn_weights": False}]
)
def test_attention_scaled_in_another_way_is_refused(
    tokenizer: PreTrainedTokenizerFast, setting: dict[str, bool]
) -> None:
    model = tiny_backbone("gpt2", tokenizer).model
    model.config.update(setting)
    with pytest.raises(ConfigError, match=f"expected a model with {next(iter(setting))}"):
        CausalBackbone(model, tokenizer, "other")


def test_a_label_word_is_one_token_where_each_text_begins_with_a_space() -> None:
    """As Llama 2's tokenizer puts one there, on top of the label word's own."""
    words = ["a", "positive", "negative", "good"]
    texts = ["<unk>", "\u2581", *(f"\u2581{word}" for word in words)]
    vocabulary = {text: number for number, text in enumerate(texts)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    made.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    made.decoder = decoders.Replace("\u2581", " ")
    fast = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", eos_token="<unk>")
    backbone = tiny_backbone("llama", fast)
    assert len(backbone.tokenize([" positive"])[0]) == 2
    assert backbone.word_token(" positive") == vocabulary["\u2581positive"]
    with pytest.raises(ConfigError, match="to be one token"):
        backbone.word_token(" good positive")


def test_an_unknown_architecture_is_refused(backbone: CausalBackbone) -> None:
    class Odd:
        config = type("Config", (), {"model_type": "mamba"})()

    with pytest.raises(ConfigError, match="'mamba'"):
        CausalBackbone(Odd(), None, "odd")


def test_a_missing_model_names_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="local directory"):
        load_backbone(str(tmp_path / "nowhere"))


class _Saved:
    """Stands for a converted model or its tokenizer."""

    def __init__(self, name: str, error: Exception | None = None) -> None:
        self.name, self.error = name, error

    def save_pretrained(self, folder: Path) -> None:
        if self.error is not None:
            raise self.error
        path = Path(folder) / self.name
        path.write_text("{}")
        path.chmod(0o600)


def _convert(patch: pytest.MonkeyPatch, tmp_path: Path, error: Exception | None = None) -> Path:
    patch.setenv("ROBUST_PREFIX_CACHE", str(tmp_path / "cache"))
    for kind, made in (
        ("AutoTokenizer", _Saved("tokenizer.json")),
        ("AutoModelForCausalLM", _Saved("model.safetensors", error)),
    ):
        patch.setattr(getattr(transformers, kind), "from_pretrained", lambda *_, m=made, **__: m)
    (tmp_path / "a.gguf").write_text("weights")
    return loading._converted("smollm2-135m", tmp_path / "a.gguf")


def test_every_account_may_read_what_was_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _convert(monkeypatch, tmp_path)
    assert folder.stat().st_mode & 0o777 == 0o755
    assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o644, 0o644]
    # and where it was damaged since, to install what is installed is no help
    assert f"delete {folder}" in loading._mend("smollm2-135m", str(folder))
    assert "--force-reinstall" in loading._mend("minilm-l6", str(tmp_path / "site" / "model"))


def test_a_full_disk_while_converting_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = SafetensorError("Error while serializing: No space left on device")
    with pytest.raises(StorageError, match="No space left on device; free about 600 MB"):
        _convert(monkeypatch, tmp_path, error)
    assert not list((tmp_path / "cache" / "models").iterdir())


def test_weights_cut_short_are_named(tmp_path: Path, model_dir: Path) -> None:
    copy = Path(shutil.copytree(model_dir, tmp_path / "model"))
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ResourceError, match=r"expected the model .*; give a local directory"):
        load_backbone(str(copy))


@pytest.mark.parametrize(("setting", "value"), [("device", "tpu"), ("dtype", "int4")])
def test_unknown_device_and_dtype(model_dir: Path, setting: str, value: str) -> None:
    with pytest.raises(ConfigError, match=value):
        load_backbone(str(model_dir), **{setting: value})


@pytest.mark.parametrize(
    ("file", "content"),
    [("tokenizer.json", "{"), ("config.json", None)],
    ids=["tokenizer cut short", "weights of another size"],
)
def test_damaged_files_of_a_model_are_one_line(
    tmp_path: Path, model_dir: Path, file: str, content: str | None
) -> None:
    copy = Path(shutil.copytree(model_dir, tmp_path / "model"))
    if content is None:
        config = json.loads((copy / file).read_text())
        content = json.dumps(config | {"vocab_size": 7})
    (copy / file).write_text(content)
    with pytest.raises(ResourceError, match=r"expected the model .*; give a local directory"):
        load_backbone(str(copy))


def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    for name in (str(tmp_path / "gone"), "./gone", "../gone", "a/b/c"):
        with pytest.raises(ResourceError, match=r"got no such folder; give a local directory"):
            load_backbone(name)


def test_a_near_name_is_offered() -> None:
    assert "did you mean 'smollm2-135m'?" in loading._mend("smollm2-135", "smollm2-135")


def test_a_folder_is_known_by_its_whole_path(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run names it, and may be read from elsewhere."""
    monkeypatch.chdir(model_dir.parent)
    assert load_backbone(model_dir.name, dtype="float32").name == str(model_dir.resolve())
