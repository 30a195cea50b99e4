"""White-box attacks on a victim small enough to know its gradient by heart, and on a tiny model."""

from __future__ import annotations

import dataclasses
import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from attacks import list_attacks
from attacks.base import Recipe
from attacks.gradients import Gradients
from attacks.recipes import hotflip
from attacks.recipes.universal_triggers import UniversalTriggers
from attacks.substitution import Queries
from attacks.victim import VictimWrapper, tokens_at
from attacks.vocabulary import read_vocabulary
from robust_prefix.backbones import CausalBackbone
from robust_prefix.classifier import PrefixClassifier
from robust_prefix.defenses import RandomPrefix
from robust_prefix.errors import ArtifactError, ConfigError
from robust_prefix.evaluation.protocols import Example
from robust_prefix.evaluation.trial import CountingVictim
from robust_prefix.gradients import TokenGradients
from robust_prefix.prefixes import Prefix
from robust_prefix.tasks import load_task

Build = Callable[..., Recipe]
NAMES = ("gradient-substitution", "hotflip", "universal-triggers")

# What each word adds to the score of "positive", and a direction that sets apart kinds of words.
WORDS = {
    "good": (1.0, 0),
    "great": (1.2, 0),
    "nice": (0.8, 0),
    "solid": (-1.5, 0),
    "bad": (-1.0, 0),
    "grand": (0.7, 0),
    "tedious": (-0.9, 0),
    "huge": (0.3, 0),
    "goods": (-2.0, 0),
    "movie": (0.5, 1),
    "film": (-0.2, 1),
    "picture": (-0.4, 1),
    "movies": (0.1, 1),
    "trip": (0.2, 2),
    "journey": (-0.6, 2),
    "voyage": (0.4, 2),
    "the": (0.0, 3),
    "this": (-3.0, 3),
    "zqx": (-5.0, 0),  # a token that no word list knows
    "negative": (-6.0, 3),
    "positive": (6.0, 3),
}
HIDDEN = 6


class OpenBag:
    """Adds up the first coordinates of its tokens' embeddings; shows everything.

    Words of ``WORDS`` are one token, with or without a space before; any other word is spelt.
    """

    def __init__(self, columns: tuple[str, ...] = ("text",), max_tokens: int = 1000) -> None:
        self.labels = ("negative", "positive")
        self.columns = columns
        self.max_tokens = max_tokens
        self.asked: list[tuple[str, ...]] = []
        self.differentiated: list[tuple[tuple[str, ...], int, str]] = []
        spelt = [chr(code) for code in range(32, 127)]
        self.texts = [*spelt, *WORDS, *(f" {word}" for word in WORDS)]
        self.ids = {text: number for number, text in enumerate(self.texts)}
        self.matrix = np.zeros((len(self.texts), HIDDEN), dtype=np.float32)
        for number, text in enumerate(self.texts):
            if text.strip() in WORDS:
                weight, kind = WORDS[text.strip()]
                self.matrix[number, 0] = weight
                self.matrix[number, 1 + kind] = 3.0

    def encode(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        return [
            tuple(
                number
                for piece in re.findall(r" ?[A-Za-z]+|.", text)
                for number in ([self.ids[piece]] if piece in self.ids else map(self.ids.get, piece))
            )
            for text in texts
        ]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(self.texts[token] for token in tokens)

    def embeddings(self) -> np.ndarray:
        return self.matrix

    def _score(self, fields: tuple[str, ...]) -> float:
        seen = [token for row in self.encode(fields) for token in row][: self.max_tokens]
        return float(self.matrix[seen, 0].sum()) - 0.05

    def logits(self, texts: Sequence[tuple[str, ...]]) -> np.ndarray:
        self.asked.extend(texts)
        scores = [self._score(fields) for fields in texts]
        return np.array([[-score, score] for score in scores], dtype=np.float32)

    def gradients(
        self, texts: Sequence[tuple[str, ...]], labels: Sequence[int], through: str = "fixed"
    ) -> list[TokenGradients]:
        found = []
        for fields, label in zip(texts, labels, strict=True):
            self.differentiated.append((fields, label, through))
            sign = 1 if label else -1
            margin = 2 * sign * self._score(fields)
            tokens, spans = [self.ids["?"]], [None]
            for column, row in enumerate(self.encode(fields)):
                start = 0
                for token in row:
                    tokens.append(token)
                    spans.append((column, start, start + len(self.texts[token])))
                    start = spans[-1][2]
            tokens, spans = tokens[: self.max_tokens + 1], spans[: self.max_tokens + 1]
            gradient = np.zeros((len(tokens), HIDDEN), dtype=np.float32)
            gradient[1:, 0] = -2 * sign / (1 + np.exp(margin))
            loss = float(np.log1p(np.exp(-margin)))
            found.append(TokenGradients(tuple(tokens), tuple(spans), gradient, loss))
        return found

    def predict(self, fields: tuple[str, ...]) -> int:
        return int(self._score(fields) > 0)


def examples(*texts: str, label: int = 1) -> list[Example]:
    return [Example(number, (text,), label) for number, text in enumerate(texts)]


# What they share


@pytest.mark.parametrize("name", NAMES)
def test_they_say_that_they_read_gradients(name: str, build: Build) -> None:
    [info] = [info for info in list_attacks() if info.name == name]
    assert info.knowledge == build(name).threat.knowledge == "gradient"
    assert info.edits
    assert "\n" not in info.edits + info.deviation


@pytest.mark.parametrize("name", NAMES)
def test_a_black_box_is_refused_in_one_line(name: str, build: Build, bag_of_words: Any) -> None:
    attack = build(name)

    def use() -> None:
        if isinstance(attack, UniversalTriggers):
            attack.fit(bag_of_words(), examples("good movie"), seed=0)
        else:
            attack.perturb(bag_of_words(), ("good movie",), 1, seed=0)

    with pytest.raises(ConfigError, match="expected a victim that gives gradients") as error:
        use()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["gradient-substitution", "hotflip"])
@pytest.mark.parametrize("through", ["fixed", "unrolled"])
def test_the_gradient_is_taken_as_asked(name: str, through: str, build: Build) -> None:
    victim = OpenBag()
    attack = build(f"{name}(through={through})")
    assert f"through={through}" in attack.spec
    attack.perturb(victim, ("great movie",), 1, seed=0)
    assert {(label, how) for _, label, how in victim.differentiated} == {(1, through)}


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_way_through_is_refused(name: str, build: Build) -> None:
    with pytest.raises(ConfigError, match="through"):
        build(f"{name}(through=around)")


@pytest.mark.parametrize("name", ["gradient-substitution", "hotflip"])
@pytest.mark.parametrize("limit", range(1, 13))
def test_gradients_and_texts_share_one_budget(name: str, limit: int, build: Build) -> None:
    victim = OpenBag()
    text = "great great great great movie trip"  # too positive to be turned
    attempt = build(f"{name}(max_queries={limit})").perturb(victim, (text,), 1, seed=0)
    assert attempt.adversarial is None
    assert attempt.queries == len(victim.asked) + len(victim.differentiated) <= limit
    assert limit > 8 or attempt.queries == limit


@pytest.mark.parametrize("name", ["gradient-substitution", "hotflip"])
def test_a_wrong_original_costs_one_query(name: str, build: Build) -> None:
    victim = OpenBag()
    attempt = build(name).perturb(victim, ("a bad movie",), 1, seed=0)
    assert (attempt.adversarial, attempt.queries, victim.differentiated) == (None, 1, [])


@pytest.mark.parametrize("name", ["gradient-substitution", "hotflip"])
def test_chance_has_no_part_in_it(name: str, build: Build) -> None:
    def asked(seed: int) -> list[tuple[str, ...]]:
        victim = OpenBag()
        build(name).perturb(victim, ("great good movie trip",), 1, seed)
        return victim.asked

    assert asked(0) == asked(1)


# The estimate


def estimate(victim: Any, fields: tuple[str, ...], place: tuple, words: list[str]) -> list[float]:
    gradients = Gradients(Queries(victim, 1, 100), "fixed")
    [found] = gradients.of([fields])
    return gradients.gains(found, place, words).tolist()


def test_the_estimate_is_gradient_times_difference_of_embeddings() -> None:
    victim = OpenBag()
    [found] = victim.gradients([("good movie",)], [1])
    slope = found.gradient[1, 0]
    gains = estimate(victim, ("good movie",), (0, 5, 10), ["film", "picture"])
    np.testing.assert_allclose(gains, [slope * (-0.2 - 0.5), slope * (-0.4 - 0.5)], rtol=1e-5)
    assert gains[1] > gains[0] > 0


def test_the_estimate_pairs_tokens_from_the_first_on() -> None:
    victim = OpenBag()
    assert len(victim.encode([" dull"])[0]) == 5  # spelt
    slope = victim.gradients([("dull movie",)], [1])[0].gradient[1, 0]
    # One token for four: it counts for all of them. Four for one: the first counts.
    [one_for_many] = estimate(victim, ("dull movie",), (0, 0, 4), ["bad"])
    assert one_for_many == pytest.approx(4 * slope * -1.0, rel=1e-5)
    slope = victim.gradients([("good movie",)], [1])[0].gradient[1, 0]
    [many_for_one] = estimate(victim, ("good movie",), (0, 0, 4), ["dull"])
    assert many_for_one == pytest.approx(slope * (0 - 1.0), rel=1e-5)


def test_what_the_victim_does_not_see_promises_nothing() -> None:
    victim = OpenBag(max_tokens=2)
    fields = ("good movie trip",)
    assert estimate(victim, fields, (0, 11, 15), ["journey", "voyage"]) == [-np.inf] * 2
    [found] = victim.gradients([fields], [1])
    assert tokens_at(found, (0, 5, 10)) == [2]
    assert tokens_at(found, (0, 11, 15)) == []
    assert tokens_at(found, (1, 0, 4)) == []


# gradient-substitution


def test_substitution_asks_about_the_most_promising_first(build: Build) -> None:
    victim = OpenBag()
    text = "good great movie"
    attack = build("gradient-substitution(verified=2, max_changed=0.5)")
    attempt = attack.perturb(victim, (text,), 1, seed=0)
    # The gains: good -> solid 2.5, great -> tedious 2.1, good -> bad 2.0, great -> huge 0.9, ...
    assert [t for (t,) in victim.asked[1:3]] == ["solid great movie", "good tedious movie"]
    # The first of them is taken, and with it in place the gradient is taken anew.
    assert [t for (t,), _, _ in victim.differentiated] == [text, "solid great movie"]
    assert attempt.adversarial == ("solid tedious movie",)
    assert attempt.queries == 1 + (1 + 2) + (1 + 2)


def test_substitution_goes_on_where_the_estimate_was_wrong(build: Build) -> None:
    class Curved(OpenBag):
        """Its gradient is right and misleads: only "picture" lowers the score."""

        def logits(self, texts: Any) -> np.ndarray:
            self.asked.extend(texts)
            scores = [-1.0 if "picture" in t else 2.0 for (t,) in texts]
            return np.array([[0.0, score] for score in scores], dtype=np.float32)

    victim = Curved()
    attack = build("gradient-substitution(verified=1, max_changed=0.5)")
    attempt = attack.perturb(victim, ("good movie",), 1, seed=0)
    assert [t for (t,) in victim.asked[1:]] == [
        "solid movie",
        "bad movie",
        "good picture",
    ]
    assert attempt.adversarial == ("good picture",)
    assert len(victim.differentiated) == 1


def test_substitution_ends_where_nothing_helps(build: Build) -> None:
    class Deaf(OpenBag):
        def logits(self, texts: Any) -> np.ndarray:
            self.asked.extend(texts)
            return np.array([[0.0, 1.0]] * len(texts), dtype=np.float32)

    victim = Deaf()
    attempt = build("gradient-substitution(max_changed=1)").perturb(
        victim, ("good movie",), 1, seed=0
    )
    assert attempt.adversarial is None
    tried = {t for (t,) in victim.asked}
    assert tried == {
        "good movie",
        *(f"{word} movie" for word in ("solid", "nice", "bad")),
        *(f"good {word}" for word in ("film", "picture")),
    }
    assert attempt.queries == len(tried) + 1


def test_substitution_shares_words_and_budget_with_the_black_box_attack(build: Build) -> None:
    greedy, white = build("greedy-substitution"), build("gradient-substitution")
    assert (white.config.max_queries, white.config.max_changed) == (200, 0.25)
    assert white.threat.edits == greedy.threat.edits
    victim = OpenBag()
    text = "a good , great Movie trip film the the"
    build("gradient-substitution(max_queries=500)").perturb(victim, (text,), 1, seed=0)
    for (asked,) in victim.asked[1:]:
        before, after = text.split(), asked.split()
        changed = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
        assert 1 <= len(changed) <= 3  # a quarter of 8 words, rounded up, is 2


@pytest.mark.parametrize(
    ("spec", "allowed"),
    [("", {1}), ("(modify=premise)", {0}), ("(modify=all)", {0, 1})],
    ids=["last", "premise", "all"],
)
@pytest.mark.parametrize("name", ["gradient-substitution", "hotflip"])
def test_of_a_pair_the_named_columns_change(
    name: str, spec: str, allowed: set[int], build: Build
) -> None:
    columns = ("premise", "hypothesis")
    victim = OpenBag(columns)
    pair = ("great movie", "great trip")
    build(name + spec, columns).perturb(victim, pair, 1, seed=0)
    changed = {c for t in victim.asked for c in (0, 1) if t[c] != pair[c]}
    assert changed == allowed


# hotflip


def flips(attack: Recipe, text: str, victim: OpenBag | None = None) -> set[str]:
    """The words that the attack asks about in the place of the first."""
    victim = victim or OpenBag()
    attack.perturb(victim, (text,), 1, seed=0)
    first = text.split()[0]
    return {t.split()[0] for (t,) in victim.asked} - {first}


@pytest.fixture
def any_word_known(monkeypatch: pytest.MonkeyPatch) -> None:
    known = frozenset({*WORDS, *map(str.upper, WORDS)} - {"zqx"})
    monkeypatch.setattr(hotflip.HotFlip, "_known", known)


ANY = "hotflip(min_cosine=-1, same_pos=false, max_flips=1, beam_width=99)"


@pytest.mark.usefixtures("any_word_known")
@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        # every word of the list but stopwords and words of the same stem
        (ANY, set(WORDS) - {"good", "goods", "zqx", "the", "this"}),
        # of the same kind: the embeddings of the others point elsewhere
        (
            ANY.replace("-1", "0.7"),
            {"great", "nice", "solid", "bad", "grand", "tedious", "huge"},
        ),
        (ANY.replace("-1", "0.99"), {"great", "nice", "grand"}),
        # "huge" is no adjective to the toy tagger
        (
            ANY.replace("-1", "0.7").replace("false", "true"),
            {"great", "nice", "solid", "bad", "grand", "tedious"},
        ),
        # the beam holds the two with the highest estimate
        (ANY.replace("-1", "0.7").replace("99", "2"), {"solid", "bad"}),
    ],
    ids=["free", "cosine", "near", "part of speech", "beam"],
)
def test_a_flip_keeps_the_papers_constraints(spec: str, expected: set[str], build: Build) -> None:
    # Positive beyond what any flip undoes, and nothing else may flip.
    class Sure(OpenBag):
        def _score(self, fields: tuple[str, ...]) -> float:
            return super()._score(fields) + 50

    found = flips(build(spec), "good the the", Sure())
    if "same_pos=false" in spec and "-1" in spec:
        found |= {"the", "this"}  # may come in: only what is replaced must be no stopword
        expected = expected | {"the", "this"}
    assert found == expected


@pytest.mark.usefixtures("any_word_known")
def test_a_flip_keeps_the_case_and_spares_stopwords(build: Build) -> None:
    attack = build(ANY)
    assert flips(attack, "Good movie") == set()  # no token of the victim is in title case
    victim = OpenBag()
    attack.perturb(victim, ("the great great movie",), 1, seed=0)
    assert {t.split()[0] for (t,) in victim.asked} == {"the"}


def test_a_word_that_no_list_knows_is_no_word(build: Build) -> None:
    attack = build("hotflip(min_cosine=-1, same_pos=false, max_flips=1, beam_width=99)")
    found = flips(attack, "great the the")
    assert "zqx" not in found
    assert {"solid", "bad"} & found


@pytest.mark.usefixtures("any_word_known")
def test_two_flips_where_one_is_too_few(build: Build) -> None:
    text = "good great movie trip"
    one, two = OpenBag(), OpenBag()
    free = "hotflip(min_cosine=0.7, same_pos=false, max_flips={})"
    assert build(free.format(1)).perturb(one, (text,), 1, seed=0).adversarial is None
    attempt = build(free.format(2)).perturb(two, (text,), 1, seed=0)
    assert attempt.adversarial == ("solid bad movie trip",)  # "solid" is too far from "great"
    # One gradient for the original, ten for the beam; each beam is asked about once.
    assert len(two.differentiated) == 1 + 10
    assert len(two.asked) == 1 + 10 + 10
    assert len(set(two.asked)) == len(two.asked)
    assert attempt.queries == 32


# universal-triggers

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


# TextAttack's own gradient parts


@pytest.fixture
def wrapper(build: Build) -> VictimWrapper:
    build("deepwordbug")  # imports TextAttack
    wrapped = VictimWrapper()
    wrapped.victim = OpenBag()
    return wrapped


def test_get_grad_has_a_row_for_each_word_of_textattacks(wrapper: VictimWrapper) -> None:
    text = "a good , dull movie 's trip !"
    output = wrapper.get_grad(text)
    [words] = wrapper.tokenize([text], strip_prefix=True)
    assert words == ["a", "good", "dull", "movie", "s", "trip"]
    assert output["gradient"].shape == (len(words), HIDDEN)
    assert output["gradient"].dtype == np.float32
    victim = wrapper.victim
    assert isinstance(victim, OpenBag)
    assert [victim.texts[i] for i in output["ids"]] == ["a", " good", "d", " movie", "s", " trip"]
    # Of the class that the victim answers.
    assert [(label, how) for _, label, how in victim.differentiated] == [(1, "fixed")]
    wrapper.get_grad("bad film")
    assert victim.differentiated[-1][1] == 0


def test_get_grad_of_a_pair_and_of_a_text_that_was_cut(wrapper: VictimWrapper) -> None:
    wrapper.victim = OpenBag(("premise", "hypothesis"), max_tokens=3)
    output = wrapper.get_grad(("good movie", "good trip"))
    assert wrapper.tokenize([("good movie", "good trip")]) == [["good", "movie", "good", "trip"]]
    assert np.abs(output["gradient"]).max(axis=1).tolist()[:3] != [0, 0, 0]
    assert (output["gradient"][3] == 0).all()


def test_textattacks_greedy_search_ranks_by_get_grad(wrapper: VictimWrapper) -> None:
    from textattack.search_methods import GreedyWordSwapWIR
    from textattack.shared import AttackedText

    class Steep(OpenBag):
        """The loss hangs on "movie" more than on the other words, and not at all on "good"."""

        def gradients(self, *arguments: Any) -> list[TokenGradients]:
            found = super().gradients(*arguments)
            for one in found:
                one.gradient[one.tokens.index(self.ids[" movie"])] *= 10
                one.gradient[one.tokens.index(self.ids[" good"])] = 0
            return found

    wrapper.victim = Steep()
    search = GreedyWordSwapWIR(wir_method="gradient")
    search.get_victim_model = lambda: wrapper
    search.get_indices_to_order = lambda text: (4, [0, 1, 2, 3])
    order, is_over = search._get_index_order(AttackedText("the good , movie 's trip"))
    assert order[0] == 2
    assert order[-1] == 1
    assert not is_over


def test_textattacks_gradient_swap_reads_get_grad(wrapper: VictimWrapper) -> None:
    from textattack.models.wrappers import ModelWrapper
    from textattack.shared import AttackedText
    from textattack.transformations.word_swaps import word_swap_gradient_based as shipped

    victim = wrapper.victim
    assert isinstance(victim, OpenBag)

    class Open(VictimWrapper):
        """What the swap asks of its LSTM beside ``get_grad``."""

        pad_token_id = 0

        @property
        def tokenizer(self) -> Open:
            return self

        def convert_id_to_word(self, token: int) -> str:
            return victim.texts[token].strip()

        def get_input_embeddings(self) -> Any:
            return torch.nn.Embedding.from_pretrained(torch.from_numpy(victim.matrix))

    ModelWrapper.register(Open)
    opened = Open()
    opened.victim = victim
    # It accepts TextAttack's LSTM alone.
    with mock.patch.object(shipped, "validate_model_gradient_word_swap_compatibility"):
        swap = shipped.WordSwapGradientBased(opened, top_n=2)
    found = swap._get_replacement_words_by_grad(AttackedText("a good movie"), [1, 2])
    # The steepest descent of the answer given, from the word with the most to lose on.
    assert found == [("negative", 1), ("negative", 1)]


def test_get_grad_of_a_black_box_is_refused(wrapper: VictimWrapper, bag_of_words: Any) -> None:
    wrapper.victim = bag_of_words()
    with pytest.raises(ConfigError, match="expected a victim that gives gradients"):
        wrapper.get_grad("good movie")


# A model


@pytest.mark.parametrize(
    "spec",
    [
        "gradient-substitution(max_changed=1)",
        "hotflip(min_cosine=-1, same_pos=false, max_flips=3)",
        "universal-triggers(length=2, num_candidates=5, batches=2)",
    ],
)
def test_on_a_tiny_model_behind_a_defence(
    spec: str, build: Build, backbone: CausalBackbone, prefix: Prefix
) -> None:
    defense = RandomPrefix(rms=0.3)
    # Not the fixture: the folder named data_dir holds other data here.
    classifier = PrefixClassifier(backbone, load_task("sst2"), prefix, defense)
    victim = CountingVictim(classifier)
    texts = [("the film is good and the end is great",), ("a lovely movie , often charming",)]
    labels = victim.logits(texts).argmax(axis=1).tolist()
    attack = build(spec)
    if isinstance(attack, UniversalTriggers):
        train = [Example(i, *pair) for i, pair in enumerate(zip(texts, labels, strict=True))]
        attack = attack.fitted(attack.fit(victim, train, seed=0))
    found = 0
    for text, label in zip(texts, labels, strict=True):
        before = victim.queries
        attempt = attack.perturb(victim, text, label, seed=0)
        assert victim.queries - before == attempt.queries
        if attempt.adversarial is not None:
            found += 1
            assert int(victim.logits([attempt.adversarial])[0].argmax()) != label
    assert found >= 1
    assert defense.cost.backward > 0
