"""Universal triggers on a victim whose gradient is known by heart."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from attacks.recipes.universal_triggers import UniversalTriggers
from attacks.vocabulary import read_vocabulary
from robust_prefix.errors import ArtifactError, ConfigError
from robust_prefix.evaluation.protocols import Example

from .open_bag import WORDS, Build, OpenBag, examples

TRAIN = [
    *examples("good movie", "great trip", "nice good movie", "good good", label=1),
    *examples("bad film", "a tedious journey", "the bad picture", label=0),
]
SMALL = "universal-triggers(length=2, num_candidates=3, batches=2, fit_examples=8)"


def test_a_trigger_for_each_class_is_found_in_training_examples(build: Build) -> None:
    victim = OpenBag()
    attack = build(SMALL)
    assert isinstance(attack, UniversalTriggers)
    state = json.loads(attack.fit(victim, TRAIN, seed=0))
    # The words that weigh most, but for the labels' own names.
    assert state["triggers"] == {"negative": "great great", "positive": "zqx zqx"}
    assert state["fit"]["positive"] == {"examples": 4, "right": 4, "right_after": 0}
    assert state["fit"]["negative"]["examples"] == 3
    # What it found is made of tokens that come back.
    assert len(victim.encode(["zqx zqx"])[0]) == 2


def test_what_is_refused_is_no_trigger(build: Build) -> None:
    """The strongest word alone is refused: the search takes what is answered."""

    class Wary(OpenBag):
        def facing(self, label: int) -> Wary:
            found = copy.copy(self)
            found.label = label
            return found

        def logits(self, texts: Sequence[tuple[str, ...]]) -> np.ndarray:
            found = super().logits(texts)
            refused = ["zqx" in fields[-1] for fields in texts]
            found[refused] = np.eye(2, dtype=np.float32)[self.label]
            return found

    attack = build(SMALL)
    state = json.loads(attack.fit(Wary(), TRAIN, seed=0))
    assert state["triggers"] == {"negative": "great great", "positive": "this this"}
    assert state["fit"]["positive"] == {"examples": 4, "right": 4, "right_after": 0}


def test_a_fitted_trigger_stands_before_every_text_of_its_class(build: Build) -> None:
    attack = build(SMALL)
    assert isinstance(attack, UniversalTriggers)
    fitted = attack.fitted(attack.fit(OpenBag(), TRAIN, seed=0))
    assert fitted.spec == attack.spec
    for text, label, expected in (
        ("good film", 1, "zqx zqx good film"),
        ("good film", 0, None),  # wrong as it is
        ("bad trip", 0, "great great bad trip"),
        ("great great great great great great great great great", 1, None),  # too sure
    ):
        victim = OpenBag()
        attempt = fitted.perturb(victim, (text,), label, seed=0)
        assert attempt.adversarial == (None if expected is None else (expected,))
        assert attempt.queries == len(victim.asked) <= 2
        assert victim.differentiated == []


@pytest.mark.parametrize(("limit", "told"), [("none", None), ("1", 1), ("2", None), ("9", None)])
def test_a_limit_is_told_where_it_stops_the_attack(
    build: Build, limit: str, told: int | None
) -> None:
    assert build(f"universal-triggers(max_queries={limit})").threat.max_queries == told


def test_the_seed_decides_which_examples_are_seen(build: Build) -> None:
    spec = "universal-triggers(length=1, num_candidates=1, batches=1, batch_size=1, fit_examples=2)"
    attack = build(spec)
    assert isinstance(attack, UniversalTriggers)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())

    def seen(seed: int) -> list[tuple[tuple[str, ...], int, str]]:
        victim = OpenBag()
        first = attack.fit(victim, TRAIN, seed)
        assert first == attack.fit(OpenBag(), TRAIN, seed)
        return victim.differentiated

    assert len({str(seen(seed)) for seed in range(8)}) > 1
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert after == before


def test_a_beam_finds_what_one_trigger_at_a_time_does_not(build: Build) -> None:
    class Pairs(OpenBag):
        """Only "journey" behind "film" hurts; "bad" alone hurts a little, and no further."""

        def logits(self, texts: Any) -> np.ndarray:
            self.asked.extend(texts)
            scores = [
                -4.0
                if t.startswith("film journey ")
                else 1.0
                if t.startswith("bad")
                else 1.5
                if t.startswith("film")
                else 2.0
                for (t,) in texts
            ]
            return np.array([[0.0, score] for score in scores], dtype=np.float32)

    found = {}
    for width in (1, 3):
        attack = build(
            f"universal-triggers(length=2, num_candidates=99, batches=1, beam_width={width})"
        )
        assert isinstance(attack, UniversalTriggers)
        state = attack.fit(Pairs(), examples("good trip"), seed=0)
        found[width] = json.loads(state)["triggers"]["positive"].split()[0]
    assert found == {1: "bad", 3: "film"}


def test_more_starts_find_what_the_first_gradient_hides(build: Build) -> None:
    class Masked(OpenBag):
        """Behind "the", where every search used to start, there is no slope to follow."""

        def gradients(self, texts: Any, labels: Any, through: Any = "fixed") -> Any:
            return [
                dataclasses.replace(found, gradient=-found.gradient)
                if text.startswith("the")
                else found
                for found, (text,) in zip(
                    super().gradients(texts, labels, through), texts, strict=True
                )
            ]

    after = {}
    for starts in (1, 4):
        attack = build(SMALL.replace("batches=2", f"batches=2, starts={starts}"))
        assert isinstance(attack, UniversalTriggers)
        state = json.loads(attack.fit(Masked(), TRAIN, seed=0))
        after[starts] = (state["triggers"]["positive"], state["fit"]["positive"]["right_after"])
    assert after == {1: ("the the", 4), 4: ("zqx zqx", 0)}


@pytest.mark.parametrize(
    ("place", "expected"), [("start", "film journey"), ("end", "journey film")]
)
def test_a_search_begins_with_a_phrase_of_another_class(
    build: Build, place: str, expected: str
) -> None:
    """Only "film journey" hurts, at its place, and no word of it alone: no gradient leads there."""

    class Phrase(OpenBag):
        def logits(self, texts: Any) -> np.ndarray:
            found = [
                text.startswith(expected) if place == "start" else text.endswith(expected)
                for (text,) in texts
            ]
            return np.array([[0.0, -4.0 if hurts else 2.0] for hurts in found], dtype=np.float32)

    other = "film journey bad trip" if place == "start" else "bad trip journey film"
    train = [*examples("good trip", "nice movie"), *examples("bad film", other, "a", label=0)]
    found = {}
    for borrowed in (0, 9):
        attack = build(
            "universal-triggers(length=2, num_candidates=1, batches=1, "
            f"borrowed={borrowed}, place={place})"
        )
        assert isinstance(attack, UniversalTriggers)
        state = json.loads(attack.fit(Phrase(), train, seed=0))
        found[borrowed] = state["triggers"]["positive"] == expected
    assert found == {0: False, 9: True}


def test_no_phrase_is_borrowed_where_none_is_long_enough_or_all_name_labels(
    build: Build,
) -> None:
    attack = build(SMALL.replace(")", ", borrowed=9)"))
    alone = build(SMALL)
    assert isinstance(attack, UniversalTriggers)
    assert isinstance(alone, UniversalTriggers)
    train = [*examples("good movie"), *examples("bad", "negative film", label=0)]
    states = [json.loads(each.fit(OpenBag(), train, seed=0)) for each in (attack, alone)]
    assert states[0]["triggers"]["positive"] == states[1]["triggers"]["positive"]


def test_starts_are_no_labels_names_and_need_no_bare_words(build: Build) -> None:
    class Pieces(OpenBag):
        """No word is one token without a space, as where words are divided into pieces."""

        def __init__(self) -> None:
            super().__init__()
            self.matrix[0, -1] = 0.5  # another model than that of the tests before

        def decode(self, tokens: Any) -> str:
            return " " + super().decode(tokens).strip()

    attack = build(SMALL.replace("batches=2", "batches=1, starts=9"))
    assert isinstance(attack, UniversalTriggers)
    victim = Pieces()
    state = json.loads(attack.fit(victim, TRAIN, seed=0))
    tried = {text.split()[0] for (text,) in victim.asked} | {state["triggers"]["positive"]}
    assert not {"positive", "negative"} & tried


def test_a_search_says_how_far_it_is(build: Build, caplog: pytest.LogCaptureFixture) -> None:
    attack = build(SMALL.replace("batches=2", "batches=2, starts=3"))
    assert isinstance(attack, UniversalTriggers)
    with caplog.at_level("INFO"):
        attack.fit(OpenBag(), TRAIN, seed=0)
    ends = [line for line in caplog.messages if "6/6" in line]  # three starts of two batches
    assert [line.split(" 6/6")[0] for line in ends] == [
        "trigger for negative",
        "trigger for positive",
    ]


def test_a_class_that_is_never_right_has_no_trigger(build: Build) -> None:
    attack = build(SMALL)
    assert isinstance(attack, UniversalTriggers)
    state = attack.fit(OpenBag(), examples("good movie", "bad film", label=1), seed=0)
    triggers = json.loads(state)["triggers"]
    assert triggers["negative"] == ""
    assert triggers["positive"]
    victim = OpenBag()
    attempt = attack.fitted(state).perturb(victim, ("bad film",), 0, seed=0)
    assert (attempt.adversarial, attempt.queries) == (None, 1)


@pytest.mark.parametrize(
    ("modify", "expected"),
    [
        ("last", ("good movie", "zqx great trip")),
        ("premise", ("zqx good movie", "great trip")),
        ("all", ("zqx good movie", "zqx great trip")),
    ],
)
def test_of_a_pair_the_trigger_stands_before_the_named_columns(
    modify: str, expected: tuple[str, str], build: Build
) -> None:
    columns = ("premise", "hypothesis")
    attack = build(f"universal-triggers(length=1, modify={modify})", columns)
    assert isinstance(attack, UniversalTriggers)
    pairs = [Example(0, ("good movie", "great trip"), 1), Example(1, ("bad", "bad film"), 0)]
    victim = OpenBag(columns)
    state = attack.fit(victim, pairs, seed=0)
    attempt = attack.fitted(state).perturb(victim, pairs[0].fields, 1, seed=0)
    assert attempt.adversarial == expected
    assert {len(fields) for fields in victim.asked} == {2}


def test_a_trigger_may_stand_behind_the_text_and_is_searched_for_there(build: Build) -> None:
    class Ends(OpenBag):
        """Hears the last word alone."""

        def logits(self, texts: Any) -> np.ndarray:
            return super().logits([(text.split()[-1],) for (text,) in texts])

        def gradients(self, *asked: Any) -> Any:
            found = super().gradients(*asked)
            for each in found:
                each.gradient[:-1] = 0
            return found

    attack = build(
        "universal-triggers(length=1, num_candidates=1, batches=1, fit_examples=2, place=end)"
    )
    assert isinstance(attack, UniversalTriggers)
    victim = Ends()
    fitted = attack.fitted(attack.fit(victim, examples("bad good"), seed=0))
    differentiated = {text for (text,), _, _ in victim.differentiated}
    assert differentiated == {"bad good the"}
    assert fitted.perturb(Ends(), ("bad good",), 1, seed=0).adversarial == ("bad good zqx",)
    assert build("universal-triggers(place=start)").spec == build("universal-triggers").spec


def test_a_text_that_is_cut_before_its_trigger_says_nothing_of_it(build: Build) -> None:
    """Whichever text comes last, the words that are tried begin as the trigger does."""
    begun: set[str] = set()

    class Cut(OpenBag):
        def decode(self, tokens: Any) -> str:
            begun.add(super().decode(tokens))
            return super().decode(tokens)

        def gradients(self, *asked: Any) -> Any:
            found = super().gradients(*asked)
            return [
                dataclasses.replace(each, spans=tuple(None for _ in each.spans))
                if fields[0].startswith("cut")
                else each
                for each, fields in zip(found, asked[0], strict=True)
            ]

    attack = build(
        "universal-triggers(length=1, num_candidates=1, batches=1, fit_examples=4, place=end)"
    )
    assert isinstance(attack, UniversalTriggers)
    texts = examples("nice good", "cut good")
    for seed in range(6):
        attack.fit(Cut(), texts, seed=seed)
    assert " the" in begun
    assert "" not in begun


@pytest.mark.parametrize("state", ["", "[]", "{}", '{"triggers": ["a"]}', '{"triggers": {"a": 1}}'])
def test_a_state_that_fit_did_not_return_is_refused(state: str, build: Build) -> None:
    attack = build("universal-triggers")
    assert isinstance(attack, UniversalTriggers)
    with pytest.raises(ArtifactError, match="expected the triggers"):
        attack.fitted(state)


def test_without_its_triggers_it_says_so(build: Build) -> None:
    attack = build("universal-triggers")
    assert isinstance(attack, UniversalTriggers)
    with pytest.raises(ConfigError, match="fit it on training examples"):
        attack.perturb(OpenBag(), ("good",), 1, seed=0)
    other = attack.fitted('{"triggers": {"sports": "the"}}')
    with pytest.raises(ConfigError, match=r"'positive'.*sports"):
        other.perturb(OpenBag(), ("good",), 1, seed=0)


def test_the_vocabulary_is_words_that_come_back_as_their_token() -> None:
    class Unstable(OpenBag):
        """Spells " film", though it has a token for it."""

        def encode(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
            return [
                (1, 2) if text == " film" else row
                for text, row in zip(texts, super().encode(texts), strict=True)
            ]

    victim = Unstable()
    victim.matrix[0, 5] = 0.5  # another model, not the one that was read before
    vocabulary = read_vocabulary(victim)
    assert set(vocabulary.spaced.texts) == set(WORDS) - {"film"}
    # The single letters are tokens, but none of them behind a space.
    assert set(vocabulary.bare.texts) == set(WORDS)
    for words, before in ((vocabulary.spaced, " "), (vocabulary.bare, "")):
        for text, token, row in zip(words.texts, words.tokens, words.embeddings, strict=True):
            assert victim.texts[token] == before + text
            assert (row == victim.matrix[token]).all()
    assert read_vocabulary(victim) is vocabulary
    victim.matrix[0, 5] = 0.6
    assert read_vocabulary(victim) is not vocabulary
