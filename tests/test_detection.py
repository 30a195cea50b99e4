"""Scores of suspicion: what they are, what they are calibrated to, and how they are kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf

from robust_prefix.artifacts import save_tensors
from robust_prefix.data import load_split, rows_as_fields
from robust_prefix.detection import (
    SCORES,
    Calibrated,
    Decisions,
    Density,
    Detectors,
    Mahalanobis,
    Margin,
    Seen,
    as_attacked,
    fit_frequency,
    see,
)
from robust_prefix.detection.gaussians import Gaussians
from robust_prefix.errors import ArtifactError, ConfigError
from robust_prefix.prefixes import PrefixModel, margins
from robust_prefix.subspaces import Subspaces, residual_norm_squared
from robust_prefix.tasks import Fields, Task


@pytest.fixture(scope="module")
def texts(task: Task) -> list[Fields]:
    return rows_as_fields(task, load_split(task, "dev"))


def clusters(n: int = 300, hidden: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Two classes of states with one covariance, far apart."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, n)
    mixing = rng.normal(size=(hidden, hidden))
    states = rng.normal(size=(n, hidden)) @ mixing + 8 * labels[:, None] + 100
    return states.astype(np.float32), labels


def seen_as(states: np.ndarray, logits: torch.Tensor | None = None, layer: int = 1) -> Seen:
    logits = torch.zeros(len(states), 2) if logits is None else logits
    return Seen([("",)] * len(states), logits, {layer: torch.from_numpy(states)}, lambda _: logits)


def test_gaussians_are_what_scipy_says() -> None:
    rng = np.random.default_rng(1)
    means = rng.normal(size=(2, 3))
    roots = rng.normal(size=(2, 3, 3))
    covariances = roots @ roots.transpose(0, 2, 1)
    states = rng.normal(size=(5, 3)).astype(np.float32)
    found = Gaussians.of(means, covariances).log_densities(torch.from_numpy(states))
    wanted = [
        multivariate_normal(m, c).logpdf(states) for m, c in zip(means, covariances, strict=True)
    ]
    np.testing.assert_allclose(found.numpy(), np.stack(wanted, 1), rtol=1e-3)


def test_mahalanobis_is_the_distance_to_the_nearest_class() -> None:
    states, labels = clusters()
    score = Mahalanobis.fit(1, states, labels)
    means = [states[labels == c].mean(0) for c in (0, 1)]
    within = states - np.stack(means)[labels]
    precision = np.linalg.inv(LedoitWolf(assume_centered=True).fit(within).covariance_)
    wanted = [min(mahalanobis(h, mean, precision) ** 2 for mean in means) for h in states[:20]]
    np.testing.assert_allclose(score(seen_as(states[:20])).numpy(), wanted, rtol=1e-2)


def test_density_reads_the_class_of_the_answer() -> None:
    states, labels = clusters()
    score = Density.fit(1, states, labels, components=3, seed=0)
    answer = torch.nn.functional.one_hot(torch.from_numpy(labels), 2).float()
    right, wrong = score(seen_as(states, answer)), score(seen_as(states, 1 - answer))
    assert (right < wrong).float().mean() > 0.99


def test_density_is_not_moved_by_outliers_among_the_training_texts() -> None:
    states, labels = clusters()
    spoilt = states.copy()
    spoilt[:15] += 60
    answer = torch.nn.functional.one_hot(torch.from_numpy(labels), 2).float()
    score = Density.fit(1, spoilt, labels, components=6, seed=0)
    suspicion = score(seen_as(spoilt, answer))
    assert suspicion[:15].min() > suspicion[15:].max()


@pytest.mark.parametrize("texts", [2, 4, 10])
def test_density_of_a_class_whose_texts_are_all_the_same(texts: int) -> None:
    """Its texts are likely, others are not; and no score is beyond all numbers."""
    states, labels = clusters()
    same = np.repeat(states[labels == 1][:1], texts, axis=0)
    states = np.concatenate([states[labels == 0], same])
    labels = np.array([0] * (len(states) - texts) + [1] * texts)
    score = Density.fit(1, states, labels, components=3, seed=0)
    answer = torch.nn.functional.one_hot(torch.from_numpy(labels), 2).float()
    found = score(seen_as(states, answer))
    assert found.isfinite().all()
    answered_1 = score(seen_as(states, torch.tensor([[0.0, 1.0]]).expand(len(states), 2)))
    assert answered_1.isfinite().all()
    assert answered_1[-texts:].max() < answered_1[:-texts].min()


def test_what_cannot_be_scored_is_refused() -> None:
    excess = torch.tensor([-1.0, 0.0, 1.0, torch.nan])
    assert Decisions(torch.zeros(4, 2), excess).abstained.tolist() == [False, False, True, True]


def test_margin_and_residual_are_those_of_the_model(
    model: PrefixModel, spaces: Subspaces, detectors: Detectors, texts: list[Fields]
) -> None:
    seen = see(model, texts, tuple(spaces.layers))
    torch.testing.assert_close(detectors.get("margin").score(seen), -margins(seen.logits))
    found = detectors.get("residual").score(seen)
    wanted = sum(residual_norm_squared(s, seen.states[j]) for j, s in spaces.layers.items())
    torch.testing.assert_close(found, wanted)


def test_rare_words_are_read_as_their_most_frequent_synonym() -> None:
    training = [("good " * 9 + "fine " * 5 + "film grand",)]
    synonyms = {"good": ["grand", "swell"], "fine": ["swell", "grand"], "grand": ["good"]}
    score = fit_frequency(training, lambda word: synonyms.get(word, []), rare=0.7)
    # good and fine are not rare; swell, which never occurs, has two frequent synonyms
    assert score.rewrite(("a Swell film , GRAND and fine",)) == ("a Good film , GOOD and fine",)


def test_frequency_is_the_drop_of_the_answers_probability(
    model: PrefixModel, detectors: Detectors
) -> None:
    score = detectors.get("frequency").score
    words = score.pack()[1]["words"]
    assert words["good"] == "the"
    texts = [("the film is good",), ("the film is on",)]
    found = score(see(model, texts, ()))
    plain = see(model, [texts[0], ("the film is the",)], ()).logits.softmax(-1)
    answer = int(plain[0].argmax())
    assert found[0].item() == pytest.approx(float(plain[0, answer] - plain[1, answer]), abs=1e-5)
    assert found[1] == 0


def test_scores_do_not_depend_on_the_batch(
    model: PrefixModel, detectors: Detectors, texts: list[Fields]
) -> None:
    for name in SCORES:
        score = detectors.get(name).score
        together = score(see(model, texts, score.layers))
        alone = torch.cat([score(see(model, [text], score.layers, 1)) for text in texts[:6]])
        torch.testing.assert_close(together[:6], alone, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("fpr", [0.01, 0.05, 0.2, 0.5])
def test_clean_text_exceeds_the_threshold_no_oftener_than_asked(fpr: float) -> None:
    """Over many draws of dev and of one new text, which is what the rate is about."""
    rng = np.random.default_rng(0)
    draws = torch.from_numpy(rng.normal(size=(4000, 120)))
    exceeded = [
        bool(row[-1] > Calibrated(Margin(), row[:-1].sort().values).threshold(fpr)) for row in draws
    ]
    assert np.mean(exceeded) == pytest.approx(fpr, abs=4 * np.sqrt(fpr * (1 - fpr) / 4000))


def test_a_rate_that_dev_is_too_small_for_is_refused() -> None:
    clean = torch.arange(19.0)
    assert Calibrated(Margin(), clean).threshold(0.05) == 18
    with pytest.raises(ConfigError, match=r"at least 24 dev texts .* got 19"):
        Calibrated(Margin(), clean).threshold(0.04)


def test_detectors_come_back_from_their_file(
    detectors: Detectors, model: PrefixModel, texts: list[Fields], tmp_path: Path
) -> None:
    detectors.save(tmp_path / "detectors.safetensors")
    loaded = Detectors.load(tmp_path / "detectors.safetensors")
    assert list(loaded.scores) == list(detectors.scores) == list(SCORES)
    assert loaded.config == detectors.config
    for name in SCORES:
        ours, theirs = detectors.get(name), loaded.get(name)
        seen = see(model, texts[:4], ours.score.layers)
        assert torch.equal(ours.score(seen), theirs.score(seen))
        assert ours.threshold(0.2) == theirs.threshold(0.2)


def test_what_is_wrong_with_a_file_or_a_name_is_said(detectors: Detectors, tmp_path: Path) -> None:
    save_tensors(tmp_path / "bad.safetensors", "detectors", {}, {"scores": {"mahalanobis": {}}})
    with pytest.raises(ArtifactError, match="fitted detectors"):
        Detectors.load(tmp_path / "bad.safetensors")
    with pytest.raises(ConfigError, match="did you mean 'mahalanobis'"):
        detectors.get("mahalanobs")
    less = dataclasses.replace(detectors, scores={"margin": detectors.get("margin")})
    with pytest.raises(ArtifactError, match=r"\(margin\), got none; run .* fit-subspaces"):
        less.get("residual")
    with pytest.raises(ArtifactError, match="fit-detectors on this run"):
        detectors.check("another", "prefix")


# Margins of the true class 0, excess, the margin an attack is shown.
SHOWN = [
    pytest.param("misclassify", 2.0, -1.0, 2.0, id="right-and-answered"),
    pytest.param("misclassify", 2.0, 3.0, 3.0, id="right-and-refused"),
    pytest.param("misclassify", -2.0, 3.0, 3.0, id="wrong-but-refused"),
    pytest.param("misclassify", -2.0, -0.5, -0.5, id="wrong-and-nearly-refused"),
    pytest.param("misclassify", -2.0, -5.0, -2.0, id="wrong-and-inconspicuous"),
    pytest.param("misclassify", -2.0, 1e-9, 1e-3, id="wrong-and-refused-by-a-hair"),
    pytest.param("keep", 2.0, -5.0, 2.0, id="kept-and-inconspicuous"),
    pytest.param("keep", 2.0, 3.0, -3.0, id="kept-but-refused"),
    pytest.param("keep", -2.0, -1.0, -2.0, id="lost"),
]


@pytest.mark.parametrize(("goal", "margin", "excess", "shown"), SHOWN)
def test_an_attack_is_shown_the_harder_of_its_two_tasks(
    goal: str, margin: float, excess: float, shown: float
) -> None:
    logits = torch.tensor([[7.0 + margin, 7.0, 3.0]])
    found = as_attacked(Decisions(logits, torch.tensor([excess])), [0], goal)  # type: ignore[arg-type]
    assert (found[0, 0] - found[0, 1:].max()).item() == pytest.approx(shown, abs=1e-5)
    assert torch.equal(found[:, 1:], logits[:, 1:])


def test_who_always_answers_is_shown_as_it_is() -> None:
    decisions = Decisions(torch.tensor([[1.0, 2.0]]))
    assert torch.equal(as_attacked(decisions, [0], "misclassify"), decisions.logits)
    assert decisions.labels == [1]
