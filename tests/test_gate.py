"""The gate: plain answers where they are sure, the defence's elsewhere."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from robust_prefix.data import load_split, rows_as_fields
from robust_prefix.defenses import Fitted, NoDefense, build_defense
from robust_prefix.errors import ArtifactError, ConfigError
from robust_prefix.prefixes import PrefixModel, margins
from robust_prefix.subspaces import Subspaces
from robust_prefix.tasks import Fields, Task


@pytest.fixture(scope="module")
def texts(task: Task) -> list[Fields]:
    return rows_as_fields(task, load_split(task, "dev"))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_so_many_clean_texts_are_handed_on(
    model: PrefixModel, spaces: Subspaces, texts: list[Fields], share: float
) -> None:
    defense = build_defense(f"gate(share={share})+robust-prefix(steps=3)", Fitted(spaces))
    plain = NoDefense().logits(model, texts)
    tuned = build_defense("robust-prefix(steps=3)", Fitted(spaces)).logits(model, texts)
    gated = defense.logits(model, texts)
    unsure = margins(plain) < defense.config.threshold
    assert unsure.float().mean() == pytest.approx(share, abs=1.5 / len(texts) + 0.01)
    torch.testing.assert_close(gated, torch.where(unsure[:, None], tuned, plain))
    assert (gated - plain)[unsure].abs().max() > 1e-3


def test_a_gate_saves_the_passes_of_what_it_does_not_hand_on(
    model: PrefixModel, spaces: Subspaces, texts: list[Fields]
) -> None:
    gated = build_defense("gate(share=0.1)+robust-prefix", Fitted(spaces))
    always = build_defense("robust-prefix", Fitted(spaces))
    gated.logits(model, texts)
    always.logits(model, texts)
    assert gated.cost.backward < 0.15 * always.cost.backward
    assert gated.cost.forward < 0.4 * always.cost.forward


def test_extremes(model: PrefixModel, spaces: Subspaces, texts: list[Fields]) -> None:
    plain = NoDefense().logits(model, texts)
    tuned = build_defense("robust-prefix(steps=2)", Fitted(spaces)).logits(model, texts)
    closed = build_defense("gate(share=0)+robust-prefix(steps=2)", Fitted(spaces))
    opened = build_defense("gate(share=1)+robust-prefix(steps=2)", Fitted(spaces))
    assert torch.equal(closed.logits(model, texts), plain)
    torch.testing.assert_close(opened.logits(model, texts), tuned, atol=1e-4, rtol=1e-3)


def test_the_threshold_is_in_the_spec_and_rebuilds_the_gate(spaces: Subspaces) -> None:
    defense = build_defense("normalize+gate(share=0.2)+robust-prefix", Fitted(spaces))
    again = build_defense(defense.spec, Fitted(spaces))
    assert f"threshold={defense.inner.config.threshold}" in defense.spec
    assert again.spec == defense.spec
    assert again.dynamic


def test_the_margins_are_stored_with_the_subspaces(spaces: Subspaces, tmp_path: Path) -> None:
    spaces.save(tmp_path / "subspaces.safetensors")
    loaded = Subspaces.load(tmp_path / "subspaces.safetensors")
    assert loaded.margins is not None
    assert loaded.margin_at(0.3) == spaces.margin_at(0.3)
    assert loaded.margin_at(0) == 0
    assert loaded.margin_at(1) == float("inf")


def test_gradients_lead_through_the_branch_that_was_taken(
    model: PrefixModel, spaces: Subspaces, texts: list[Fields]
) -> None:
    labels = [0] * 8
    plain = NoDefense().gradients(model, texts[:8], labels)
    inner = build_defense("projection", Fitted(spaces)).gradients(model, texts[:8], labels)
    defense = build_defense("gate(share=0.5)+projection", Fitted(spaces))
    gated = defense.gradients(model, texts[:8], labels)
    unsure = margins(NoDefense().logits(model, texts[:8])) < defense.config.threshold
    assert 0 < int(unsure.sum()) < 8
    for taken, one, two, ours in zip(unsure.tolist(), plain, inner, gated, strict=True):
        expected = two if taken else one
        torch.testing.assert_close(
            torch.from_numpy(ours.gradient), torch.from_numpy(expected.gradient)
        )


def test_gradients_are_those_of_what_answers(
    model: PrefixModel, spaces: Subspaces, texts: list[Fields]
) -> None:
    """Also of what asks about other texts than its own."""
    vote = "masked-vote(copies=2, mask=0.5)"
    given = (model, texts[:3], [0, 1, 0])
    plain, expected, found = (
        build_defense(spec, Fitted(spaces)).gradients(*given)
        for spec in ("none", vote, f"gate(share=1)+{vote}")
    )
    for no, one, two in zip(plain, expected, found, strict=True):
        assert np.array_equal(one.gradient, two.gradient)
        assert not np.allclose(no.gradient, two.gradient)


def test_a_threshold_of_another_prefix_is_refused(
    model: PrefixModel, spaces: Subspaces, texts: list[Fields]
) -> None:
    """What is gated need not read the subspaces that the threshold was taken from."""
    other = dataclasses.replace(spaces, prefix_fingerprint="0" * 16)
    gated = build_defense("gate+masked-vote(copies=2, mask=0.5)", Fitted(other))
    for ask in (gated.logits, lambda m, t: gated.gradients(m, t, [0])):
        with pytest.raises(ArtifactError, match="run robust-prefix fit-subspaces on this run"):
            ask(model, texts[:1])


@pytest.mark.parametrize("spec", ["gate", "gate+none"])
def test_a_gate_guards_something(spaces: Subspaces, spec: str) -> None:
    with pytest.raises(ConfigError, match="behind the gate"):
        build_defense(spec, Fitted(spaces))


def test_a_gate_without_a_threshold_says_what_to_do(spaces: Subspaces) -> None:
    old = Subspaces(
        spaces.layers, spaces.base_fingerprint, spaces.prefix_fingerprint, spaces.config
    )
    with pytest.raises(ArtifactError, match="fit-subspaces"):
        build_defense("gate+robust-prefix", Fitted(old))
    assert build_defense("gate(threshold=1.5)+robust-prefix", Fitted(old)).config.threshold == 1.5
