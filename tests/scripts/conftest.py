"""A small classifier and texts for it; one thread, and no settings of this machine."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from robust_prefix.backbones import CausalBackbone
from robust_prefix.classifier import PrefixClassifier
from robust_prefix.defenses import Fitted
from robust_prefix.prefixes import Prefix
from robust_prefix.subspaces import Subspaces
from robust_prefix.tasks import Task
from timing.material import Material

TEXTS = [
    ("the film is good",),
    ("a dull and weak plot , poor cast",),
    ("warm",),
    ("the end is great and the start is flat and cold",),
    ("lovely score",),
    ("the story is poor",),
]


@pytest.fixture
def classifier(
    backbone: CausalBackbone, task: Task, prefix: Prefix, spaces: Subspaces
) -> PrefixClassifier:
    """The tiny Llama with its random prefix and its subspaces, as if loaded by name."""
    tokenizer = copy.deepcopy(backbone.tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    loaded = CausalBackbone(backbone.model, tokenizer, backbone.name)
    return PrefixClassifier(loaded, task, prefix, fitted=Fitted(spaces))


@pytest.fixture
def material() -> Material:
    """Six texts of different lengths."""
    return Material(TEXTS, [1, 0, 1, 1, 1, 0], "six texts")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("ROBUST_PREFIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ROBUST_PREFIX_DATA", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
