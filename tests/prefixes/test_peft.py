"""Checkpoints of PEFT: the same logits read and written, and what is not read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from robust_prefix.backbones import CausalBackbone
from robust_prefix.errors import ArtifactError, ConfigError, RobustPrefixError
from robust_prefix.prefixes import Learned, Prefix
from robust_prefix.prefixes.peft import PeftCheckpoint, write_peft

from ..conftest import tiny_backbone

IDS = [[5, 6, 7, 8, 9], [42, 3, 99, 1, 300]]
CHECKPOINTS: dict[str, tuple[str, dict[str, Any]]] = {
    "prefix-tuning": ("PrefixTuningConfig", {}),
    "prefix-tuning with an mlp": (
        "PrefixTuningConfig",
        {"prefix_projection": True, "encoder_hidden_size": 24},
    ),
    "prompt-tuning": ("PromptTuningConfig", {}),
    "p-tuning with an mlp": ("PromptEncoderConfig", {"encoder_hidden_size": 24}),
    "p-tuning with an lstm": (
        "PromptEncoderConfig",
        {"encoder_hidden_size": 24, "encoder_reparameterization_type": "LSTM"},
    ),
}


@pytest.fixture(params=["llama", "gpt2"])
def backbone(request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerFast) -> CausalBackbone:
    """A model of its own for each test: PEFT changes the one it is given."""
    return tiny_backbone(request.param, tokenizer)


def peft_checkpoint(case: str, backbone: CausalBackbone, folder: Path) -> torch.Tensor:
    """A random checkpoint saved by PEFT, and what PEFT's own loading makes of ``IDS``."""
    peft = pytest.importorskip("peft")
    name, settings = CHECKPOINTS[case]
    config = getattr(peft, name)(task_type="CAUSAL_LM", num_virtual_tokens=4, **settings)
    torch.manual_seed(5)
    model = peft.get_peft_model(backbone.model, config)
    with torch.no_grad():
        for weight in model.prompt_encoder.parameters():
            weight.normal_(0, 0.5)
    model.save_pretrained(folder)
    return peft_logits(backbone, folder)


def peft_logits(backbone: CausalBackbone, folder: Path) -> torch.Tensor:
    """Next-token logits ``(2, vocabulary)`` of a checkpoint loaded by PEFT."""
    peft = pytest.importorskip("peft")
    model = peft.PeftModel.from_pretrained(backbone.model, folder).eval()
    ids = torch.tensor(IDS)
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return logits[:, -1]


def our_logits(backbone: CausalBackbone, prefix: Prefix) -> torch.Tensor:
    """Next-token logits ``(2, vocabulary)`` of ``IDS`` behind a prefix."""
    batch = backbone.pad(IDS)
    with torch.no_grad():
        hidden = backbone.embed(batch, prefix.length)
        hidden = backbone.run_layers(hidden, 0, backbone.num_layers, batch, prefix.tensor)
        return backbone.next_token_logits(batch.at_answer(hidden))


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_checkpoint_of_peft_gives_the_same_logits(
    backbone: CausalBackbone, tmp_path: Path, case: str
) -> None:
    theirs = peft_checkpoint(case, backbone, tmp_path)
    checkpoint = PeftCheckpoint.read(tmp_path)
    assert checkpoint.method == case.split()[0]
    prefix = checkpoint.prefix(backbone)
    ours = our_logits(backbone, prefix)
    plain = our_logits(backbone, Prefix(prefix.tensor[:, :, :, :0], "", ""))
    assert (theirs - plain).abs().max() > 0.1  # the checkpoint matters
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["prefix-tuning", "prompt-tuning", "p-tuning"])
def test_peft_gives_the_same_logits_for_ours(
    backbone: CausalBackbone, tmp_path: Path, method: str
) -> None:
    torch.manual_seed(6)
    if method == "prefix-tuning":
        learned = Learned(torch.randn(backbone.prefix_shape(3)))
    else:
        soft_tokens = torch.randn(3, backbone.hidden_size)
        with torch.no_grad():
            learned = Learned(backbone.compile(soft_tokens), soft_tokens)
    prefix = Prefix.of(learned, backbone, {"method": method})
    ours = our_logits(backbone, prefix)
    written = write_peft(prefix, tmp_path)
    assert written["peft_type"] == method.upper().replace("-", "_")
    torch.testing.assert_close(ours, peft_logits(backbone, tmp_path), atol=1e-5, rtol=1e-5)
    again = PeftCheckpoint.read(tmp_path).prefix(backbone)
    assert again.fingerprint == prefix.fingerprint
    assert again.config["method"] == method


def damaged(folder: Path, case: str) -> None:
    config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    values = json.loads(config.read_text())
    if case == "no folder":
        config.unlink()
    elif case == "lora":
        values["peft_type"] = "LORA"
    elif case == "classification head":
        values["task_type"] = "SEQ_CLS"
    elif case == "other count":
        values["num_virtual_tokens"] = 5
    elif case == "pickle":
        weights.rename(folder / "adapter_model.bin")
    elif case == "no weights":
        weights.unlink()
    elif case == "cut short":
        weights.write_bytes(weights.read_bytes()[:-50])
    elif case == "not finite":
        save_file({name: tensor / 0 for name, tensor in load_file(weights).items()}, weights)
    elif case == "other tensors":
        save_file({"lora_A": torch.zeros(2, 2)}, weights)
    if config.exists():
        config.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("case", "error", "message"),
    [
        ("no folder", ArtifactError, "a JSON file at"),
        ("lora", ConfigError, "got 'LORA'; other methods change"),
        ("classification head", ConfigError, "for CAUSAL_LM in .* got one for SEQ_CLS"),
        ("other count", ArtifactError, r"prompt_embeddings \(5, width\) in .* got \(3, 32\)"),
        ("pickle", ArtifactError, "got adapter_model.bin, a pickle, .* is not read; save"),
        ("no weights", ArtifactError, "adapter_model.safetensors in .* got nothing there"),
        ("cut short", ArtifactError, "got a damaged one"),
        ("not finite", ArtifactError, "expected finite numbers"),
        ("other tensors", ArtifactError, r"'prompt_embeddings' in .* got \['lora_A'\]"),
    ],
)
def test_what_is_not_read(
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    case: str,
    error: type[RobustPrefixError],
    message: str,
) -> None:
    backbone = tiny_backbone("llama", tokenizer)
    soft_tokens = torch.ones(3, 32)
    learned = Learned(torch.zeros(backbone.prefix_shape(3)), soft_tokens)
    write_peft(Prefix.of(learned, backbone, {}), tmp_path)
    damaged(tmp_path, case)
    with pytest.raises(error, match=message) as raised:
        PeftCheckpoint.read(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("method", "width"),
    [
        pytest.param("prefix-tuning", 3 * 2 * 32, id="all heads have keys of their own"),
        pytest.param("prompt-tuning", 31, id="another hidden size"),
    ],
)
def test_another_base_model_is_refused(
    tokenizer: PreTrainedTokenizerFast, method: str, width: int
) -> None:
    backbone = tiny_backbone("llama", tokenizer)
    other = PeftCheckpoint(method, "another-llama", torch.zeros(3, width))
    with pytest.raises(ArtifactError, match=f"for tiny-llama, got {width} trained on another-ll"):
        other.prefix(backbone)


def test_more_virtual_tokens_than_positions(tokenizer: PreTrainedTokenizerFast) -> None:
    backbone = tiny_backbone("gpt2", tokenizer)
    with pytest.raises(ConfigError, match="than the 256 positions of tiny-gpt2, got 256"):
        PeftCheckpoint("prompt-tuning", "", torch.zeros(256, 32)).prefix(backbone)


def test_peft_is_not_needed_to_read_and_write(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['peft'] = None\n"
        "import torch\n"
        "from robust_prefix.prefixes import Prefix\n"
        "from robust_prefix.prefixes.peft import PeftCheckpoint, write_peft\n"
        "write_peft(Prefix(torch.ones(1, 2, 1, 3, 4), 'm', 'f'), sys.argv[1])\n"
        "print(PeftCheckpoint.read(sys.argv[1]).embeddings.shape)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=root, capture_output=True, text=True
    )
    assert done.stdout == "torch.Size([3, 8])\n", done.stderr
