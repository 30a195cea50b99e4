"""Every attack on small victims."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attacks import build_attack
from attacks.base import Recipe
from attacks.resources import find_resource, is_available
from robust_prefix.errors import ConfigError, InputError, ResourceError

pytestmark = pytest.mark.usefixtures("encoder")

Build = Callable[..., Recipe]
POSITIVE = (
    "a charming , and often moving film",
    "the actor is great and the journey is good",
    "i enjoy this good movie , it 's lovely",
)
FLIPPED_BY = {
    "deepwordbug": POSITIVE,
    # The toy encoder is untrained: its similarities mean nothing, so none is asked for here.
    "textbugger(min_similarity=0)": POSITIVE,
    "textfooler(min_similarity=0)": ("a charming , and often moving film", "a great , great trip"),
    "pruthi(max_word_swaps=3)": POSITIVE,
    "greedy-substitution(max_changed=0.5)": POSITIVE,
    "pwws": ("a charming film", "a great , great journey"),
    "random-substitution(max_changed=0.5)": POSITIVE,
}
NAMES = [spec.partition("(")[0] for spec in FLIPPED_BY]
CASES = [(name, text) for name, texts in FLIPPED_BY.items() for text in texts]
PAIR = ("premise", "hypothesis")


@pytest.mark.parametrize(("name", "text"), CASES)
def test_an_adversary_differs_and_is_misclassified(
    name: str, text: str, build: Build, bag_of_words: Any
) -> None:
    victim = bag_of_words()
    assert victim.predict((text,)) == 1
    attempt = build(name).perturb(victim, (text,), 1, seed=0)
    assert attempt.adversarial is not None
    assert attempt.adversarial != (text,)
    assert victim.predict(attempt.adversarial) == 0
    # What is asked first is the text itself, to the letter.
    # where there is nothing a sign is asked about
    assert victim.asked[0][0].strip(" _\n") == text.strip(" _\n")
    assert attempt.queries >= len(victim.asked)


def test_pwws_takes_single_word_synonyms_and_spares_stopwords(
    build: Build, bag_of_words: Any
) -> None:
    victim = bag_of_words()
    text = "this movie was a good , good , charming journey"
    build("pwws").perturb(victim, (text,), 1, seed=0)
    asked = {word for (t,) in victim.asked for word in t.split()}
    swaps = {"film", "solid", "enchanting", "bewitching", "trip"}
    assert asked == {*text.split(), *swaps, "[UNK]"}


def test_deepwordbug_makes_one_typo_a_word_within_the_distance(
    build: Build, bag_of_words: Any
) -> None:
    from editdistance import eval as distance

    victim = bag_of_words()
    text = "good great charming lovely moving journey"
    attempt = build("deepwordbug(max_edit_distance=4)").perturb(victim, (text,), 1, seed=0)
    assert attempt.adversarial is None
    typos = [t for (t,) in victim.asked if "[UNK]" not in t]
    assert max(distance(text, t) for t in typos) == 4
    for typo in typos:
        pairs = zip(text.split(), typo.split(), strict=True)
        assert all(distance(old, new) <= 2 for old, new in pairs)


def test_one_transformation_only_substitutes(build: Build, bag_of_words: Any) -> None:
    victim = bag_of_words()
    text = "a charming , and lovely film"
    build("deepwordbug(all_transformations=false)").perturb(victim, (text,), 1, seed=0)
    assert {len(t) for (t,) in victim.asked if "[UNK]" not in t} == {len(text)}
    build("deepwordbug").perturb(victim, (text,), 1, seed=0)
    assert len({len(t) for (t,) in victim.asked if "[UNK]" not in t}) > 1


def test_the_seed_decides_and_the_global_state_does_not(build: Build, bag_of_words: Any) -> None:
    attack, text = build("deepwordbug"), (POSITIVE[0],)
    attempts = []
    for state in (1, 2):
        random.seed(state)
        np.random.seed(state)
        torch.manual_seed(state)
        attempts.append(attack.perturb(bag_of_words(), text, 1, seed=2**63 + 5))
    assert attempts[0] == attempts[1]
    others = {attack.perturb(bag_of_words(), text, 1, seed=s).adversarial for s in range(4)}
    assert len(others) > 1
    # One instance after other examples does as a fresh one.
    assert build("deepwordbug").perturb(bag_of_words(), text, 1, seed=2**63 + 5) == attempts[0]


def test_the_global_generators_are_left_as_they_were(build: Build, bag_of_words: Any) -> None:
    attack = build("deepwordbug")
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    attack.perturb(bag_of_words(), (POSITIVE[0],), 1, seed=0)
    with pytest.raises(InputError):
        attack.perturb(bag_of_words(), ("too", "many"), 1, seed=0)
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert after == before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("limit", [1, 2, 5, 9])
def test_the_budget_holds(name: str, limit: int, build: Build, bag_of_words: Any) -> None:
    victim = bag_of_words()
    text = "good good good good charming great journey"
    attempt = build(f"{name}(max_queries={limit})").perturb(victim, (text,), 1, seed=0)
    assert attempt.adversarial is None
    assert attempt.queries == limit
    assert len(victim.asked) <= limit


def test_a_wrong_original_costs_one_query(build: Build, bag_of_words: Any) -> None:
    attempt = build("pwws").perturb(bag_of_words(), ("a dull movie",), np.int64(1), seed=0)
    assert (attempt.adversarial, attempt.queries) == (None, 1)


def test_answers_are_not_kept_from_one_example_to_the_next(build: Build, bag_of_words: Any) -> None:
    attack = build("pwws")
    skipped, again = bag_of_words(), bag_of_words()
    attack.perturb(skipped, ("a dull movie",), 1, seed=0)
    attack.perturb(again, ("a dull movie",), 0, seed=0)
    assert again.asked[0] == ("a dull movie",)


def test_what_answers_at_random_is_asked_each_time(build: Build, bag_of_words: Any) -> None:
    class Randomized(bag_of_words):  # type: ignore[misc]
        randomized = True

    attack = build("pwws")
    text = ("a good good movie",)  # without either of two words it is the same text
    found = []
    for victim in (bag_of_words(), Randomized(), bag_of_words()):
        attack.perturb(victim, text, 1, seed=0)
        found.append((len(victim.asked), len(set(victim.asked))))
    assert found[0] == found[2]
    assert found[0][0] == found[0][1] == found[1][1] < found[1][0]


def test_an_interrupted_example_leaves_no_trace(build: Build, bag_of_words: Any) -> None:
    class Interrupted(bag_of_words):  # type: ignore[misc]
        def logits(self, texts: Any) -> np.ndarray:
            if len(self.asked) > 3:
                raise KeyboardInterrupt
            return super().logits(texts)

    attack, text = build("pwws"), ("a great , great journey",)
    expected = build("pwws").perturb(bag_of_words(), text, 1, seed=0)
    with pytest.raises(KeyboardInterrupt):
        attack.perturb(Interrupted(), text, 1, seed=0)
    victim = bag_of_words()
    assert attack.perturb(victim, text, 1, seed=0) == expected
    assert victim.asked[0] == text


ODD = {
    "empty": "",
    "blank": "  \n ",
    "score": "10/10",
    "dots": "...",
    "emoji": "😀 👍🏽",
    "arabic": "فيلم رائع جدا",
    "hebrew": "סרט נהדר",
    "chinese": "我喜欢这部电影",
    "separators": "\u2028good\u2029 \u00a0film\u200b",
    "marks": "_ - ' * @ 'tis-",
    "combining": "e\u0301te\u0301 cafe\u0301 İstanbul",
    "markup": "<b>S</b> PLIT <i>it</i>",
    "one-letter": "a b c",
    "nul": "good\x00bad",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_texts_do_not_crash(name: str, text: str, build: Build, brittle: Any) -> None:
    victim = brittle((text,))
    attempt = build(name).perturb(victim, (text,), 1, seed=0)
    # where there is nothing a sign is asked about
    assert victim.asked[0][0].strip(" _\n") == text.strip(" _\n")
    if text in (ODD["empty"], ODD["blank"], ODD["dots"], ODD["emoji"]):
        assert (attempt.adversarial, attempt.queries) == (None, 1)


def test_a_text_whose_language_cannot_be_told_is_still_attacked(build: Build, brittle: Any) -> None:
    # TextAttack's printing of this result raises LangDetectException.
    attempt = build("deepwordbug").perturb(brittle(("10/10",)), ("10/10",), 1, seed=0)
    assert attempt.adversarial is not None


@pytest.mark.parametrize(
    "text", ["it 's  a charming ,\tand often\naffecting journey . ", "Ǆ İ good!"]
)
def test_only_the_swapped_word_changes(text: str, build: Build, brittle: Any) -> None:
    victim = brittle((text,))
    attempt = build("deepwordbug").perturb(victim, (text,), 1, seed=0)
    assert attempt.adversarial is not None
    old, new = text.split(" "), attempt.adversarial[0].split(" ")
    assert sum(a != b for a, b in zip(old, new, strict=True)) == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("modify", "changed"),
    [
        ("last", {"hypothesis"}),
        ("hypothesis", {"hypothesis"}),
        ("premise", {"premise"}),
        ("all", {"premise", "hypothesis"}),
    ],
)
def test_of_a_pair_only_the_named_columns_change(
    name: str, modify: str, changed: set[str], build: Build, bag_of_words: Any
) -> None:
    # Single letters stand in TextAttack's mark between columns, which has misled it (#631).
    fields = ("S P L I T a good movie , a great trip", "I T a good movie , a great trip")
    victim = bag_of_words(PAIR)
    build(f"{name}(modify={modify})", PAIR).perturb(victim, fields, 1, seed=0)
    assert victim.asked[0] == fields
    seen = {
        column
        for asked in victim.asked
        for column, old, new in zip(PAIR, fields, asked, strict=True)
        if old != new
    }
    assert seen == changed


def test_an_adversarial_pair_comes_back_as_fields(build: Build, bag_of_words: Any) -> None:
    fields = ("two people walk .", "a good , charming walk")
    attempt = build("deepwordbug", PAIR).perturb(bag_of_words(PAIR), fields, 1, seed=0)
    assert attempt.adversarial is not None
    assert attempt.adversarial[0] == fields[0]
    assert attempt.adversarial[1] != fields[1]


def test_a_protected_column_that_changed_is_an_error_not_a_success(
    build: Build, brittle: Any
) -> None:
    # With Chinese in one column TextAttack splits the other one's words as it counts them not.
    fields = ("naïve café good-looking", "我喜欢这部电影")
    attack = build("deepwordbug", PAIR)
    with pytest.raises(InputError, match="expected the premise unchanged"):
        attack.perturb(brittle(fields, PAIR), fields, 1, seed=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("a", "b"), r"expected 1 texts \(text\), got 2"),
        (("one <SPLIT> two",), "expected texts without '<SPLIT>'"),
    ],
    ids=["columns", "mark"],
)
def test_texts_that_do_not_fit_are_refused(
    fields: tuple[str, ...], message: str, build: Build, bag_of_words: Any
) -> None:
    with pytest.raises(InputError, match=message):
        build("deepwordbug").perturb(bag_of_words(), fields, 1, seed=0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("pwss", "did you mean 'pwws'"),
        ("pwws(max_query=3)", "did you mean 'max_queries'"),
        ("pwws(max_queries=0)", "expected a valid max_queries for pwws, got '0'"),
        ("pwws(modify=hypothesis)", "expected a known modify for pwws"),
        ("deepwordbug(max_edit_distance=far)", "expected a valid max_edit_distance"),
    ],
)
def test_a_wrong_spec_is_one_line(spec: str, message: str, data_dir: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build_attack(spec, ("text",), data_dir)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "canonical"),
    [
        ("pwws", "pwws(max_queries=none, modify=last)"),
        (
            "deepwordbug(all_transformations=False, max_queries=7)",
            "deepwordbug(max_queries=7, modify=last, all_transformations=false, "
            "max_edit_distance=30)",
        ),
    ],
)
def test_the_canonical_spec_builds_the_same_attack(spec: str, canonical: str, build: Build) -> None:
    attack = build(spec)
    assert attack.spec == canonical
    assert build(attack.spec).config == attack.config


def test_a_columns_case_survives_the_spec(build: Build) -> None:
    attack = build("pwws(modify=Premise)", ("Premise", "Hypothesis"))
    assert attack.spec == "pwws(max_queries=none, modify=Premise)"


def test_without_wordnet_pwws_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import nltk

    from attacks.resources import debian_wordnet

    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setattr(debian_wordnet, "FOLDER", tmp_path / "none")
    with pytest.raises(ResourceError, match=r"run: python -m nltk\.downloader .* wordnet"):
        build_attack("pwws", ("text",))


@pytest.mark.parametrize("name", ["deepwordbug", "pruthi", "pwws"])
def test_it_does_as_textattacks_own_recipe(
    name: str, build: Build, bag_of_words: Any, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nltk

    attack = build(name)  # imports TextAttack
    import textattack.attack_recipes as shipped
    from nltk.corpus.reader import WordNetCorpusReader
    from textattack.transformations.word_swaps import word_swap_wordnet

    from attacks.resources.nltk_data import nltk_root

    monkeypatch.setattr(nltk, "download", lambda *_: False)
    root = nltk_root(find_resource("wordnet", data_dir))
    with pytest.warns(UserWarning, match="multilingual"):
        monkeypatch.setattr(word_swap_wordnet, "wordnet", WordNetCorpusReader(root, None))

    recipes = {
        "deepwordbug": shipped.DeepWordBugGao2018,
        "pruthi": shipped.Pruthi2019,
        "pwws": shipped.PWWSRen2019,
    }
    own = recipes[name].build(attack._wrapper)
    # The one intended difference here: which stopwords.
    stop = attack._attack.pre_transformation_constraints[1].stopwords
    own.pre_transformation_constraints[1].stopwords = stop
    for seed, text in enumerate((*POSITIVE, *FLIPPED_BY["pwws"])):
        victim = bag_of_words()
        ours = attack.perturb(victim, (text,), 1, seed)
        attack._wrapper.victim = bag_of_words()
        random.seed(seed)
        np.random.seed(seed)
        theirs = own.attack(text, 1)
        assert ours.queries == theirs.num_queries
        got = ours.adversarial[0] if ours.adversarial else None
        succeeded = type(theirs).__name__ == "SuccessfulAttackResult"
        assert got == (theirs.perturbed_result.attacked_text.text if succeeded else None)


def test_pwws_on_the_real_wordnet(bag_of_words: Any, users_data_dir: str | None) -> None:
    if not is_available("wordnet", users_data_dir):
        pytest.skip("no WordNet: set ROBUST_PREFIX_DATA or install wordnet-base")
    victim = bag_of_words()
    attack = build_attack("pwws", ("text",), users_data_dir)
    attempt = attack.perturb(victim, (POSITIVE[1],), 1, seed=0)
    asked = {word for (text,) in victim.asked for word in text.split()}
    assert {"histrion", "outstanding", "travel"} <= asked
    assert attempt.adversarial is not None
    assert victim.predict(attempt.adversarial) == 0
