"""A prefix trained beside scores of words learns what they leave open, adversaries included."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from robust_prefix.backbones import CausalBackbone
from robust_prefix.configs import (
    AutoPromptConfig,
    PrefixTuningConfig,
    TrainingConfig,
    WordScoresConfig,
)
from robust_prefix.data import load_split, rows_as_fields
from robust_prefix.defenses import Synonyms, WordScoresDefense
from robust_prefix.errors import ConfigError, InputError
from robust_prefix.fitting import cross_fit_words, fit_word_scores
from robust_prefix.objectives import PrefixObjective, ReadingPrompter, build_adversary
from robust_prefix.objectives.triggers import TriggerAdversary
from robust_prefix.prefixes import Prefix, PrefixModel
from robust_prefix.prefixes.model import Prompter
from robust_prefix.prefixes.prefix_tuning import DirectPrefix
from robust_prefix.synonyms import SynonymClusters
from robust_prefix.tasks import Fields, Task
from robust_prefix.training import train_prefix
from robust_prefix.word_fit import cross_fit, fit_scores
from robust_prefix.word_scores import CrossFitted, WordScores

TEXTS: list[Fields] = [("good film",), ("dull plot",), ("warm story",)]
LABELS = torch.tensor([1, 0, 1])
WORDS = ("good", "fine", "dull", "warm", "odd")
SAID = [[0.0, 2.0], [0.0, 0.1], [1.5, 0.0], [0.0, 1.0], [3.0, 0.0]]
SUBSTITUTES = {"good": ("fine", "odd"), "warm": ("odd",), "dull": ("warm",)}


def substitutes(word: str) -> Sequence[str]:
    return SUBSTITUTES.get(word, ())


def scores(scale: float = 1.0, limit: float = 1.0) -> WordScores:
    return WordScores(WORDS, scale * torch.tensor(SAID), torch.zeros(2), "", {"limit": limit})


def objective_for(
    backbone: CausalBackbone,
    task: Task,
    prefix: Prefix,
    words: CrossFitted | None,
    adversary: str = "none",
) -> PrefixObjective:
    prompter = Prompter(backbone, task)
    built = build_adversary(adversary, prompter, substitutes)
    tensors = DirectPrefix(prefix.tensor.clone())
    return PrefixObjective(prompter, tensors, built, TEXTS, weight=1.0, words=words)


def run(
    objective: PrefixObjective, backbone: CausalBackbone, task: Task, beside: Tensor | None
) -> dict[str, Tensor]:
    batch = backbone.pad(Prompter(backbone, task).encode(TEXTS).rows)
    found: dict[str, Tensor] = objective(
        batch.ids, batch.answer, LABELS, torch.arange(3), beside=beside
    )
    return found


def test_the_loss_is_that_of_both_together_and_the_answer_the_defence_s(
    backbone: CausalBackbone, task: Task, prefix: Prefix
) -> None:
    words = CrossFitted(scores(), (scores(),), limit=0.02)
    beside = words.whole.sums(TEXTS)
    found = run(objective_for(backbone, task, prefix, words), backbone, task, beside)
    model = PrefixModel(backbone, task, prefix)
    said = model.logits(model.pad(model.prompter.encode(TEXTS)))
    expected = cross_entropy(said + beside, LABELS)
    torch.testing.assert_close(found["loss"], expected, atol=1e-5, rtol=1e-5)
    whole = words.whole.beside(prefix.fingerprint)
    answer = WordScoresDefense(whole, limit=0.02).logits(model, TEXTS)
    torch.testing.assert_close(found["logits"], answer, atol=1e-5, rtol=1e-5)
    assert (answer - said - beside).abs().max() > 1e-3  # the bound is felt


def test_an_adversary_sees_the_words_scores(
    backbone: CausalBackbone, task: Task, prefix: Prefix
) -> None:
    """Scores larger than what the model says decide which candidate is the worst."""
    spec = "substitution(variants=1, max_changed=1, temperature=0)"
    words = CrossFitted(scores(10), (scores(10),), 1.0)
    objective = objective_for(backbone, task, prefix, words, spec).train()
    loss = run(objective, backbone, task, words.whole.sums(TEXTS))["loss"]
    # "odd film" by 30, "warm plot" by 10, "odd story" by 30; behind "fine film" it would be 14
    assert loss.item() == pytest.approx(70 / 3, abs=2)


CLUSTERS = SynonymClusters(
    {"fine": "good", "odd": "good", "plot": "screenplay", "film": "movie", "the": "a"}
)


def test_the_model_alone_reads_what_stands_behind_the_words(
    backbone: CausalBackbone, task: Task, prefix: Prefix
) -> None:
    """The loss is that of ``word-scores+synonyms``, of clean texts and of the adversary's."""
    words = CrossFitted(scores(10), (scores(10),), limit=99.0)
    behind = Synonyms(CLUSTERS)
    prompter = ReadingPrompter(behind, backbone, task)
    spec = "substitution(variants=1, max_changed=1, temperature=0)"
    adversary = build_adversary(spec, prompter, substitutes)
    tensors = DirectPrefix(prefix.tensor.clone())
    objective = PrefixObjective(prompter, tensors, adversary, TEXTS, weight=1.0, words=words)
    batch = backbone.pad(prompter.encode(TEXTS).rows)
    beside = words.whole.sums(TEXTS)
    model = PrefixModel(backbone, task, prefix)
    whole = words.whole.beside(prefix.fingerprint)

    def loss(texts: list[Fields]) -> Tensor:
        found = WordScoresDefense(whole, behind, limit=99.0).logits(model, texts)
        return cross_entropy(found, LABELS)

    clean = objective.eval()(batch.ids, batch.answer, LABELS, torch.arange(3), beside=beside)
    torch.testing.assert_close(clean["loss"], loss(TEXTS), atol=1e-5, rtol=1e-5)
    harder = objective.train()(batch.ids, batch.answer, LABELS, torch.arange(3), beside=beside)
    # The model reads "odd film" as "good film" still; the words read "odd".
    worst: list[Fields] = [("odd film",), ("warm plot",), ("odd story",)]
    torch.testing.assert_close(harder["loss"], loss(worst), atol=1e-4, rtol=1e-4)


def test_tokens_of_what_is_read_have_their_places_in_the_text(
    backbone: CausalBackbone, task: Task, prefix: Prefix
) -> None:
    text: Fields = ("an odd plot , fine film",)
    defense = Synonyms(CLUSTERS)
    prompter = ReadingPrompter(defense, backbone, task)
    assert prompter.read(text) == ("an good screenplay , good movie",)
    [expected] = defense.gradients(PrefixModel(backbone, task, prefix), [text], [0])
    assert prompter.spans(text) == expected.spans
    covered = {text[0][span[1] : span[2]].strip() for span in prompter.spans(text) if span}
    assert {"odd", "plot", "fine"} <= covered


def test_a_trigger_is_chosen_by_the_words_scores_too(
    backbone: CausalBackbone, task: Task, prefix: Prefix
) -> None:
    """Of all words one turns the first class and another the second."""
    spec = "triggers(length=1, variants=1, temperature=0)"
    vocabulary = TriggerAdversary(Prompter(backbone, task))._vocabulary.words
    turning = (vocabulary[3], vocabulary[-5])
    said = torch.tensor([[0.0, 9.0], [9.0, 0.0]])
    words = WordScores(tuple(map(str.lower, turning)), said, torch.zeros(2), "", {"limit": 1.0})
    crossed = CrossFitted(words, (words,), 1.0)
    objective = objective_for(backbone, task, prefix, crossed, spec).train()
    assert run(objective, backbone, task, words.sums(TEXTS))["loss"] > 8


def test_without_what_the_words_add_there_is_no_loss(
    backbone: CausalBackbone, task: Task, prefix: Prefix
) -> None:
    objective = objective_for(backbone, task, prefix, CrossFitted(scores(), (scores(),), 1.0))
    with pytest.raises(ValueError, match="expected what the words add"):
        run(objective, backbone, task, None)


def test_words_of_other_classes_and_methods_that_search_are_refused(
    backbone: CausalBackbone, task: Task
) -> None:
    three = WordScores(("good",), torch.zeros(1, 3), torch.zeros(3), "", {"limit": 1.0})
    with pytest.raises(ConfigError, match="for the 2 classes of sst2, got some for 3"):
        train_prefix(backbone, task, words=CrossFitted(three, (three,), 1.0))
    with pytest.raises(ConfigError, match="beside word scores, got autoprompt"):
        train_prefix(
            backbone, task, prefix=AutoPromptConfig(), words=CrossFitted(three, (three,), 1.0)
        )


def test_each_text_stands_beside_scores_that_were_fitted_without_it(
    backbone: CausalBackbone, task: Task, prefix: Prefix
) -> None:
    spec = "substitution(variants=1, max_changed=1, temperature=0)"
    none = dataclasses.replace(scores(), scores=torch.zeros(5, 2))
    losses = []
    for folds in ((none, none, none), (scores(100), none, none), (none, none, scores(100))):
        objective = objective_for(
            backbone, task, prefix, CrossFitted(none, folds, 1.0), spec
        ).train()
        losses.append(run(objective, backbone, task, none.sums(TEXTS))["loss"])
    assert losses[1] > losses[0] + 10
    assert losses[2] > losses[0] + 10


def test_a_fold_knows_nothing_of_its_own_texts() -> None:
    texts = [("good",), ("bad",), ("fine",), ("poor",)] * 5
    labels = [1, 0, 1, 0] * 5
    said = torch.zeros(20, 2)
    config = WordScoresConfig(steps=40, robust_weight=0.2, limit=0.7)
    whole = fit_scores(texts, labels, said, lambda word: (), "prefix", config)
    found = cross_fit(whole, texts, labels, said, lambda word: (), folds=4)
    for fold, (word,) in enumerate(texts[:4]):
        left_out = found.leaving_out(fold)
        assert word not in left_out.words
        assert left_out.prefix_fingerprint == "prefix"
        assert left_out.config["limit"] == 0.7
        assert left_out.config["steps"] == 40
    assert found.leaving_out(7) is found.folds[3]
    for folds in (1, 21):
        with pytest.raises(InputError, match=r"expected 2 to 20 folds"):
            cross_fit(whole, texts, labels, said, lambda word: (), folds)


def test_a_trained_prefix_leaves_to_the_words_what_they_say(
    backbone: CausalBackbone, task: Task
) -> None:
    """On rows whose class the words tell for certain there is nothing left to learn."""
    rows = load_split(task, "train")
    texts, labels = rows_as_fields(task, rows), torch.tensor(list(rows["label"]))
    settings = {"prefix": PrefixTuningConfig(length=3), "training": TrainingConfig(epochs=2)}
    start = train_prefix(backbone, task, **settings)  # type: ignore[arg-type]
    whole = fit_word_scores(
        backbone, start, task, substitutes, config=WordScoresConfig(robust_weight=0.1, steps=50)
    )
    crossed = cross_fit_words(backbone, start, task, whole, substitutes, folds=3)
    assert len(crossed.folds) == 3
    told = torch.where(labels == 1, 50.0, -50.0)

    class Certain(WordScores):
        def sums(self, asked: Sequence[Fields]) -> Tensor:
            places = [texts.index(fields) for fields in asked if fields in texts]
            found = torch.zeros(len(asked), 2)
            if len(places) == len(asked):
                found[:, 1] = told[places]
            return found

    certain = Certain(*(getattr(whole, field.name) for field in dataclasses.fields(whole)))
    moved = {}
    for name, words in (("beside", CrossFitted(certain, (certain,) * 3, 1.0)), ("alone", None)):
        after = train_prefix(backbone, task, start=start, words=words, **settings)  # type: ignore[arg-type]
        moved[name] = float((after.tensor - start.tensor).norm())
        assert (after.config["word_scores"] is not None) == (words is not None)
        assert after.parameters == after.tensor.numel()
    assert moved["beside"] < 0.1 * moved["alone"]


def test_what_was_trained_beside_words_is_not_trained_again(
    backbone: CausalBackbone, task: Task, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "prefix": PrefixTuningConfig(length=3),
        "training": TrainingConfig(epochs=1),
    }
    start = train_prefix(backbone, task, **settings)
    config = WordScoresConfig(steps=20)
    whole = fit_word_scores(backbone, start, task, substitutes, config=config)
    given: dict[str, Any] = {**settings, "start": start, "out": tmp_path / "run"}
    trained, stamps = [], []
    for _ in range(2):
        crossed = cross_fit_words(backbone, start, task, whole, substitutes, folds=2)
        trained.append(train_prefix(backbone, task, words=crossed, **given).fingerprint)
        stamps.append((tmp_path / "run" / "training.json").stat().st_mtime_ns)
    assert trained[0] == trained[1] != start.fingerprint
    assert stamps[0] == stamps[1]
    others: list[tuple[str, dict[str, Any]]] = [
        ("behind_words", {"words": crossed, "behind_words": Synonyms(CLUSTERS)}),
        # it decides what is best on dev
        ("word_scores", {"words": dataclasses.replace(crossed, limit=crossed.limit + 1)}),
        (
            "word_scores",
            {"words": cross_fit_words(backbone, start, task, whole, substitutes, folds=3)},
        ),
    ]
    for name, other in others:
        with pytest.raises(ConfigError, match=f"the same training in .* other {name};"):
            train_prefix(backbone, task, **other, **given)
    del given["out"]
    read, _, refitted = (train_prefix(backbone, task, **each, **given) for _, each in others)
    assert trained[0] not in (read.fingerprint, refitted.fingerprint)
