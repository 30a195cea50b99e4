"""Characters that look alike, and the attack that puts them in."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attacks import build_attack
from attacks.resources.font import FontFile
from attacks.visual_neighbors import Lookalikes, described_alike, drawn_alike, marked
from robust_prefix.errors import ConfigError, InputError, ResourceError

TEXT = "a charming , and often moving film"
PAIR = ("premise", "hypothesis")
FONT = FontFile().locate(None)
needs_font = pytest.mark.skipif(FONT is None, reason="no matplotlib, which has the font")
SPACES = ["dces", "eces", pytest.param("ices", marks=needs_font)]
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def drawn(character: str) -> Lookalikes:
    assert FONT is not None
    return drawn_alike(character, FONT[0])


def base(character: str) -> str:
    """The letter that a composed one is made of."""
    return unicodedata.normalize("NFD", character)[0]


@pytest.mark.parametrize("alike", [described_alike, pytest.param(drawn, marks=needs_font)])
def test_each_letter_has_up_to_twenty_weighted_lookalikes(
    alike: Callable[[str], Lookalikes],
) -> None:
    for letter in LETTERS:
        found = alike(letter)
        assert 0 < len(found.characters) <= 20
        assert len(set(found.characters)) == len(found.characters) == len(found.weights)
        assert letter not in found.characters
        assert list(found.weights) == sorted(found.weights, reverse=True)
        assert sum(found.weights) == pytest.approx(1)
        assert not any(unicodedata.category(c)[0] in "CMZ" for c in found.characters)
        assert all(ord(c) < 30_000 for c in found.characters)


def test_by_description_the_letter_and_its_case_stay() -> None:
    for letter in LETTERS:
        names = [unicodedata.name(c).split() for c in described_alike(letter).characters]
        assert all(letter.upper() in name and "LATIN" in name for name in names)
        case = "SMALL" if letter.islower() else "CAPITAL"
        assert all(next(w for w in name if w in ("SMALL", "CAPITAL")) == case for name in names)
    assert {"\u00e0", "\u0250", "\u24d0", "\u1d00"} <= set(described_alike("a").characters)
    # A composed letter is one of its kind, and its plain form the nearest.
    assert described_alike("\u00e9").characters[0] == "e"


def test_nearer_descriptions_are_drawn_oftener() -> None:
    found = described_alike("a")
    weights = dict(zip(found.characters, found.weights, strict=True))
    # "TURNED" is one word more, "WITH GRAVE" two, "WITH RING ABOVE" three.
    assert weights["\u0250"] > weights["\u00e0"] > weights["\u00e5"]
    ratio = weights["\u00e0"] / weights["\u0250"]
    assert ratio == pytest.approx(2.718281828 ** (-(2**0.5 - 1) / 2))


@pytest.mark.parametrize("character", ["1", ".", " ", "\n", "\U0001f600", "\u0436", "\u4e2d"])
def test_what_is_no_latin_letter_has_no_description_or_mark(character: str) -> None:
    assert described_alike(character) == marked(character) == Lookalikes((), ())


def test_marked_letters_keep_their_letter() -> None:
    found = {letter: marked(letter).characters for letter in LETTERS}
    assert {letter for letter, one in found.items() if not one} == {"q", "Q"}
    for letter, one in found.items():
        assert len(one) <= 1
        assert all(base(c) == letter and c != letter for c in one)
    assert (found["a"], found["b"]) == (("\u00e2",), ("\u1e03",))


@needs_font
def test_images_find_other_scripts() -> None:
    # The Cyrillic doubles are drawn as the Latin letters are.
    doubles = "\u0430\u0435\u0441\u043e\u0440\u0445\u0410\u0415\u041e"
    for letter, double in zip("aecopxAEO", doubles, strict=True):
        assert double in drawn(letter).characters[:4]
    assert drawn("\u4e2d") == Lookalikes((), ())  # the font lacks it
    for letter in LETTERS + "0123456789.,!'":
        kinds = {unicodedata.bidirectional(c) for c in drawn(letter).characters}
        assert not kinds & {"R", "AL", "AN"}


@pytest.mark.parametrize("space", SPACES)
def test_an_adversary_differs_and_is_misclassified(space: str, bag_of_words: Any) -> None:
    victim = bag_of_words()
    attack = build_attack(f"viper(space={space})", ("text",))
    attempt = attack.perturb(victim, (TEXT,), 1, seed=0)
    assert attempt.adversarial is not None
    assert victim.predict(attempt.adversarial) == 0
    assert victim.asked[0] == (TEXT,)
    assert attempt.queries == len(victim.asked) <= 17
    [text] = attempt.adversarial
    assert len(text) == len(TEXT)
    assert text != TEXT
    alike = {"dces": described_alike, "eces": marked, "ices": drawn}[space]
    pairs = zip(TEXT, text, strict=True)
    assert all(new == old or new in alike(old).characters for old, new in pairs)


@pytest.mark.parametrize("space", SPACES)
def test_about_the_given_share_of_the_characters_changes(space: str, brittle: Any) -> None:
    text = "thequickbrownfoxjumpsoverthelazydog" * 60
    attack = build_attack(f"viper(space={space}, probability=0.25, tries=1)", ("text",))
    attempt = attack.perturb(brittle((text,)), (text,), 1, seed=3)
    assert attempt.adversarial is not None
    changed = sum(a != b for a, b in zip(text, attempt.adversarial[0], strict=True))
    assert changed / len(text) == pytest.approx(0.25, abs=0.03)


def test_the_seed_decides_and_the_global_state_does_not(brittle: Any) -> None:
    attack = build_attack("viper", ("text",))
    attempts = []
    for state in (1, 2):
        random.seed(state)
        attempts.append(attack.perturb(brittle((TEXT,)), (TEXT,), 1, seed=2**63 + 5))
        assert random.getstate() == random.Random(state).getstate()
    assert attempts[0] == attempts[1]
    others = {attack.perturb(brittle((TEXT,)), (TEXT,), 1, seed=s).adversarial for s in range(4)}
    assert len(others) == 4


class Stubborn:
    """Never fooled."""

    labels = ("negative", "positive")
    columns = ("text",)

    def __init__(self) -> None:
        self.batches: list[list[tuple[str, ...]]] = []

    def logits(self, texts: Any) -> Any:
        import numpy as np

        self.batches.append(list(texts))
        return np.array([[0, 1]] * len(texts), dtype=np.float32)


def test_tries_are_made_more_and_more_at_once_and_are_all_different() -> None:
    victim = Stubborn()
    attempt = build_attack("viper(tries=25)", ("text",)).perturb(victim, (TEXT,), 1, seed=0)
    assert (attempt.adversarial, attempt.queries) == (None, 26)
    assert [len(batch) for batch in victim.batches] == [1, 1, 2, 4, 8, 8, 2]
    asked = [text for batch in victim.batches for text in batch]
    assert len(set(asked)) == 26


def test_where_there_are_few_draws_it_ends() -> None:
    victim = Stubborn()
    attempt = build_attack("viper(tries=50, space=eces)", ("text",)).perturb(
        victim, ("ab",), 1, seed=0
    )
    # Both letters have one mark each: three texts other than the first.
    assert (attempt.adversarial, attempt.queries) == (None, 4)


@pytest.mark.parametrize("limit", [1, 2, 5, 9])
def test_the_budget_holds(limit: int) -> None:
    victim = Stubborn()
    attack = build_attack(f"viper(max_queries={limit})", ("text",))
    assert attack.perturb(victim, (TEXT,), 1, seed=0).queries == limit
    assert sum(map(len, victim.batches)) == limit


def test_a_wrong_original_costs_one_query(bag_of_words: Any) -> None:
    attempt = build_attack("viper", ("text",)).perturb(bag_of_words(), ("dull",), 1, seed=0)
    assert (attempt.adversarial, attempt.queries) == (None, 1)


@pytest.mark.parametrize("text", ["", "...", "10/10", "\U0001f600 \u4e2d", " \n "])
def test_without_letters_there_is_nothing_to_try(text: str, brittle: Any) -> None:
    attempt = build_attack("viper", ("text",)).perturb(brittle((text,)), (text,), 1, seed=0)
    assert (attempt.adversarial, attempt.queries) == (None, 1)


@pytest.mark.parametrize(
    ("modify", "changed"),
    [("last", {"hypothesis"}), ("premise", {"premise"}), ("all", {"premise", "hypothesis"})],
)
def test_of_a_pair_only_the_named_columns_change(
    modify: str, changed: set[str], brittle: Any
) -> None:
    fields = ("two people walk in a park .", "some people are outside .")
    attack = build_attack(f"viper(modify={modify})", PAIR)
    attempt = attack.perturb(brittle(fields, PAIR), fields, 1, seed=0)
    assert attempt.adversarial is not None
    new = zip(PAIR, fields, attempt.adversarial, strict=True)
    assert {column for column, a, b in new if a != b} == changed
    with pytest.raises(InputError, match="expected 2 texts"):
        attack.perturb(brittle(fields, PAIR), ("one",), 1, seed=0)


@pytest.mark.parametrize(("tries", "knowledge"), [(1, "none"), (2, "label")])
def test_the_threat_says_what_it_sees(tries: int, knowledge: str) -> None:
    assert build_attack(f"viper(tries={tries})", ("text",)).threat.knowledge == knowledge


@needs_font
def test_only_images_need_the_font(monkeypatch: pytest.MonkeyPatch) -> None:
    assert build_attack("viper", ("text",)).resources == {}
    named = build_attack("viper(space=ices)", ("text",)).resources["dejavu-sans"]
    assert named.startswith("package matplotlib ")
    monkeypatch.setattr(FontFile, "locate", lambda *_: None)
    with pytest.raises(ResourceError, match="got nothing readable there; run: pip install matpl"):
        build_attack("viper(space=ices)", ("text",))
    build_attack("viper", ("text",))


@pytest.mark.parametrize("setting", ["space=dce", "probability=0", "probability=1.1", "tries=0"])
def test_a_wrong_setting_is_one_line(setting: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a valid") as caught:
        build_attack(f"viper({setting})", ("text",), tmp_path)
    assert "\n" not in str(caught.value)
