"""A small generation task in files, and a tiny model that can say its targets in two ways."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from robust_prefix.backbones import CausalBackbone
from robust_prefix.generation import GenerationTask, Pair
from robust_prefix.generation.prompts import pair_rows

from ..conftest import tiny_backbone

PAIRS = [
    Pair("film, good", "the film is good"),
    Pair("plot, dull", "the plot is dull and weak"),
    Pair("cast, warm", "a warm cast"),
    Pair("end, cold", "is the end cold ?"),
]


def backwards(pair: Pair) -> Pair:
    """The same source, the words of its target in reverse."""
    return Pair(pair.source, " ".join(reversed(pair.target.split())))


def task_of(folder: Path, pairs: list[Pair]) -> GenerationTask:
    """The task of these pairs, eight times over in train as CSV, once in dev as JSONL."""
    rows = [f'"{pair.source}","{pair.target}"\n' for pair in pairs] * 8
    (folder / "train.csv").write_text("source,target\n" + "".join(rows), encoding="utf-8")
    lines = (json.dumps({"source": pair.source, "target": pair.target}) for pair in pairs)
    (folder / "dev.jsonl").write_text("\n".join(lines), encoding="utf-8")
    splits = {"train": "train.csv", "dev": "dev.jsonl"}
    return GenerationTask("reviews", max_tokens=64, splits=splits, data_dir=folder)


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> GenerationTask:
    """The task of :data:`PAIRS`."""
    return task_of(tmp_path_factory.mktemp("pairs"), PAIRS)


@pytest.fixture(scope="session")
def talker(tokenizer: PreTrainedTokenizerFast, reviews: GenerationTask) -> CausalBackbone:
    """A tiny Llama that was taught each target of :data:`PAIRS` forwards and backwards."""
    backbone = tiny_backbone("llama", tokenizer)
    both = [each for pair in PAIRS for each in (pair, backwards(pair))]
    rows = pair_rows(backbone, reviews, both)
    width = max(len(tokens) for tokens, _ in rows)
    ids, labels = (
        torch.zeros(len(rows), width, dtype=torch.long),
        torch.full((len(rows), width), -100),
    )
    for number, (tokens, prompt) in enumerate(rows):
        ids[number, : len(tokens)] = torch.tensor(tokens)
        labels[number, prompt : len(tokens)] = torch.tensor(tokens[prompt:])
    model = backbone.model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        model(ids, labels=labels).loss.backward()
        optimizer.step()
    model.requires_grad_(False)
    return backbone
