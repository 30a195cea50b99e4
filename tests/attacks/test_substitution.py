"""Greedy and random substitution: same words, same candidates, same budget."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attacks import build_attack
from attacks.base import Recipe
from attacks.substitution import Queries
from robust_prefix.errors import ConfigError, InputError

Build = Callable[..., Recipe]
BOTH = pytest.mark.parametrize("name", ["greedy-substitution", "random-substitution"])
LONG = ("good great charming moving lovely enjoy movie film journey trip often actor",)
POSITIVE = (
    "a charming , and often moving film",
    "the actor is great and the journey is good",
    "i enjoy this good movie , it 's lovely",
)


@pytest.fixture
def stubborn(bag_of_words: Any) -> Any:
    """A victim that calls everything positive, surer or less sure by the text's letters."""

    class Stubborn(bag_of_words):  # type: ignore[misc]
        def logits(self, texts: Any) -> np.ndarray:
            self.asked.extend(texts)
            scores = [1 + sum(map(ord, "".join(fields))) % 97 for fields in texts]
            return np.array([[0.0, score] for score in scores], dtype=np.float32)

    return Stubborn


def changed(before: str, after: str) -> int:
    pairs = zip(before.split(), after.split(), strict=True)
    return sum(old != new for old, new in pairs)


def test_greedy_takes_the_worst_neighbour_of_the_weightiest_word(
    build: Build, bag_of_words: Any
) -> None:
    victim = bag_of_words()
    text = "a good film , an often charming journey"
    attempt = build("greedy-substitution").perturb(victim, (text,), 1, seed=0)
    # Both words weigh the same; the first is replaced first, and by "bad", not by "nice".
    # "solid" is as bad as "bad" and stands nearer.
    assert attempt.adversarial == ("a solid film , an often charming journey",)
    # The original, six words left out, and the neighbours of "good".
    assert victim.asked[0] == (text,)
    assert [len(t.split()) for (t,) in victim.asked[1:6]] == [7] * 5
    assert [t for (t,) in victim.asked[6:]] == [
        text.replace("good", word) for word in ("solid", "nice", "bad")
    ]
    assert attempt.queries == len(victim.asked) == 9


def test_a_text_of_one_word_is_attacked(build: Build, bag_of_words: Any) -> None:
    """Without its word nothing is left, which no classifier takes."""

    class Strict(bag_of_words):  # type: ignore[misc]
        def logits(self, texts: Any) -> np.ndarray:
            if not all(text.strip() for fields in texts for text in fields):
                raise InputError("expected words")
            answers: np.ndarray = super().logits(texts)
            return answers

    attempt = build("greedy-substitution").perturb(Strict(), ("good",), 1, seed=0)
    assert attempt.adversarial == ("solid",)


def test_greedy_leaves_words_that_no_neighbour_makes_worse(build: Build, bag_of_words: Any) -> None:
    class Fond(bag_of_words):  # type: ignore[misc]
        """Every neighbour of "movie" pleases it more; those of "great" do not."""

        def logits(self, texts: Any) -> np.ndarray:
            self.asked.extend(texts)
            weights = {"movie": 2.0, "film": 3.0, "picture": 3.0, "great": 1.0, "grand": 0.4}
            scores = [sum(weights.get(w, 0.5) for w in t.split()) - 0.1 for (t,) in texts]
            return np.array([[0.0, s] for s in scores], dtype=np.float32)

    victim = Fond()
    build("greedy-substitution(max_changed=1)").perturb(victim, ("movie great",), 1, seed=0)
    tried_last = {t for (t,) in victim.asked[-3:]}
    assert tried_last == {"movie grand", "movie tedious", "movie huge"}


@BOTH
@pytest.mark.parametrize("text", POSITIVE)
def test_an_adversary_is_misclassified(
    name: str, text: str, build: Build, bag_of_words: Any
) -> None:
    victim = bag_of_words()
    attempt = build(f"{name}(max_changed=0.5)").perturb(victim, (text,), 1, seed=0)
    assert attempt.adversarial is not None
    assert victim.predict((text,)) == 1
    assert victim.predict(attempt.adversarial) == 0
    assert 1 <= changed(text, attempt.adversarial[0]) <= len(text.split()) / 2 + 1


@BOTH
@pytest.mark.parametrize("limit", [1, 2, 5, 12, 13, 16, 17, 18, 33])
def test_the_budget_is_used_up_and_never_overdrawn(
    name: str, limit: int, build: Build, stubborn: Any
) -> None:
    victim = stubborn()
    attempt = build(f"{name}(max_queries={limit}, max_changed=1)").perturb(victim, LONG, 1, seed=0)
    assert attempt.adversarial is None
    assert attempt.queries == len(victim.asked) == limit


def test_both_have_the_same_budget_by_default(build: Build) -> None:
    settings = {
        build(n).spec.partition("(")[2] for n in ("greedy-substitution", "random-substitution")
    }
    assert settings == {"max_queries=200, modify=last, max_changed=0.25)"}


def test_random_asks_nothing_twice_and_ends_when_all_is_tried(build: Build, stubborn: Any) -> None:
    victim = stubborn()
    attempt = build("random-substitution(max_changed=1)").perturb(victim, ("good film",), 1, seed=0)
    asked = [text for (text,) in victim.asked]
    assert sorted(asked) == sorted({"good film", "solid movie", "nice movie", "bad movie"})
    assert (attempt.adversarial, attempt.queries) == (None, 4)


@pytest.mark.parametrize(
    ("share", "words", "expected"),
    [(0.07, 100, 7), (0.25, 3, 1), (0.25, 5, 2), (0.5, 4, 2), (0.001, 4, 1), (1.0, 9, 9)],
)
def test_the_share_is_rounded_up_to_whole_words(
    share: float, words: int, expected: int, build: Build, stubborn: Any
) -> None:
    text = " ".join(["movie"] * words)
    for name in ("greedy-substitution", "random-substitution"):
        victim = stubborn()
        build(f"{name}(max_changed={share}, max_queries=400)").perturb(victim, (text,), 1, seed=0)
        tried = [changed(text, t) for (t,) in victim.asked if len(t.split()) == words]
        assert max(tried) == expected if name.startswith("random") else max(tried) <= expected
        if name.startswith("random"):
            assert set(tried[1:]) == {expected}


@BOTH
def test_a_text_without_a_word_is_no_adversary(name: str, build: Build, brittle: Any) -> None:
    text = "good film"
    attempt = build(name).perturb(brittle((text,)), (text,), 1, seed=0)
    assert attempt.adversarial is not None
    assert changed(text, attempt.adversarial[0]) == 1


@BOTH
def test_everything_but_the_words_stays_to_the_letter(
    name: str, build: Build, stubborn: Any
) -> None:
    victim = stubborn()
    text = "  Good\tMOVIE -- it's (great), isn't-it ?\n10/10 \u00e9t\u00e9 "
    build(f"{name}(max_changed=1)").perturb(victim, (text,), 1, seed=0)
    texts = [t for (t,) in victim.asked if "\t" in t and len(t.split()) == len(text.split())]
    pieces = {piece for t in texts for piece in t.split()}
    assert {"Solid", "Nice", "Bad"} <= pieces
    assert {"FILM", "PICTURE"} <= pieces
    assert {"(grand),", "(tedious),", "(huge),"} <= pieces
    allowed = {"Solid", "Nice", "Bad", "FILM", "PICTURE", "(grand),", "(tedious),", "(huge),"}
    # A word left out leaves what stood around it.
    assert pieces <= allowed | {*text.split(), "(),"}


def test_the_seed_decides_and_the_global_generators_are_untouched(
    build: Build, stubborn: Any
) -> None:
    attack = build("random-substitution(max_queries=20, max_changed=0.5)")

    def asked(seed: int) -> list[tuple[str, ...]]:
        victim = stubborn()
        attack.perturb(victim, LONG, 1, seed)
        return list(victim.asked)

    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    first = asked(2**63 + 5)
    random.seed(1)
    assert asked(2**63 + 5) == first
    assert asked(1) != first
    random.setstate(before[0])
    asked(3)
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert after == before


@BOTH
def test_of_a_pair_the_share_counts_the_columns_that_may_change(
    name: str, build: Build, stubborn: Any
) -> None:
    pair = ("a good movie , " * 8, "good film")
    victim = stubborn(("premise", "hypothesis"))
    attack = build(f"{name}(max_changed=0.5)", ("premise", "hypothesis"))
    attack.perturb(victim, pair, 1, seed=0)
    assert {premise for premise, _ in victim.asked} == {pair[0]}
    kept = [h for _, h in victim.asked if len(h.split()) == 2]
    assert max(changed(pair[1], h) for h in kept) == 1


@BOTH
@pytest.mark.parametrize("text", ["a dull movie", "bad , tedious"])
def test_a_wrong_original_costs_one_query(
    name: str, text: str, build: Build, bag_of_words: Any
) -> None:
    attempt = build(name).perturb(bag_of_words(), (text,), np.int64(1), seed=0)  # type: ignore[arg-type]
    assert (attempt.adversarial, attempt.queries) == (None, 1)


def test_the_surest_of_several_adversaries_is_kept(bag_of_words: Any) -> None:
    queries = Queries(bag_of_words(), label=1, budget=9)
    scores = queries.ask([("good",), ("bad",), ("bad dull",), ("bad",)])
    assert queries.adversarial == ("bad dull",)
    assert (queries.made, queries.left, queries.over) == (4, 5, True)
    # log softmax of (-s, s), s = 0.5, -1.5, -2.5, -1.5
    expected = [-np.log1p(np.exp(-2 * s)) for s in (0.5, -1.5, -2.5, -1.5)]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


@BOTH
def test_answers_that_are_no_logits_are_refused(name: str, build: Build, bag_of_words: Any) -> None:
    class Broken(bag_of_words):  # type: ignore[misc]
        def logits(self, texts: Any) -> np.ndarray:
            return np.full((len(texts), 2), np.nan, dtype=np.float32)

    with pytest.raises(InputError, match="expected finite logits"):
        build(name).perturb(Broken(), ("good film",), 1, seed=0)
    with pytest.raises(InputError, match=r"expected 1 texts \(text\), got 2"):
        build(name).perturb(bag_of_words(), ("good", "film"), 1, seed=0)


@BOTH
@pytest.mark.parametrize(
    "setting", ["max_queries=none", "max_queries=0", "max_changed=0", "max_changed=1.5"]
)
def test_settings_out_of_range_are_refused(name: str, setting: str, data_dir: Path) -> None:
    with pytest.raises(ConfigError, match=f"expected a valid {setting.partition('=')[0]}"):
        build_attack(f"{name}({setting})", ("text",), data_dir)


WITHOUT_TEXTATTACK = """
import json, sys
for name in ("textattack", "nltk", "flair"):
    sys.modules[name] = None
import attacks
sys.path.insert(0, sys.argv[2])
from conftest import BagOfWords
text = ("a charming , and often moving film",)
spec = "{}-substitution(max_changed=0.5)"
print(json.dumps([
    attacks.build_attack(spec.format(kind), ("text",), sys.argv[1])
    .perturb(BagOfWords(), text, 1, 3).adversarial
    for kind in ("greedy", "random")
]))
"""


def test_textattack_is_not_needed(
    tmp_path: Path, data_dir: Path, build: Build, bag_of_words: Any
) -> None:
    here = Path(__file__).resolve().parent
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "SYSTEMROOT", "VIRTUAL_ENV")}
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_TEXTATTACK, str(data_dir), str(here)],
        cwd=tmp_path,
        # Another order of sets than here: the same adversaries all the same.
        env={
            **kept,
            "HOME": str(tmp_path),
            "PYTHONPATH": str(here.parents[1]),
            "PYTHONHASHSEED": "7",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    for kind, adversarial in zip(("greedy", "random"), json.loads(run.stdout), strict=True):
        attack = build(f"{kind}-substitution(max_changed=0.5)")
        attempt = attack.perturb(bag_of_words(), ("a charming , and often moving film",), 1, 3)
        assert attempt.adversarial is not None
        assert adversarial == list(attempt.adversarial)
