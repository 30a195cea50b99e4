"""Hard prompts: words that are what they say, found by search, through the whole house."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from robust_prefix import search
from robust_prefix.backbones import Backbone, CausalBackbone
from robust_prefix.classifier import PrefixClassifier
from robust_prefix.configs import SubspaceConfig, TrainingConfig
from robust_prefix.data import load_split, rows_as_fields
from robust_prefix.defenses import NoDefense, RandomPrefix, RobustPrefix
from robust_prefix.errors import ConfigError
from robust_prefix.evaluation.accuracy import measured_run
from robust_prefix.fitting import fit_subspaces
from robust_prefix.prefixes import Learned, Prefix, PrefixModel, build_method, method_to_go_on
from robust_prefix.prefixes.autoprompt import AutoPrompt
from robust_prefix.prefixes.evolved_prompt import EvolvedPrompt, crossed, mutated
from robust_prefix.prefixes.hard_prompt import HardPrompt, Wording, Words, readable_tokens
from robust_prefix.prefixes.manual_prompt import manual_prompt
from robust_prefix.prefixes.searched import Score, Searched
from robust_prefix.tasks import Task
from robust_prefix.training import train_prefix

from ..families import tiny_encoder, tiny_seq2seq

PLAIN = "{text} is this review negative or positive ?"
INSIDE = "{text} is it{prompt:2} good ?{prompt:1}"
MASKED = "{text} it was{prompt:3} {mask} ."
SPECS = {
    "manual-prompt(text=this review is negative or positive :)": PLAIN,
    "autoprompt(length=3, candidates=4, steps=6)": PLAIN,
    "autoprompt(length=2, candidates=4, steps=6)": "{prompt:1} {text} is it{prompt:2} good ?",
    "autoprompt(length=0, candidates=4, steps=6)": INSIDE,
    "evolved-prompt(length=3, population=4, generations=4)": PLAIN,
    "evolved-prompt(length=0, population=4, generations=4)": INSIDE,
}
"""Searches and the template of the task they are made for."""
TEXTS = ["the film is good and warm", "the plot is dull", "a story"]
SHORT = TrainingConfig(batch_size=8)


def found(backbone: Backbone, task: Task, spec: str, **settings: Any) -> Prefix:
    config = build_method(spec).config
    return train_prefix(backbone, task, **{"prefix": config, "training": SHORT, **settings})


@dataclass(frozen=True)
class Found:
    """A method and the prompt it came to."""

    spec: str
    task: Task
    prefix: Prefix


@pytest.fixture(scope="module", params=SPECS)
def prompt(request: pytest.FixtureRequest, backbone: CausalBackbone, task: Task) -> Found:
    """Each of them in turn."""
    spec: str = request.param
    task = replace(task, template=SPECS[spec])
    return Found(spec, task, found(backbone, task, spec, seed=3))


def logits(backbone: Backbone, task: Task, prefix: Prefix) -> torch.Tensor:
    return PrefixClassifier(backbone, task, prefix).logits(TEXTS)


def test_the_written_template_is_the_same_classifier(
    backbone: CausalBackbone, prompt: Found
) -> None:
    """What a hard prompt claims: words that anybody may write before the text."""
    written = replace(prompt.task, template=prompt.prefix.config["written"])
    assert written.virtual_tokens == (0, 0)
    nothing = manual_prompt(backbone, written)
    assert nothing.length == 0
    ours = logits(backbone, prompt.task, prompt.prefix)
    torch.testing.assert_close(ours, logits(backbone, written, nothing), atol=1e-5, rtol=1e-5)
    bare = replace(written, template=PLAIN)
    assert (ours - logits(backbone, bare, nothing)).abs().max() > 1e-2


def test_words_are_readable_and_counted(backbone: CausalBackbone, prompt: Found) -> None:
    words = prompt.prefix.config["words"]
    method = build_method(prompt.spec)
    if method.name == "manual-prompt":
        assert words == []
    else:
        assert set(words) <= set(readable_tokens(backbone))
        assert len(words) == method.config.length + sum(prompt.task.virtual_tokens)
    parameters = measured_run(backbone, prompt.task, prompt.prefix).measurements["parameters"]
    assert parameters["trainable"] == parameters["during_training"] == len(words)
    assert prompt.prefix.parameters == len(words)


def test_dev_accuracy_is_that_of_the_prompt(backbone: CausalBackbone, prompt: Found) -> None:
    model = PrefixModel(backbone, prompt.task, prompt.prefix)
    dev = load_split(prompt.task, "dev")
    answers = NoDefense().logits(model, rows_as_fields(prompt.task, dev)).argmax(-1)
    accuracy = (answers == torch.tensor(dev["label"])).float().mean()
    assert prompt.prefix.config["dev_accuracy"] == pytest.approx(float(accuracy))


def test_it_comes_back_with_the_same_answers(
    backbone: CausalBackbone, prompt: Found, tmp_path: Path
) -> None:
    saved = PrefixClassifier(backbone, prompt.task, prompt.prefix)
    saved.save_pretrained(tmp_path)
    loaded = PrefixClassifier.from_pretrained(tmp_path, backbone=backbone)
    assert torch.equal(loaded.logits(TEXTS), saved.logits(TEXTS))
    assert loaded.model.prefix.config["written"] == prompt.prefix.config["written"]


def test_it_can_be_defended(backbone: CausalBackbone, prompt: Found) -> None:
    task, prefix = prompt.task, prompt.prefix
    spaces = fit_subspaces(backbone, prefix, task, config=SubspaceConfig(threshold=0.6))
    plain = PrefixClassifier(backbone, task, prefix)
    for defense in (RobustPrefix(spaces, steps=2), RandomPrefix(rms=0.5)):
        defended = plain.with_defense(defense).logits(TEXTS)
        assert (plain.logits(TEXTS) - defended).abs().max() > 1e-3


class Killed(BaseException):
    """In place of a signal."""


@pytest.mark.parametrize("spec", [spec for spec in SPECS if "manual" not in spec])
def test_a_killed_search_ends_in_the_same(
    backbone: CausalBackbone,
    task: Task,
    spec: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = replace(task, template=SPECS[spec])
    found(backbone, task, spec, seed=3, out=tmp_path / "whole")

    @contextlib.contextmanager
    def deadly(description: str, total: int, done: int = 0) -> Iterator[object]:
        def advance(completed: int, note: str) -> None:
            if completed >= 3:
                raise Killed

        yield advance

    killed = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(search, "progress", deadly)
        with pytest.raises(Killed):
            found(backbone, task, spec, seed=3, out=killed)
    state = json.loads((killed / "checkpoints" / search.STATE_FILE).read_text())
    assert state["history"][-1]["step"] == 3
    again = found(backbone, task, spec, seed=3, out=killed)
    assert (killed / "training.json").read_bytes() == (
        tmp_path / "whole" / "training.json"
    ).read_bytes()
    assert not (killed / "checkpoints").exists()
    # and what is finished is not done again
    assert found(backbone, task, spec, seed=3, out=killed).fingerprint == again.fingerprint


def test_another_search_goes_on_from_found_words(backbone: CausalBackbone, task: Task) -> None:
    """As many words; the line break behind them is no word."""
    start = found(backbone, task, "autoprompt(length=2, candidates=3, steps=1)")
    method = method_to_go_on(start, task, "evolved-prompt")
    assert method.config.length == 2
    assert method.length(task) == start.length
    assert method_to_go_on(start, task, "prompt-tuning").config.length == start.length


def test_the_history_is_the_curve(backbone: CausalBackbone, task: Task, tmp_path: Path) -> None:
    spec = "autoprompt(length=2, candidates=3, steps=20)"
    prefix = found(backbone, task, spec, out=tmp_path)
    history = json.loads((tmp_path / "training.json").read_text())["history"]
    assert [row["step"] for row in history] == list(range(21))
    assert [row["step"] for row in history if "dev_accuracy" in row] == list(range(0, 21, 2))
    assert all({"loss", "train_accuracy"} <= row.keys() for row in history[1:])
    best = max((row for row in history if "words" in row), key=lambda row: row["dev_accuracy"])
    assert prefix.config["words"] == best["words"]
    assert prefix.config["dev_accuracy"] == best["dev_accuracy"]


def test_a_search_stops_early(backbone: CausalBackbone, task: Task, tmp_path: Path) -> None:
    spec = "autoprompt(length=1, candidates=1, steps=100)"
    training = TrainingConfig(batch_size=8, patience=2)
    found(backbone, task, spec, training=training, out=tmp_path)
    history = json.loads((tmp_path / "training.json").read_text())["history"]
    accuracies = [row["dev_accuracy"] for row in history if "dev_accuracy" in row]
    assert accuracies.index(max(accuracies)) == len(accuracies) - 3


@pytest.mark.parametrize(
    "spec",
    [
        "autoprompt(length=3, candidates=10, steps=12)",
        "evolved-prompt(length=3, population=8, generations=6)",
    ],
)
def test_a_search_finds_better_words_than_chance(
    backbone: CausalBackbone, task: Task, spec: str, tmp_path: Path
) -> None:
    """All training texts in each batch, so that losses compare; chance gets forty draws."""
    rows = load_split(task, "train")
    texts, labels = rows_as_fields(task, rows), torch.tensor(rows["label"])
    found(backbone, task, spec, training=TrainingConfig(batch_size=len(rows)), out=tmp_path)
    history = json.loads((tmp_path / "training.json").read_text())["history"]
    torch.manual_seed(0)
    losses, accuracies = [], []
    for _ in range(40):
        words = build_method(spec).trainable(backbone, task)
        with torch.no_grad():
            prefix = Prefix.of(words(backbone), backbone, words.notes())
        answers = NoDefense().logits(PrefixModel(backbone, task, prefix), texts)
        losses.append(float(torch.nn.functional.cross_entropy(answers, labels)))
        accuracies.append(float((answers.argmax(-1) == labels).float().mean()))
    if "auto" in spec:
        assert history[-1]["loss"] < min(losses)
    else:
        assert history[-1]["train_accuracy"] >= max(accuracies) > min(accuracies)


class Recorded:
    """Questions about a loss that is linear in the embeddings: a first-order guess is the truth."""

    def __init__(self, backbone: Backbone, direction: torch.Tensor) -> None:
        self.backbone = backbone
        self.direction = direction
        self.asked: list[Words] = []

    def gradient(self, words: Words) -> torch.Tensor:
        return self.direction.expand(len(words), -1)

    def score(self, words: Words) -> Score:
        self.asked.append(words)
        loss = (self.backbone.embeddings[list(words)] @ self.direction).sum()
        return Score(float(loss), 0.5)


def test_candidates_are_those_of_the_gradient(backbone: CausalBackbone, task: Task) -> None:
    method = build_method("autoprompt(length=2, candidates=5)")
    assert isinstance(method, AutoPrompt)
    wording = Wording(backbone, task, 2)
    torch.manual_seed(0)
    start = wording.drawn()
    questions = Recorded(backbone, torch.randn(backbone.hidden_size))
    population, score = method.step(wording, [start], questions, Random(0))
    tried = questions.asked[1:]
    assert len(tried) == 5
    [place] = {
        place for words in tried for place in range(2) if words[place] != start[place]
    }  # one word is exchanged in a step
    estimated = {
        token: float(backbone.embeddings[token] @ questions.direction)
        for token in wording.vocabulary
        if token != start[place]
    }
    assert [words[place] for words in tried] == sorted(estimated, key=estimated.__getitem__)[:5]
    assert population == [tried[0]]
    assert score == questions.score(tried[0])


def test_a_word_stays_where_no_other_is_better(backbone: CausalBackbone, task: Task) -> None:
    method = build_method("autoprompt(length=1, candidates=500)")
    assert isinstance(method, Searched)
    wording = Wording(backbone, task, 1)
    questions = Recorded(backbone, torch.randn(backbone.hidden_size))
    best = min(wording.vocabulary, key=lambda token: questions.score((token,)).loss)
    assert method.step(wording, [(best,)], questions, Random(0))[0] == [(best,)]


def test_the_gradient_is_that_at_the_embeddings(backbone: CausalBackbone, task: Task) -> None:
    """By differences, at each word's own row; the line break has none."""
    task = replace(task, template=INSIDE)
    module = build_method("autoprompt(length=2)").trainable(backbone, task)
    assert isinstance(module, HardPrompt)
    assert module.wording.places == [0, 1, 3, 4, 5]
    assert len(module.shift) == 6
    learned: Learned = module(backbone)
    [gradient] = torch.autograd.grad(learned.tensor.sum(), [module.shift])
    assert (gradient[:2].abs().sum(1) > 0).all()
    assert (gradient[3:] == 0).all()  # inside the template, and so not in the compiled keys


def test_selection_keeps_the_best(backbone: CausalBackbone, task: Task) -> None:
    method = build_method("evolved-prompt(length=3, population=6)")
    assert isinstance(method, EvolvedPrompt)
    wording = Wording(backbone, task, 3)
    torch.manual_seed(0)
    population = [wording.drawn()]
    questions = Recorded(backbone, torch.randn(backbone.hidden_size))
    losses = []
    for step in range(8):
        before = list(population)
        population, score = method.step(wording, population, questions, Random(step))
        assert len(population) == len(set(population)) == 6
        ranked = [questions.score(words).loss for words in population]
        assert ranked == sorted(ranked)
        assert score.loss == ranked[0] <= min(questions.score(words).loss for words in before)
        losses.append(score.loss)
    assert losses[-1] < losses[0]


def test_children_are_made_of_their_parents() -> None:
    random = Random(0)
    children = {crossed((1, 2, 3), (4, 5, 6), random) for _ in range(100)}
    assert len(children) == 8
    assert all(child[place] in (place + 1, place + 4) for child in children for place in range(3))
    edits = [mutated((1, 2, 3), [7], random) for _ in range(200)]
    swapped = [edit for edit in edits if sorted(edit) == [1, 2, 3]]
    replaced = [edit for edit in edits if sorted(edit) != [1, 2, 3]]
    assert set(swapped) == {(2, 1, 3), (3, 2, 1), (1, 3, 2)}
    assert set(replaced) == {(7, 2, 3), (1, 7, 3), (1, 2, 7)}
    assert mutated((1,), [7], random) == (7,)


def test_readable_words_are_no_pieces(backbone: CausalBackbone) -> None:
    texts = [backbone.decode([token]) for token in readable_tokens(backbone)]
    assert {" film", " good", " negative"} <= set(texts)
    assert all(text[0] == " " and text[1:].isalpha() for text in texts)
    assert backbone.encode(texts) == [[token] for token in readable_tokens(backbone)]
    assert len(texts) < len(backbone.tokenizer) - 1  # bytes and punctuation are left out
    encoder = tiny_encoder("bert")
    shown = {encoder.tokenizer.convert_ids_to_tokens(token) for token in readable_tokens(encoder)}
    assert {"film", "good", "a"} <= shown
    assert not any(text.startswith(("##", "[")) for text in shown)


@pytest.mark.parametrize(
    ("text", "survives"),
    [
        pytest.param(" good film", True, id="words"),
        pytest.param(" good film good", True, id="a word twice"),
        pytest.param(" go|od film", False, id="pieces that join to a word"),
        pytest.param(" good| |film", False, id="a space of its own"),
    ],
)
def test_what_is_read_otherwise_does_not_survive(
    backbone: CausalBackbone, task: Task, text: str, survives: bool
) -> None:
    words = tuple(token for part in text.split("|") for token in backbone.tokenize([part])[0])
    assert Wording(backbone, task, len(words)).survives(words) is survives
    inside = replace(task, template=f"{{text}} is it{{prompt:{len(words)}}} good ?")
    assert Wording(backbone, inside, 0).survives(words) is survives


def test_a_template_that_joins_words_is_refused(task: Task) -> None:
    task = replace(task, template="{text} it was{prompt:2}ing {mask} .")
    with pytest.raises(ConfigError, match=r"words stay the tokens they are, got '\{text\} it was"):
        build_method("autoprompt(length=0)").trainable(tiny_encoder("bert"), task)


def test_it_starts_from_given_words(backbone: CausalBackbone, task: Task) -> None:
    module = build_method("autoprompt(length=4, init_text=good film)").trainable(backbone, task)
    assert isinstance(module, HardPrompt)
    assert backbone.decode(module.words).startswith(" good film ")
    again = build_method("autoprompt(length=4, init_text=good film)").trainable(backbone, task)
    assert isinstance(again, HardPrompt)
    assert again.words != module.words


def test_it_goes_on_from_itself(backbone: CausalBackbone, prompt: Found) -> None:
    if build_method(prompt.spec).name == "manual-prompt":
        with pytest.raises(ConfigError, match="expected nothing to start from for manual-prompt"):
            build_method(prompt.spec).trainable(backbone, prompt.task, prompt.prefix)
        return
    method = method_to_go_on(prompt.prefix, prompt.task, None)
    again = method.trainable(backbone, prompt.task, prompt.prefix)(backbone)
    for name, tensor in again.tensors().items():
        torch.testing.assert_close(tensor.detach(), prompt.prefix.learned.tensors()[name])


def test_prompt_tuning_goes_on_from_a_hard_prompt(backbone: CausalBackbone, task: Task) -> None:
    hard = found(backbone, task, "autoprompt(length=2, candidates=1, steps=1)")
    still = TrainingConfig(epochs=0.5, learning_rate=1e-12)
    soft = train_prefix(
        backbone,
        task,
        prefix=build_method("prompt-tuning(length=3)").config,  # and the line break
        training=still,
        start=hard,
    )
    torch.testing.assert_close(soft.tensor, hard.tensor, atol=1e-5, rtol=1e-5)
    assert soft.parameters == 3 * backbone.hidden_size


def test_zero_shot_is_the_frozen_model(backbone: CausalBackbone, task: Task) -> None:
    prefix = found(backbone, task, "manual-prompt")
    assert prefix.length == prefix.parameters == 0
    assert prefix.config["written"] == task.template
    rows = backbone.pad(PrefixModel(backbone, task, prefix).prompter.encode([("a film",)]).rows)
    words = [backbone.word_token(word) for word in task.label_words]
    theirs = backbone.model(rows.ids).logits[:, -1, words]
    ours = PrefixClassifier(backbone, task, prefix).logits(["a film"])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


ENCODED = "autoprompt(length=0, candidates=3, steps=4)"


@pytest.mark.parametrize(
    ("make", "spec", "template"),
    [
        pytest.param(lambda: tiny_encoder("bert"), ENCODED, MASKED, id="bert"),
        pytest.param(lambda: tiny_encoder("roberta"), ENCODED, MASKED, id="roberta"),
        pytest.param(lambda: tiny_seq2seq("t5"), ENCODED, INSIDE, id="t5"),
        pytest.param(
            lambda: tiny_encoder("bert"), "manual-prompt", "{text} it was {mask} .", id="zero-shot"
        ),
    ],
)
def test_words_inside_the_template_of_a_model_that_looks_ahead(
    task: Task, make: Any, spec: str, template: str
) -> None:
    backbone: Backbone = make()
    task = replace(task, template=template)
    prefix = found(backbone, task, spec)
    assert prefix.length == 0
    written = replace(task, template=prefix.config["written"])
    bare = manual_prompt(backbone, written)
    ours = logits(backbone, task, prefix)
    torch.testing.assert_close(ours, logits(backbone, written, bare), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "spec", "template", "message"),
    [
        pytest.param(
            lambda: tiny_encoder("bert"),
            "autoprompt",
            MASKED,
            "expected a decoder for autoprompt",
            id="before the text of an encoder",
        ),
        pytest.param(
            lambda: tiny_encoder("bert"),
            "manual-prompt(text=is it good)",
            "{text} it was {mask} .",
            "write 'is it good' into the task's template",
            id="a text before that of an encoder",
        ),
        pytest.param(
            lambda: tiny_encoder("bert", words=False),
            "autoprompt(length=0)",
            MASKED,
            "a model that predicts words",
            id="no label words",
        ),
        pytest.param(None, "autoprompt(length=0)", PLAIN, "expected virtual tokens", id="nothing"),
        pytest.param(
            None,
            "autoprompt(length=2, init_text=good film and plot)",
            PLAIN,
            "an init_text of at most 2 tokens, got 4",
            id="long start",
        ),
        pytest.param(None, "manual-prompt(text={x})", PLAIN, "each of the columns", id="braces"),
        pytest.param(None, "manual-prompt", INSIDE, "a method that learns", id="virtual tokens"),
    ],
)
def test_what_does_not_fit_is_one_line(
    backbone: CausalBackbone, task: Task, make: Any, spec: str, template: str, message: str
) -> None:
    model = backbone if make is None else make()
    with pytest.raises(ConfigError, match=message) as raised:
        found(model, replace(task, template=template), spec)
    assert "\n" not in str(raised.value)


def test_an_adversary_is_refused(backbone: CausalBackbone, task: Task, tmp_path: Path) -> None:
    training = TrainingConfig(adversary="pgd(steps=1)")
    with pytest.raises(ConfigError, match="adversary none for autoprompt"):
        found(backbone, task, "autoprompt", training=training, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_only_words_can_go_on_as_words(backbone: CausalBackbone, task: Task) -> None:
    soft = train_prefix(
        backbone,
        task,
        prefix=build_method("prompt-tuning(length=3)").config,
        training=TrainingConfig(epochs=0.5),
    )
    with pytest.raises(ConfigError, match="words that were searched to start from, got a prefix"):
        build_method("autoprompt(length=2)").trainable(backbone, task, soft)
