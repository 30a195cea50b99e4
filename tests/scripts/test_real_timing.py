"""On the real model: the literal implementation and PEFT's classifier answer as ours does."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from robust_prefix.classifier import PrefixClassifier
from timing.equality import literal_differences
from timing.material import load_material

from ..conftest import REAL

pytestmark = REAL


@pytest.fixture(scope="module")
def real() -> PrefixClassifier:
    """Float32: what is compared here is compared to float error."""
    return PrefixClassifier.from_pretrained("zoo:sst2-smollm2-135m", "none", dtype="float32")


def test_the_literal_implementation_gives_our_logits(real: PrefixClassifier) -> None:
    found = literal_differences(real, load_material(real.task, "test", seed=0), sizes=(4,))
    assert max(found.values()) < 1e-2


def test_pefts_classifier_gives_our_logits(real: PrefixClassifier) -> None:
    if importlib.util.find_spec("peft") is None:
        pytest.skip("the extra 'peft' is not installed")
    from timing.peft_baselines import classifier_of, plain_tokenizer

    texts = load_material(real.task, "test", seed=0).window(0, 4).texts
    tokenizer = plain_tokenizer(real.model.backbone)
    prompts = [real.task.render(text) for text in texts]
    inputs = tokenizer(prompts, padding="longest", return_tensors="pt")
    with torch.no_grad():
        theirs = classifier_of(real.model)(**inputs).logits
    torch.testing.assert_close(real.logits(texts), theirs, atol=1e-3, rtol=1e-3)
