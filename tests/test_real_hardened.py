"""The zoo's hardened classifier on the real model: it loads defended, and holds under attack."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from robust_prefix.classifier import PrefixClassifier
from robust_prefix.data import load_file, load_split
from robust_prefix.evaluation.accuracy import measure_accuracy
from robust_prefix.runs import ZOO, Run
from robust_prefix.specs import parse_composition
from robust_prefix.tasks import load_task

from .conftest import REAL

NAME = "zoo:sst2-smollm2-135m-hardened"
SHARED = Path(__file__).parents[2] / "shared" / "data"

pytestmark = REAL


@pytest.fixture(scope="module")
def classifier() -> PrefixClassifier:
    """As it comes: behind its default defence."""
    return PrefixClassifier.from_pretrained(NAME, dtype="float32")


def test_it_comes_with_its_defence_and_a_card(classifier: PrefixClassifier) -> None:
    parts = [part.name for part in parse_composition(classifier.defense.spec)]
    assert parts == ["normalize", "word-scores", "synonyms"]
    folder = ZOO / NAME.removeprefix("zoo:")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 12_000_000
    card = (folder / "CARD.md").read_text()
    measured = Run.load(NAME).measurements
    assert f"{measured['clean_accuracy']['value']:.1%}" in card
    [pwws] = [
        row
        for row in measured["attacks"]
        if (row["attack"], row["protocol"], row["role"]) == ("pwws", "worst", "defense")
    ]
    assert pwws["n"] == 200
    assert f"{pwws['robust_accuracy']:.1%}" in card


def test_edits_of_letters_change_no_score(classifier: PrefixClassifier) -> None:
    """Look-alikes, invisible characters and typos are read as the text that they were made of."""
    plain = classifier.logits(["a gorgeous , witty film"])
    for edited in (
        "a g\u043erg\u0435ous , witty film",
        "a gor\u200bgeous , witty film",
        "a gorgeuos , witty film",
    ):
        assert edited != "a gorgeous , witty film"
        assert (classifier.logits([edited]) - plain).abs().max() < 1e-3, edited


def test_what_its_bounds_hide_is_there_for_who_knows_them(classifier: PrefixClassifier) -> None:
    texts = ["a gorgeous , witty film", "it is dull and clumsy from start to end"]
    found = classifier.decide(texts)
    assert len(found.unhidden) == 2
    shown = found.revealed.logits
    assert (shown.argmax(1) == found.logits.argmax(1)).all()
    [own, behind] = (scores[:, 1] - scores[:, 0] for scores in (found.logits, shown))
    # the classifier is far surer of both than it may say
    assert (behind.abs() > 2 * own.abs()).all()


def test_it_stands_where_the_same_weights_alone_fall(
    classifier: PrefixClassifier, tmp_path: Path
) -> None:
    if importlib.util.find_spec("textattack") is None:
        pytest.skip("no textattack")
    from attacks import build_attack
    from robust_prefix.evaluation.bench import run_attack

    summary = run_attack(
        classifier,
        build_attack("deepwordbug", classifier.task.columns),
        load_file(classifier.task, ZOO / "demo_reviews.csv"),
        defense=classifier.defense,
        protocol="direct",
        num_examples=8,
        seed=0,
        out=tmp_path,
        control_seeds=0,
    )
    alone, defended = summary.role("undefended", "direct"), summary.role("defense", "direct")
    assert alone is not None
    assert defended is not None
    assert (alone.errors, defended.errors) == (0, 0)
    assert defended.failed >= alone.failed + 2


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is not beside the project")
def test_its_accuracy_is_found_again_on_real_data(classifier: PrefixClassifier) -> None:
    rows = load_split(load_task("sst2", SHARED), "test").select(range(200))
    low, high = measure_accuracy(classifier.model, rows, classifier.defense).interval
    assert low <= Run.load(NAME).measurements["clean_accuracy"]["value"] <= high
