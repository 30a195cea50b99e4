"""Scores of words: their worst case is exact, and what is promised of a defence with them holds."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from robust_prefix import PrefixClassifier
from robust_prefix.backbones import CausalBackbone
from robust_prefix.certification import CertifyConfig, certify
from robust_prefix.configs import WordScoresConfig
from robust_prefix.data import load_split, rows_as_fields
from robust_prefix.defenses import (
    Defense,
    Fitted,
    Synonyms,
    WordScoresDefense,
    build_defense,
    layers,
)
from robust_prefix.defenses.base import NoSettings
from robust_prefix.errors import ArtifactError, ConfigError, InputError, RobustPrefixError
from robust_prefix.evaluation.bench import Bench, matching_controls
from robust_prefix.evaluation.protocols import ThreatModel
from robust_prefix.fitting import fit_word_scores
from robust_prefix.prefixes import Inputs, Prefix, PrefixModel
from robust_prefix.specs import build_config
from robust_prefix.subspaces import Subspaces
from robust_prefix.synonyms import SynonymClusters
from robust_prefix.tasks import Fields, Task
from robust_prefix.word_fit import fit_scores
from robust_prefix.word_scores import WordScores, bounded

NEAR = {
    "good": ("fine", "great"),
    "bad": ("poor", "tough"),
    "tough": ("bad", "hard"),
    "film": ("Movie",),
}
WORDS = ("good", "fine", "great", "bad", "poor", "tough", "film", "movie")
SAID = [[-1.0, 1.0], [-0.4, 0.2], [-1.2, 1.5], [1.4, -1.0], [1.0, -1.0], [0.1, 0.0], [0, 0], [0, 0]]
SCORES = WordScores(WORDS, torch.tensor(SAID), torch.tensor([0.0, 0.1]), "", {"limit": 0.5})


def scores_for(model: PrefixModel) -> WordScores:
    """Those, as if they had been fitted beside the model's prefix."""
    return dataclasses.replace(SCORES, prefix_fingerprint=model.prefix.fingerprint)


def substitutes(word: str) -> Sequence[str]:
    return NEAR.get(word, ())


def every_version(text: str) -> list[str]:
    choices = [(word, *substitutes(word)) for word in text.split()]
    return [" ".join(words) for words in itertools.product(*choices)]


texts = st.lists(st.sampled_from([*WORDS, "hard", "plot"]), min_size=1, max_size=5).map(" ".join)


@given(texts, st.integers(0, 1))
def test_the_worst_case_is_that_of_all_versions(text: str, label: int) -> None:
    sums = SCORES.sums([(version,) for version in every_version(text)])
    ahead = sums[:, [label]] - sums
    least = float(ahead[:, 1 - label].min())
    assert SCORES.worst((text,), label, substitutes) == pytest.approx(least, abs=1e-5)


@given(text=texts, label=st.integers(0, 1))
def test_so_many_words_may_be_exchanged_and_no_more(text: str, label: int) -> None:
    defense = WordScoresDefense(SCORES)
    radius = defense.radius((text,), label, substitutes)
    versions = every_version(text)
    changed = [sum(map(str.__ne__, each.split(), text.split())) for each in versions]
    sums = SCORES.sums([(version,) for version in versions])
    held = (sums[:, label] - sums[:, 1 - label] > defense.limit + 1e-4).tolist()
    if radius is None:
        assert not held[0]
        return
    assert all(ok for ok, count in zip(held, changed, strict=True) if count <= radius)
    if radius < len(text.split()):
        assert not all(ok for ok, count in zip(held, changed, strict=True) if count <= radius + 1)


def test_certificates_within_the_lists(model: PrefixModel) -> None:
    examples: list[Fields] = [("a good good film",), ("a bad film",), ("a",)]
    defense = WordScoresDefense(scores_for(model))
    config = CertifyConfig(method="lists")
    found = list(certify(model, defense, examples, config, substitutes=substitutes))
    answers = defense.logits(model, examples).argmax(1).tolist()
    assert [each.label for each in found] == answers
    assert (answers[0], found[0].radius, found[0].words) == (1, 4, 4)
    assert found[0].support == pytest.approx(2 * 0.6 + 0.1)
    assert found[2].radius == 0
    for bad in (build_defense("none"), build_defense("masked-vote")):
        with pytest.raises(ConfigError, match="expected word-scores in front"):
            list(certify(model, bad, examples, config, substitutes=substitutes))
    with pytest.raises(ConfigError, match="no lists"):
        list(certify(model, defense, examples, config))
    classifier = PrefixClassifier(model.backbone, model.task, model.prefix, defense=defense)
    assert found == classifier.certify(examples, method="lists", substitutes=substitutes)


class Contrary(Defense[NoSettings]):
    """A classifier that knows the label and is sure of another class, whatever the text."""

    name = "contrary"
    summary = "wrong"

    def __init__(self, label: int) -> None:
        super().__init__()
        self.label = label

    def run(self, model: PrefixModel, inputs: Inputs) -> Tensor:
        scores = torch.zeros(len(inputs), len(model.task.labels))
        scores[:, self.label] = -40.0
        return scores


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=texts, label=st.integers(0, 1))
def test_what_is_certain_holds_whatever_the_classifier_says(
    model: PrefixModel, text: str, label: int
) -> None:
    defense = WordScoresDefense(scores_for(model), Contrary(label))
    versions = every_version(text)
    changed = [sum(map(str.__ne__, each.split(), text.split())) for each in versions]
    answers = defense.logits(model, [(version,) for version in versions])
    ahead = (answers[:, label] - answers[:, 1 - label]).tolist()
    radius = defense.radius((text,), label, substitutes)
    if radius is None:
        return
    assert all(lead > 0 for lead, count in zip(ahead, changed, strict=True) if count <= radius)
    if radius < len(text.split()):
        # For two classes the bound is reached.
        further = [a for a, count in zip(ahead, changed, strict=True) if count <= radius + 1]
        assert min(further) < 1e-3


def test_every_word_of_a_text_may_be_certain_or_none() -> None:
    defense = WordScoresDefense(SCORES)
    assert defense.radius(("a good good film",), 1, substitutes) == 4
    assert defense.radius(("a film",), 1, substitutes) is None
    # "tough" may stand for "bad" and says next to nothing
    assert defense.radius(("a Bad film",), 0, substitutes) == 0


def test_words_of_the_last_column_count_in_any_case() -> None:
    said = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.9]])
    scores = WordScores(("cat", "dog", "don't"), said, torch.zeros(3), "", {"limit": 0.5})
    near = {"cat": ("dog",), "dog": ("Don't",)}
    ahead, lost = scores.ahead(("cat cat cat", "Cat dog"), 0, lambda word: near.get(word, ()))
    torch.testing.assert_close(ahead, torch.tensor([0.0, 0.0, 1.0]))
    # without their means: "dog" says 1 less for the first class than "cat", and "don't" 14/15 more
    # for the third than "dog"
    torch.testing.assert_close(lost, torch.tensor([[0.0, 2.0, 1.0], [0.0, 0.0, 14 / 15]]))


@settings(max_examples=60)
@given(
    text=texts,
    values=st.lists(st.integers(-8, 8), min_size=24, max_size=24),
    classes=st.sampled_from([2, 3]),
    block=st.sampled_from([0, 2, 3]),
)
def test_what_substitutes_can_take_is_never_more_than_is_said(
    text: str, values: list[int], classes: int, block: int
) -> None:
    said = torch.tensor(values[: 8 * classes]).view(8, classes) / 8
    config = {"limit": 0.5, "block": block, "block_limit": 0.75}
    scores = WordScores(WORDS, said, torch.zeros(classes), "", config)
    versions = every_version(text)
    changed = [sum(map(str.__ne__, each.split(), text.split())) for each in versions]
    sums = scores.sums([(version,) for version in versions])
    for label in range(classes):
        ahead, lost = scores.ahead((text,), label, substitutes)
        torch.testing.assert_close(ahead, sums[0, label] - sums[0])
        most = lost.sort(0, descending=True).values
        leads = sums[:, [label]] - sums
        for lead, count in zip(leads, changed, strict=True):
            assert (lead >= ahead - most[:count].sum(0) - 1e-5).all()
        if classes == 2:
            torch.testing.assert_close(leads.min(0).values, ahead - lost.sum(0))


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=9))
def test_a_block_of_words_decides_no_more_than_its_limit(words: list[str]) -> None:
    scores = dataclasses.replace(
        SCORES, bias=torch.zeros(2), config={"limit": 0.5, "block": 3, "block_limit": 0.4}
    )
    assert scores.fingerprint != SCORES.fingerprint
    [found] = scores.sums([(" ".join(words),)])
    blocks = [words[start : start + 3] for start in range(0, len(words), 3)]
    leads = []
    for block in blocks:
        alone = SCORES.sums([(" ".join(block),)])[0] - SCORES.bias
        leads.append(float((alone[1] - alone[0]).clamp(-0.4, 0.4)))
    assert float(found[1] - found[0]) == pytest.approx(sum(leads), abs=1e-5)


@given(st.lists(st.floats(-50, 50), min_size=3, max_size=3), st.floats(0.1, 5))
def test_no_class_is_ahead_by_more_than_the_limit(scores: list[float], limit: float) -> None:
    given_scores = torch.tensor([scores], dtype=torch.float64)
    found = bounded(given_scores, limit)
    assert float(found.max() - found.min()) <= limit + 1e-12
    differences = found[0][:, None] - found[0]
    wanted = given_scores[0][:, None] - given_scores[0]
    if wanted.abs().max() <= limit:
        torch.testing.assert_close(differences, wanted)
    assert (differences * wanted >= 0).all()  # the order is kept


def toy(count: int = 40) -> tuple[list[Fields], list[int]]:
    """Texts whose class is said by a word that has substitutes and by one that has none."""
    labels = [number % 2 for number in range(count)]
    words = {0: ("bad", "drab"), 1: ("good", "bright")}
    return [(f"the film is {words[y][0]} and {words[y][1]}",) for y in labels], labels


def test_the_fit_trusts_words_that_cannot_be_turned() -> None:
    """``good`` may be read as what is said of bad texts; ``bright`` has no substitute."""
    examples, labels = toy()
    turned = {"good": ("bad",), "bad": ("good",)}
    found = {
        weight: fit_scores(
            examples,
            labels,
            torch.zeros(len(labels), 2),
            lambda word: turned.get(word, ()),
            "",
            WordScoresConfig(robust_weight=weight, steps=100),
        )
        for weight in (0.0, 0.9)
    }

    def ahead(scores: WordScores, word: str) -> float:
        row = scores.scores[scores.rows[word]]
        return float(row[1] - row[0])

    assert ahead(found[0.0], "good") == pytest.approx(ahead(found[0.0], "bright"), abs=0.02)
    assert abs(ahead(found[0.9], "good")) < 0.2 * ahead(found[0.9], "bright")
    worst = [
        found[0.9].worst(text, y, lambda word: turned.get(word, ()))
        for text, y in zip(examples, labels, strict=True)
    ]
    assert min(worst) > 0


def test_no_score_is_larger_than_allowed_and_the_fit_is_the_same_again() -> None:
    examples, labels = toy()
    config = WordScoresConfig(largest=0.2, steps=60)
    first, second = (
        fit_scores(examples, labels, torch.zeros(len(labels), 2), substitutes, "", config)
        for _ in range(2)
    )
    assert 0.15 < float(first.scores.abs().max()) <= 0.2
    assert torch.equal(first.scores, second.scores)
    with pytest.raises(InputError, match="expected texts"):
        fit_scores([], [], torch.zeros(0, 2), substitutes, "")


def test_they_are_read_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "words.safetensors"
    SCORES.save(path)
    again = WordScores.load(path)
    assert (again.words, dict(again.config)) == (SCORES.words, dict(SCORES.config))
    assert torch.equal(again.scores, SCORES.scores)
    WordScores(WORDS[:3], SCORES.scores, SCORES.bias, "", {"limit": 1.0}).save(path)
    with pytest.raises(ArtifactError, match="a row of scores for each word"):
        WordScores.load(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ArtifactError, match="safetensors"):
        WordScores.load(path)


def test_scores_are_added_to_what_is_bounded(model: PrefixModel) -> None:
    examples: list[Fields] = [("the film is good",), ("a plot",)]
    fitted = scores_for(model)
    defense = build_defense("word-scores", Fitted(words=fitted))
    assert defense.spec == f"word-scores(limit=0.5, table={fitted.fingerprint})"
    found = defense.logits(model, examples)
    plain = build_defense("none").logits(model, examples)
    sums = torch.tensor([[-1.0, 1.1], [0.0, 0.1]])
    torch.testing.assert_close(found - sums, bounded(plain, 0.5))
    wider = build_defense(
        "normalize+word-scores(limit=9)+synonyms", Fitted(words=fitted, synonyms=_no_clusters())
    )
    torch.testing.assert_close(
        wider.logits(model, examples) - sums, plain - plain.max(1, keepdim=True).values
    )


def test_who_knows_the_bound_sees_the_classifier_behind_it(model: PrefixModel) -> None:
    examples: list[Fields] = [("the film is good",), ("a plot",)]
    fitted = Fitted(words=scores_for(model), synonyms=_no_clusters())
    plain = build_defense("none").logits(model, examples)
    sums = torch.tensor([[-1.0, 1.1], [0.0, 0.1]])
    for spec in ("word-scores(limit=0.01)", "normalize+word-scores(limit=0.01)+synonyms"):
        defense = build_defense(spec, fitted)
        assert defense.hides_scores
        found = defense.decide(model, examples)
        torch.testing.assert_close(found.logits, defense.logits(model, examples))
        torch.testing.assert_close(found.unhidden[0], plain + sums)
    blocks = dataclasses.replace(
        fitted.words, config={"limit": 0.5, "block": 2, "block_limit": 0.1}
    )
    found = build_defense("word-scores", Fitted(words=blocks)).decide(model, examples)
    free, words = found.unhidden
    torch.testing.assert_close(free, plain + sums)  # the blocks' bound is none either
    torch.testing.assert_close(words, bounded(plain, 0.5) + sums)
    assert found.logits.diff().abs().max() < (bounded(plain, 0.5) + sums).diff().abs().max()
    showing = build_defense("normalize+synonyms", fitted)
    assert not showing.hides_scores
    assert showing.decide(model, examples).unhidden == ()


@pytest.mark.parametrize(
    ("knowledge", "hidden"), [("none", 0), ("label", 0), ("score", 1), ("gradient", 1)]
)
def test_scores_are_hidden_from_those_who_read_them(
    backbone: CausalBackbone, task: Task, prefix: Prefix, knowledge: Any, hidden: int
) -> None:
    """An attack that sees nothing or answers alone is not made a second time."""
    fitted = Fitted(words=scores_for(PrefixModel(backbone, task, prefix)))
    classifier = PrefixClassifier(backbone, task, prefix, fitted=fitted)
    attack: Any = SimpleNamespace(
        spec="swap", threat=ThreatModel(knowledge, ("text",), "words", None), goal="misclassify"
    )
    attack.deviation, attack.resources = "", {}
    manifest = Bench.prepare(
        classifier,
        attack,
        load_split(task, "test"),
        defenses=[build_defense("word-scores", fitted), build_defense("normalize")],
        protocols=["worst"],
        num_examples=2,
        seed=0,
        control_seeds=0,
    ).manifest
    assert len(manifest.hiding) == hidden


def _no_clusters() -> Any:
    return SynonymClusters({})


def test_what_does_not_fit_is_one_clear_line(model: PrefixModel) -> None:
    with pytest.raises(ArtifactError, match="run robust-prefix fit-word-scores"):
        build_defense("word-scores")
    with pytest.raises(ConfigError, match="the other way round"):
        build_defense("synonyms+word-scores", Fitted(words=SCORES, synonyms=_no_clusters()))
    with pytest.raises(ConfigError, match="valid limit"):
        build_defense("word-scores(limit=0)", Fitted(words=SCORES))
    three = WordScores(
        ("a",), torch.zeros(1, 3), torch.zeros(3), model.prefix.fingerprint, {"limit": 1.0}
    )
    with pytest.raises(ArtifactError, match="word scores for 2 classes, got them for 3"):
        build_defense("word-scores", Fitted(words=three)).logits(model, [("a",)])
    with pytest.raises(ArtifactError, match="expected word scores for the prefix"):
        build_defense("word-scores", Fitted(words=SCORES)).logits(model, [("a",)])
    with pytest.raises(ArtifactError, match="expected the word scores aaaaaaaa"):
        build_defense("word-scores(table=aaaaaaaa)", Fitted(words=SCORES))


def test_an_attacker_sees_which_words_would_change_the_scores(model: PrefixModel) -> None:
    """The stand-in slope says of a word that speaks for another class that it raises the loss, even
    where the classifier has no say left."""
    vocabulary = [word for word in ("good", "warm", "dull", "cold") if _single(model, word)]
    assert len(vocabulary) >= 3
    said = torch.tensor(
        [[-0.5, 0.5] if word in ("good", "warm") else [0.5, -0.5] for word in vocabulary]
    )
    scores = WordScores(
        tuple(vocabulary), said, torch.zeros(2), model.prefix.fingerprint, {"limit": 1e-6}
    )
    defense = build_defense("word-scores", Fitted(words=scores))
    [found] = defense.gradients(model, [("the film is good",)], [1])
    plain = build_defense("none").gradients(model, [("the film is good",)], [1])[0]
    assert found.tokens == plain.tokens
    place = next(
        number
        for number, span in enumerate(found.spans)
        if span and span[2] == len("the film is good")
    )
    embeddings = model.backbone.embeddings.float()
    old = embeddings[found.tokens[place]]
    added = torch.from_numpy(found.gradient[place])
    gains = {
        word: float((embeddings[model.backbone.encode([f" {word}"])[0][0]] - old) @ added)
        for word in vocabulary
    }
    against = [gains[word] for word in vocabulary if word in ("dull", "cold")]
    with_it = [gains[word] for word in vocabulary if word in ("good", "warm")]
    assert min(against) > max(with_it)
    template = [number for number, span in enumerate(found.spans) if span is None]
    share = found.gradient[template] / plain.gradient[template]
    assert float(share.std()) < 1e-3 * abs(float(share.mean()))


def _single(model: PrefixModel, word: str) -> bool:
    return len(model.backbone.encode([f" {word}"])[0]) == 1


def test_a_run_keeps_them(
    backbone: CausalBackbone, task: Task, prefix: Prefix, tmp_path: Path
) -> None:
    config = WordScoresConfig(steps=40)
    found = fit_word_scores(backbone, prefix, task, substitutes, config=config)
    assert 0.5 < found.config["dev_clean"] <= 1
    assert 0 <= found.config["dev_guaranteed"] <= found.config["dev_words"]
    rows = load_split(task, "dev")
    assert found.config["dev_examples"] == len(rows)
    defense = build_defense("word-scores", Fitted(words=found))
    classifier = PrefixClassifier(backbone, task, prefix, defense, Fitted(words=found))
    classifier.save_pretrained(tmp_path / "run")
    again = PrefixClassifier.from_pretrained(tmp_path / "run", backbone=backbone)
    texts = [fields[0] for fields in rows_as_fields(task, rows)]
    assert again.defense.spec == f"word-scores(limit=1.0, table={found.fingerprint})"
    torch.testing.assert_close(again.logits(texts), classifier.logits(texts))
    right = (again.logits(texts).argmax(1) == torch.tensor(list(rows["label"]))).float().mean()
    assert float(right) == pytest.approx(found.config["dev_clean"])


def test_a_table_of_which_no_word_is_a_token_has_no_slope(model: PrefixModel) -> None:
    scores = WordScores(
        ("zzzz",), torch.ones(1, 2), torch.zeros(2), model.prefix.fingerprint, {"limit": 1.0}
    )
    [found] = build_defense("word-scores", Fitted(words=scores)).gradients(
        model, [("a film",)], [1]
    )
    assert np.isfinite(found.gradient).all()


def test_a_control_deals_the_scores_out_anew_and_says_as_much(
    backbone: CausalBackbone, task: Task, prefix: Prefix
) -> None:
    model = PrefixModel(backbone, task, prefix)
    config = {"limit": 0.5, "block": 2, "block_limit": 0.8}
    fitted = Fitted(words=dataclasses.replace(scores_for(model), config=config))
    classifier = PrefixClassifier(backbone, task, prefix, fitted=fitted)
    defense = build_defense("normalize+word-scores", fitted)
    assert "shuffled" not in defense.spec
    text: list[Fields] = [("good bad tough film",), ("a fine movie",), ("poor but great",)]
    specs = matching_controls(classifier, defense, text, [3, 4])
    assert len(set(specs)) == 2
    for spec in specs:
        control = build_defense(spec, fitted)
        assert control.spec == spec
        strengths = [
            layer.fitted.strength(text)
            for each in (control, defense)
            for layer in layers(each)
            if isinstance(layer, WordScoresDefense)
        ]
        assert strengths[0] == pytest.approx(strengths[1], rel=1e-3)
        assert (control.logits(model, text) - defense.logits(model, text)).abs().max() > 0.1
        assert matching_controls(classifier, control, text, [0]) == ()
    assert matching_controls(classifier, defense, text, []) == ()
    attack: Any = SimpleNamespace(
        spec="swap", threat=ThreatModel("score", ("text",), "words", None), goal="misclassify"
    )
    attack.deviation, attack.resources = "", {}
    with pytest.raises(ConfigError, match="expected no random control among the defences"):
        Bench.prepare(
            classifier,
            attack,
            load_split(task, "test"),
            defenses=[defense, build_defense(specs[0], fitted)],
            protocols=["direct"],
            num_examples=2,
            seed=3,
            control_seeds=0,
            controls={defense.spec: specs},
        )


def test_beside_a_tuned_prefix_the_control_is_a_random_one(
    backbone: CausalBackbone, task: Task, prefix: Prefix, spaces: Subspaces
) -> None:
    model = PrefixModel(backbone, task, prefix)
    fitted = Fitted(words=scores_for(model), subspaces=spaces)
    classifier = PrefixClassifier(backbone, task, prefix, fitted=fitted)
    defense = build_defense("word-scores+robust-prefix(steps=1)", fitted)
    [control] = matching_controls(classifier, defense, [("a good film",)], [0])
    assert control.startswith("word-scores(")
    assert "random-prefix(" in control
    assert "shuffled" not in control


def test_a_control_of_scores_and_readings_deals_out_both(
    backbone: CausalBackbone, task: Task, prefix: Prefix
) -> None:
    clusters = SynonymClusters({"fine": "good", "poor": "bad", "movie": "film"})
    model = PrefixModel(backbone, task, prefix)
    fitted = Fitted(words=scores_for(model), synonyms=clusters)
    classifier = PrefixClassifier(backbone, task, prefix, fitted=fitted)
    defense = build_defense("word-scores+synonyms", fitted)
    [spec] = matching_controls(classifier, defense, [("a fine film",)], [5])
    scores, readings = spec.split("+")
    assert "shuffled=5" in scores
    assert "scale=" in scores
    assert "shuffled=5" in readings
    assert build_defense(spec, fitted).spec == spec


@given(text=texts, factor=st.floats(0.1, 4))
def test_scaled_scores_add_up_to_so_much(text: str, factor: float) -> None:
    config = {"limit": 0.5, "block": 2, "block_limit": 0.8}
    scores = dataclasses.replace(SCORES, config=config)
    found = scores.scaled(factor).sums([(text,)])
    torch.testing.assert_close(found, factor * scores.sums([(text,)]), atol=1e-5, rtol=1e-4)


def test_the_fit_is_the_same_on_any_number_of_threads() -> None:
    """At a size at which the gradient of an indexed tensor is summed in another order each time."""
    rng = np.random.default_rng(0)
    words = [f"w{chr(97 + n // 26 % 26)}{chr(97 + n % 26)}{chr(97 + n // 676)}" for n in range(900)]
    examples: list[Fields] = [(" ".join(rng.choice(words, 60)),) for _ in range(1500)]
    labels = rng.integers(0, 2, len(examples)).tolist()
    config = WordScoresConfig(steps=3)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            said = torch.zeros(len(examples), 2)
            fitted = fit_scores(examples, labels, said, lambda word: (), "", config)
            found.append(fitted.fingerprint)
    finally:
        torch.set_num_threads(before)
    assert len(set(found)) == 1


@pytest.mark.parametrize("config", [{"block": -1, "block_limit": 1}, {"block": 4}, {"limit": 0}])
def test_a_file_with_blocks_that_cannot_be_is_refused(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    bad = dataclasses.replace(SCORES, config={"limit": 0.5, **config})
    bad.save(tmp_path / "words.safetensors")
    with pytest.raises(ArtifactError, match="expected"):
        WordScores.load(tmp_path / "words.safetensors")


def test_blocks_are_kept_in_the_file(tmp_path: Path) -> None:
    config = {"limit": 0.5, "block": 3, "block_limit": 0.4}
    kept = dataclasses.replace(SCORES, config=config)
    kept.save(tmp_path / "words.safetensors")
    found = WordScores.load(tmp_path / "words.safetensors")
    assert found.fingerprint == kept.fingerprint
    text: list[Fields] = [("good fine great bad movie",)]
    torch.testing.assert_close(found.sums(text), kept.sums(text))


def test_the_classifier_is_asked_behind_what_rewrites_texts_for_it(
    backbone: CausalBackbone, task: Task, prefix: Prefix
) -> None:
    rows = load_split(task, "dev")
    texts = rows_as_fields(task, rows)
    read = {word: "film" for (text,) in texts for word in text.lower().split() if word.isalpha()}
    clusters = SynonymClusters(read)
    config = WordScoresConfig(steps=40)
    found = fit_word_scores(
        backbone, prefix, task, substitutes, config=config, behind=Synonyms(clusters)
    )
    alone = fit_word_scores(backbone, prefix, task, substitutes, config=config)
    assert found.fingerprint != alone.fingerprint
    fitted = Fitted(words=found, synonyms=clusters)
    defense = build_defense("word-scores+synonyms", fitted)
    assert isinstance(defense, WordScoresDefense)
    assert defense.behind is not None
    model = PrefixModel(backbone, task, prefix)
    right = defense.logits(model, texts).argmax(1) == torch.tensor(list(rows["label"]))
    assert float(right.float().mean()) == pytest.approx(found.config["dev_clean"])


def test_a_block_may_be_bounded_more_than_when_it_was_fitted(model: PrefixModel) -> None:
    """What a block of neighbours says is cut to the defence's limit, and so is a certificate."""
    words = ("good", "dull", "warm")
    said = torch.tensor([[-0.5, 0.5], [0.5, -0.5], [-0.4, 0.4]])
    config = {"limit": 1.0, "block": 2, "block_limit": 2.0}
    fitted = WordScores(words, said, torch.zeros(2), model.prefix.fingerprint, config)
    texts = [("good warm film",), ("dull good dull",), ("a film",)]
    plain, bounded_more = WordScoresDefense(fitted), WordScoresDefense(fitted, block_limit=0.2)
    model_alone = plain.logits(model, texts) - fitted.sums(texts)
    added = bounded_more.logits(model, texts) - model_alone
    torch.testing.assert_close(added[:, 1] - added[:, 0], torch.tensor([0.2, -0.2, 0.0]))
    assert fitted.sums(texts)[0].diff().item() == pytest.approx(1.8)
    assert "block_limit=0.2" in bounded_more.spec
    assert build_defense(bounded_more.spec, Fitted(words=fitted)).spec == bounded_more.spec
    assert bounded_more.radius(texts[0], 1, lambda _: ()) is None
    assert bounded_more.built_from.words is fitted
    unbound = dataclasses.replace(fitted, config={"limit": 1.0, "block": 0})
    with pytest.raises(ConfigError, match="fitted with block=0"):
        WordScoresDefense(unbound, block_limit=0.2)


@pytest.mark.parametrize("setting", ["limit", "largest"])
def test_a_bound_that_bounds_nothing_is_refused(setting: str) -> None:
    """Infinity times nothing is no number, and a fit of such scores says nothing of it."""
    with pytest.raises(ConfigError, match=setting):
        build_config(WordScoresConfig, {setting: math.inf}, "fit-word-scores")


def test_scores_that_are_no_numbers_are_never_an_answer(model: PrefixModel) -> None:
    broken = torch.full((1, 2), torch.nan)
    scores = WordScores(("good",), broken, torch.zeros(2), model.prefix.fingerprint, {"limit": 1.0})
    defense = WordScoresDefense(scores)
    for ask in (defense.logits, defense.decide):
        with pytest.raises(RobustPrefixError, match=r"finite scores .* fit what it reads again"):
            ask(model, [("a good film",)])
