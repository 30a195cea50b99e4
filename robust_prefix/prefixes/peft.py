"""Prefixes as checkpoints of the library PEFT, read and written without it.

A PEFT checkpoint of a prompt-learning method is a folder with ``adapter_config.json`` and
``adapter_model.safetensors``, whose one tensor ``prompt_embeddings`` holds what is left after
training: embeddings of the virtual tokens, or all layers' keys and values of each of them in a
row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from robust_prefix.backbones import Backbone
from robust_prefix.errors import ArtifactError, ConfigError
from robust_prefix.files import atomic_path, read_json, write_json
from robust_prefix.prefixes.base import Prefix
from robust_prefix.prefixes.learned import Learned

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLE_FILE = "adapter_model.bin"
TENSOR = "prompt_embeddings"

METHOD_OF = {
    "PREFIX_TUNING": "prefix-tuning",
    "PROMPT_TUNING": "prompt-tuning",
    "P_TUNING": "p-tuning",
}
"""Our name of each method that PEFT has, too."""
TYPE_OF = {method: kind for kind, method in METHOD_OF.items()}


@dataclass(frozen=True)
class PeftCheckpoint:
    """A checkpoint as it was read.

    Attributes:
        method: our name of its method.
        base_model: what it says it was trained on; empty where it does not say.
        embeddings: ``(tokens, width)``, float32.
    """

    method: str
    base_model: str
    embeddings: Tensor

    @classmethod
    def read(cls, folder: str | Path) -> PeftCheckpoint:
        """Read a folder that ``PeftModel.save_pretrained`` wrote.

        Raises:
            ArtifactError: a file is missing, damaged or not what the configuration says.
            ConfigError: the method is not one of ours, or not for a causal language model.
        """
        folder = Path(folder)
        config = read_json(folder / CONFIG_FILE)
        kind = config.get("peft_type") if isinstance(config, dict) else None
        if kind not in METHOD_OF:
            raise ConfigError(
                f"expected a PEFT checkpoint of {', '.join(METHOD_OF)} in {folder}, got {kind!r}; "
                "other methods change the model's weights and have no prefix"
            )
        if config.get("task_type") not in (None, "CAUSAL_LM"):
            raise ConfigError(
                f"expected a PEFT checkpoint for CAUSAL_LM in {folder}, got one for "
                f"{config['task_type']}; only label words of a causal model name classes here"
            )
        embeddings = _read_tensor(folder)
        tokens = config.get("num_virtual_tokens")
        if embeddings.dim() != 2 or len(embeddings) != tokens:
            raise ArtifactError(
                f"expected {TENSOR} ({tokens}, width) in {folder / WEIGHTS_FILE}, got "
                f"{tuple(embeddings.shape)}; save the checkpoint anew"
            )
        return cls(METHOD_OF[kind], config.get("base_model_name_or_path") or "", embeddings)

    def prefix(self, backbone: Backbone) -> Prefix:
        """What gives ``backbone`` the answers that it gives through PEFT.

        Raises:
            ArtifactError: the checkpoint does not fit the model.
            ConfigError: it leaves no position for a text.
        """
        tokens, width = self.embeddings.shape
        if tokens >= backbone.max_positions:
            raise ConfigError(
                f"expected fewer virtual tokens than the {backbone.max_positions} positions of "
                f"{backbone.name}, got {tokens}"
            )
        if not backbone.causal:
            raise ConfigError(
                f"expected a decoder for a PEFT checkpoint, got {backbone.name}; its prefixes for "
                "other families come with heads that are not read here"
            )
        shape = backbone.prefix_shape(tokens)
        deep = self.method == "prefix-tuning"
        expected = math.prod(shape) // tokens if deep else backbone.hidden_size
        if width != expected:
            raise ArtifactError(
                f"expected a checkpoint of {expected} numbers a virtual token for {backbone.name}, "
                f"got {width} trained on {self.base_model or 'another model'}; load that model"
            )
        if deep:
            layers, _, heads, _, head_dim = shape
            rows = self.embeddings.view(tokens, layers, 2, heads, head_dim)
            learned = Learned(rows.permute(1, 2, 3, 0, 4).contiguous())
        else:
            with torch.no_grad():
                learned = Learned(backbone.compile(self.embeddings), self.embeddings)
        config = {
            "method": self.method,
            "prefix": {"length": tokens},
            "peft": {"base_model": self.base_model},
        }
        return Prefix.of(learned, backbone, config)


def write_peft(prefix: Prefix, folder: str | Path) -> dict[str, Any]:
    """Write a checkpoint that ``PeftModel.from_pretrained`` loads with the same answers.

    What a method folds into keys and values is written as prefix-tuning.

    Returns:
        The configuration that was written.

    Raises:
        ConfigError: PEFT has nothing that gives the same answers.
        StorageError: writing failed.
    """
    folder = Path(folder)
    layers, _, heads, length, head_dim = prefix.tensor.shape
    soft_tokens = prefix.soft_tokens
    if prefix.learned.inner_tokens is not None:
        raise ConfigError(
            "expected virtual tokens before the prompt alone, which is where PEFT puts them, got "
            f"{len(prefix.learned.inner_tokens)} inside it; train on a template without them"
        )
    if prefix.kernel is not None:
        raise ConfigError(
            "expected a prefix or virtual tokens for PEFT, got a kernel that the embeddings are "
            "convolved with; PEFT has no such method"
        )
    if prefix.learned.changes_model:
        raise ConfigError(
            "expected a prefix or virtual tokens for PEFT, got a method that changes the model "
            "itself; train prefix-tuning or prompt-tuning"
        )
    if prefix.layers is not None:
        raise ConfigError(
            "expected a prefix in every layer, as PEFT has it, got one in the layers "
            f"{prefix.layers}; train one in all"
        )
    if prefix.head is not None:
        raise ConfigError(
            "expected a prefix whose label words answer, which is what PEFT's causal models do, "
            "got one with a classification head; train prefix-tuning(answer=words)"
        )
    if soft_tokens is None:
        kind = "PREFIX_TUNING"
        embeddings = prefix.tensor.permute(3, 0, 1, 2, 4).reshape(length, -1)
        width = heads * head_dim
    else:
        kind = TYPE_OF.get(prefix.config.get("method", ""), "PROMPT_TUNING")
        embeddings = soft_tokens
        width = soft_tokens.shape[1]
    config: dict[str, Any] = {
        "peft_type": kind,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": prefix.base_model,
        "inference_mode": True,
        "num_virtual_tokens": length,
        "num_transformer_submodules": 1,
        "num_layers": layers,
        "num_attention_heads": heads,
        "token_dim": width,
    }
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        try:
            save_file({TENSOR: embeddings.float().contiguous()}, temporary)
        except SafetensorError as error:  # how the library reports a full disk
            raise OSError(str(error)) from error
    write_json(folder / CONFIG_FILE, config)
    return config


def _read_tensor(folder: Path) -> Tensor:
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        got = "nothing there"
        if (folder / PICKLE_FILE).is_file():
            got = f"{PICKLE_FILE}, a pickle, which may run code and is not read"
        raise ArtifactError(
            f"expected {WEIGHTS_FILE} in {folder}, got {got}; save the checkpoint with "
            "PeftModel.save_pretrained(safe_serialization=True)"
        )
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(
            f"expected a safetensors file at {path}, got a damaged one ({error}); copy it again"
        ) from None
    if TENSOR not in tensors or not torch.isfinite(tensors[TENSOR]).all():
        raise ArtifactError(
            f"expected finite numbers {TENSOR!r} in {path}, got {sorted(tensors)[:3]}; "
            "save the checkpoint anew"
        )
    return tensors[TENSOR].float()
