"""HotFlip on a victim whose gradient is known by heart."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from attacks.base import Recipe
from attacks.recipes import hotflip

from .open_bag import WORDS, Build, OpenBag


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


@pytest.mark.usefixtures("any_word_known")
def test_the_first_word_flips_where_words_have_a_space_alone(build: Build) -> None:
    """As in models of word pieces: a text's first word is the token of any word."""

    class Pieces(OpenBag):
        def encode(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
            return super().encode([text if text.startswith(" ") else f" {text}" for text in texts])

    victim = Pieces()
    build(ANY).perturb(victim, ("good",), 1, seed=0)
    assert {"bad", "solid"} <= {text for (text,) in victim.asked}


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
