"""The whole path on the real model: the zoo's prefix, real sentences, a real attack."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from robust_prefix.classifier import PrefixClassifier
from robust_prefix.data import load_file, load_split, rows_as_fields
from robust_prefix.defenses import NoDefense, RandomPrefix, RobustPrefix
from robust_prefix.evaluation.accuracy import measure_accuracy
from robust_prefix.runs import ZOO, Run
from robust_prefix.tasks import load_task

from .conftest import REAL

NAME = "zoo:sst2-smollm2-135m"
SHARED = Path(__file__).parents[2] / "shared" / "data"

pytestmark = REAL


@pytest.fixture(scope="module")
def classifier() -> PrefixClassifier:
    """Float32: what is compared here is compared to float error."""
    return PrefixClassifier.from_pretrained(NAME, defense="none", dtype="float32")


def test_the_demo_reviews_are_understood(classifier: PrefixClassifier) -> None:
    rows = load_file(classifier.task, ZOO / "demo_reviews.csv")
    assert measure_accuracy(classifier.model, rows).value >= 0.85
    assert classifier.predict("a gorgeous , witty film") == "positive"
    assert classifier.predict(["a tedious , witless film"]) == ["negative"]


def test_robust_prefix_is_batch_invariant(classifier: PrefixClassifier) -> None:
    rows = load_file(classifier.task, ZOO / "demo_reviews.csv").select(range(32))
    texts = rows_as_fields(classifier.task, rows)
    defense = classifier.build_defense("robust-prefix")
    together = defense.logits(classifier.model, texts, batch_size=32)
    alone = torch.cat([defense.logits(classifier.model, [t], batch_size=1) for t in texts[:6]])
    plain = NoDefense().logits(classifier.model, texts[:6])
    torch.testing.assert_close(together[:6], alone, atol=5e-3, rtol=5e-3)
    assert (together[:6] - plain).abs().max() > 0.1  # it does something


def test_in_bfloat16_too_an_answer_does_not_depend_on_its_company() -> None:
    """Tuned in bfloat16 the margins moved by up to 2.2; plain rounding moves them by 0.1."""
    classifier = PrefixClassifier.from_pretrained(NAME, "robust-prefix", dtype="bfloat16")
    rows = load_file(classifier.task, ZOO / "demo_reviews.csv").select(range(16))
    texts = rows_as_fields(classifier.task, rows)
    together = classifier.logits(texts)
    alone = torch.cat([classifier.logits([text]) for text in texts])
    margins = [scores[:, 1] - scores[:, 0] for scores in (together, alone)]
    assert (margins[0] - margins[1]).abs().max() < 0.5
    assert margins[0].std() > 1


def test_the_control_matches_the_norm_of_the_defence(classifier: PrefixClassifier) -> None:
    assert classifier.subspaces is not None
    texts = [("a gorgeous , witty film",), ("not worth the price of a ticket",)]
    defense = RobustPrefix(classifier.subspaces)
    added = defense.additional_prefix(classifier.model, classifier.model.prompter.encode(texts))
    control = RandomPrefix.matching(defense, classifier.model, texts)
    assert control.config.rms == pytest.approx(float(added.square().mean().sqrt()), abs=1e-3)
    assert control.config.layers == 2  # the first two layers are what the loss reads


def test_a_real_attack_breaks_it_and_the_record_says_so(
    classifier: PrefixClassifier, tmp_path: Path
) -> None:
    # not importorskip: a bare import of TextAttack looks for word lists that may not be there
    if importlib.util.find_spec("textattack") is None:
        pytest.skip("no textattack")
    from attacks import build_attack
    from robust_prefix.evaluation.bench import run_attack

    rows = load_file(classifier.task, ZOO / "demo_reviews.csv")
    attack = build_attack("deepwordbug", classifier.task.columns)
    summary = run_attack(
        classifier,
        attack,
        rows,
        defense=classifier.build_defense("robust-prefix(steps=2)"),
        protocol="worst",
        num_examples=3,
        seed=0,
        out=tmp_path,
    )
    undefended = summary.role("undefended", "direct")
    control = summary.role("control", "worst")
    assert undefended is not None
    assert control is not None
    assert undefended.succeeded >= 1
    assert (undefended.errors, control.errors) == (0, 0)
    written = json.loads((tmp_path / "summary.json").read_text())
    (defense,) = summary.manifest.defenses
    row = summary.row(defense, "worst").to_dict()
    assert written["robust_accuracy"] == row["robust_accuracy"]


def test_the_zoo_says_what_was_measured(classifier: PrefixClassifier) -> None:
    run = Run.load(NAME)
    folder = ZOO / NAME.removeprefix("zoo:")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2_000_000
    assert (folder / "prefix.safetensors").stat().st_size < 1_000_000
    assert run.measurements["clean_accuracy"]["value"] >= 0.9
    assert run.measurements["clean_accuracy"]["n"] == 1821
    assert run.measurements["parameters"]["percent"] < 0.1
    card = (folder / "CARD.md").read_text()
    assert f"{run.measurements['clean_accuracy']['value']:.1%}" in card


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is not beside the project")
def test_the_zoos_accuracy_is_found_again_on_real_data(classifier: PrefixClassifier) -> None:
    rows = load_split(load_task("sst2", SHARED), "test").select(range(200))
    found = measure_accuracy(classifier.model, rows)
    low, high = found.interval
    said = Run.load(NAME).measurements["clean_accuracy"]["value"]
    assert low <= said <= high
