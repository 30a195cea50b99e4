"""What a cell says of itself: two that could have other records differ."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from evaluation_fakes import SwapAttack

from robust_prefix.backbones import CausalBackbone
from robust_prefix.classifier import PrefixClassifier
from robust_prefix.configs import SubspaceConfig
from robust_prefix.data import load_split
from robust_prefix.defenses import Fitted
from robust_prefix.evaluation.bench import Bench
from robust_prefix.evaluation.records import Manifest
from robust_prefix.fitting import fit_subspaces
from robust_prefix.prefixes import Prefix
from robust_prefix.tasks import Task


@pytest.fixture
def classifier(backbone: CausalBackbone, task: Task, prefix: Prefix) -> PrefixClassifier:
    spaces = fit_subspaces(backbone, prefix, task, config=SubspaceConfig(threshold=0.6))
    return PrefixClassifier(backbone, task, prefix, fitted=Fitted(spaces))


def manifest(classifier: PrefixClassifier, *defenses: str) -> Manifest:
    given: dict[str, Any] = {"protocols": ["direct"], "num_examples": 2, "seed": 0}
    attack: Any = SwapAttack()
    return Bench.prepare(
        classifier,
        attack,
        load_split(classifier.task, "test"),
        defenses=[classifier.build_defense(spec) for spec in defenses],
        control_seeds=0,
        **given,
    ).manifest


def test_another_prompt_is_another_cell(
    backbone: CausalBackbone, task: Task, prefix: Prefix
) -> None:
    """One prefix may stand before several, and a hard prompt has none of its own."""
    tasks = [
        task,
        dataclasses.replace(task, template="{text} it was"),
        dataclasses.replace(task, label_words=(" bad", " good")),
        dataclasses.replace(task, data_dir=None, splits=task.splits),
    ]
    found = [each.fingerprint for each in tasks]
    assert len(set(found)) == 3
    assert found[0] == found[3]  # where the data is makes no other task of it
    cells = [manifest(PrefixClassifier(backbone, each, prefix)) for each in tasks[:3]]
    assert len({cell.to_json() for cell in cells}) == 3


@pytest.mark.parametrize(
    ("spec", "tells"),
    [("projection", True), ("gate+masked-vote(copies=2)", True), ("masked-vote(copies=2)", False)],
)
def test_other_subspaces_are_another_cell(
    classifier: PrefixClassifier, spec: str, tells: bool
) -> None:
    cells = []
    for threshold in (0.6, 0.9):
        config = SubspaceConfig(threshold=threshold)
        model = classifier.model
        spaces = fit_subspaces(model.backbone, model.prefix, classifier.task, config=config)
        other = dataclasses.replace(spaces, margins=classifier.fitted.subspaces.margins)
        again = PrefixClassifier(
            model.backbone, classifier.task, model.prefix, fitted=Fitted(other)
        )
        cells.append(manifest(again, spec))
    assert ("subspaces" in cells[0].settings) == tells
    assert (cells[0] != cells[1]) == tells
    assert manifest(classifier, spec) == cells[0]
