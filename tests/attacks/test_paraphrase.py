"""Texts said in other words: the model that is asked, and the attack that shows the answers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from attacks import build_attack
from attacks.base import Recipe
from attacks.paraphraser import Paraphraser
from robust_prefix.backbones import CausalBackbone
from robust_prefix.errors import InputError, ResourceError

PAIR = ("premise", "hypothesis")
TEXT = "a good , charming journey"
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def chatty(backbone: CausalBackbone) -> CausalBackbone:
    """The tiny model with a template for chats and room for one."""
    tokenizer = copy.deepcopy(backbone.tokenizer)
    tokenizer.chat_template = TEMPLATE
    model = copy.deepcopy(backbone.model)
    model.config.max_position_embeddings = 1500
    return CausalBackbone(model, tokenizer, "chatty")


@pytest.fixture(scope="module")
def paraphraser(chatty: CausalBackbone) -> Paraphraser:
    return Paraphraser(chatty)


def test_the_seed_decides_and_the_global_state_does_not(paraphraser: Paraphraser) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    drawn = paraphraser.sample("the film is good", 6, seed=2**62)
    assert torch.equal(torch.get_rng_state(), state)
    paraphraser.sample("the plot is bad", 3, seed=1)
    torch.manual_seed(6)
    assert paraphraser.sample("the film is good", 6, seed=2**62) == drawn
    assert paraphraser.sample("the film is good", 6, seed=1) != drawn
    assert len(drawn) == 6
    assert len(set(drawn)) > 1


def test_sharing_the_prompt_changes_no_answer(chatty: CausalBackbone) -> None:
    text = "the film is warm"
    paraphraser = Paraphraser(chatty)
    [shared] = paraphraser.sample(text, 9, seed=0, temperature=0)
    prompt = paraphraser._prompt(text)
    plain = chatty.model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=len(chatty.tokenizer(text).input_ids) * 5 // 4 + 8,
        eos_token_id=paraphraser._stops,
        pad_token_id=paraphraser._stops[0],
    )
    answer = chatty.tokenizer.decode(plain[0, prompt.shape[1] :], skip_special_tokens=True)
    assert shared == " ".join(answer.split())
    assert shared


def test_the_prompt_ends_with_the_text_and_the_answers_turn(
    paraphraser: Paraphraser, chatty: CausalBackbone
) -> None:
    written = chatty.tokenizer.decode(paraphraser._prompt("the film is good")[0])
    assert written.endswith("Paraphrase this: the film is good<|end|>\nassistant: ")
    assert paraphraser._stops == [chatty.tokenizer.eos_token_id]


def test_an_answer_is_not_much_longer_than_the_text(
    paraphraser: Paraphraser, chatty: CausalBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    generate = chatty.model.generate

    def recorded(prompts: torch.Tensor, **settings: Any) -> torch.Tensor:
        answers = generate(prompts, **settings)
        made.append(answers.shape[1] - prompts.shape[1])
        return answers

    monkeypatch.setattr(chatty.model, "generate", recorded)
    texts = ("film", "the film is good and the plot is bad " * 4)
    for text in texts:
        paraphraser.sample(text, 16, seed=0)
    lengths = [len(chatty.tokenizer(text).input_ids) for text in texts]
    assert made == [length * 5 // 4 + 8 for length in lengths]


def test_a_text_too_long_gets_no_answer(paraphraser: Paraphraser) -> None:
    assert paraphraser.sample("film " * 2000, 4, seed=0) == []


def test_a_model_without_a_chat_template_is_refused(backbone: CausalBackbone) -> None:
    with pytest.raises(ResourceError, match="expected a model with a chat template, got 'tiny-ll"):
        Paraphraser(backbone)


class Answers:
    """Stands for the paraphraser: what it answers, by text."""

    def __init__(self, **answers: Sequence[str]) -> None:
        self.answers = answers
        self.asked: list[tuple[Any, ...]] = []

    def sample(
        self, text: str, count: int, seed: int, temperature: float, top_p: float
    ) -> list[str]:
        self.asked.append((text, count, seed, temperature, top_p))
        return list(self.answers.get(text.split()[0], ()))


class Similarities:
    """Stands for the encoder: the cosine of each text to the original, 0.9 where none is given."""

    def __init__(self, **cosines: float) -> None:
        self.cosines = cosines

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        given = [1.0, *(self.cosines.get(text.split()[0].lower(), 0.9) for text in texts[1:])]
        cosine = torch.tensor(given)
        return torch.stack([cosine, (1 - cosine**2).sqrt()], dim=1)


@pytest.fixture
def build(language_model_package: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``build_attack`` with stand-ins for the two models."""
    monkeypatch.syspath_prepend(language_model_package)

    def built(
        answers: Answers, similarities: Similarities, settings: str = "", columns: Any = ("text",)
    ) -> Recipe:
        where = "attacks.recipes.paraphrase"
        monkeypatch.setattr(f"{where}.load_paraphraser", lambda _: answers)
        monkeypatch.setattr(f"{where}.load_encoder", lambda _: similarities)
        attack = build_attack(f"paraphrase({settings})", columns)
        assert isinstance(attack, Recipe)
        return attack

    return built


def test_the_most_similar_of_those_misclassified_is_found(build: Any, bag_of_words: Any) -> None:
    victim = bag_of_words()
    answers = Answers(
        a=["far dull trip today", "near dull trip today", "best good trip today", "out dull a trip"]
    )
    attack = build(answers, Similarities(far=0.81, near=0.95, best=0.99, out=0.79))
    attempt = attack.perturb(victim, (TEXT,), 1, seed=4)
    assert attempt.adversarial == ("near dull trip today",)
    assert [t.split()[0] for (t,) in victim.asked] == ["a", "best", "near", "far"]
    assert attempt.queries == 4
    [(text, count, _, temperature, top_p)] = answers.asked
    assert (text, count, temperature, top_p) == (TEXT, 16, 0.7, 1.0)


def test_what_is_no_paraphrase_is_not_asked_about(build: Any, bag_of_words: Any) -> None:
    victim = bag_of_words()
    answers = Answers(
        a=[
            "",
            "A  Good , charming JOURNEY",
            "...",
            "one",
            " ".join(["many"] * 9),
            "Lovely good trips",
            "lovely  good trips",
        ]
    )
    attempt = build(answers, Similarities()).perturb(victim, (TEXT,), 1, seed=0)
    assert victim.asked == [(TEXT,), ("Lovely good trips",)]
    assert (attempt.adversarial, attempt.queries) == (None, 2)


@pytest.mark.parametrize(
    ("text", "answer", "kept"),
    [
        ("a film you will like", "a movie you will not like", False),
        ("a film you will like", "a movie you wont like", False),
        ("it is n't funny", "it isn\u2019t amusing", True),
        ("it is n't funny", "it isnt amusing", True),
        ("it is not funny", "it never amuses", True),
        ("it is not funny", "it wo n't amuse", True),
        ("it is not funny", "it is amusing", False),
        ("it is not funny", "no one is not amused", False),
        ("a knot of notes", "notes in a knot", True),
    ],
)
def test_a_paraphrase_has_as_many_negations(
    text: str, answer: str, kept: bool, build: Any, brittle: Any
) -> None:
    victim = brittle((text,))
    attack = build(Answers(**{text.split()[0]: [answer]}), Similarities())
    attack.perturb(victim, (text,), 1, seed=0)
    assert victim.asked == [(text,), (answer,)][: 1 + kept]


@pytest.mark.parametrize(("limit", "found"), [(1, False), (2, False), (3, True), (9, True)])
def test_the_budget_holds(limit: int, found: bool, build: Any, bag_of_words: Any) -> None:
    victim = bag_of_words()
    answers = Answers(a=["best good trip today", "near dull trip today", "far good trip today"])
    similarities = Similarities(best=0.99, near=0.95, far=0.9)
    attack = build(answers, similarities, f"max_queries={limit}")
    attempt = attack.perturb(victim, (TEXT,), 1, seed=0)
    assert attempt.queries == len(victim.asked) == min(limit, 4)
    assert (attempt.adversarial is not None) == found
    assert bool(answers.asked) == (limit > 1)  # nothing is drawn that cannot be asked about


@pytest.mark.parametrize(
    ("modify", "asked"),
    [("last", ["sad"]), ("premise", ["glad"]), ("all", ["glad", "sad"])],
)
def test_of_a_pair_one_column_at_a_time_is_rewritten(
    modify: str, asked: list[str], build: Any, brittle: Any
) -> None:
    fields = ("glad people walk", "sad people walk")
    victim = brittle(fields, PAIR)
    answers = Answers(glad=["happy folk stroll"], sad=["unhappy folk stroll"])
    attack = build(answers, Similarities(), f"modify={modify}", PAIR)
    attempt = attack.perturb(victim, fields, 1, seed=0)
    assert [text.split()[0] for text, *_ in answers.asked] == asked
    assert len({seed for _, _, seed, *_ in answers.asked}) == len(asked)
    assert attempt.adversarial is not None
    for seen in victim.asked[1:]:
        assert sum(a != b for a, b in zip(fields, seen, strict=True)) == 1
    with pytest.raises(InputError, match="expected 2 texts"):
        attack.perturb(victim, ("one",), 1, seed=0)


@pytest.mark.parametrize("text", ["", " \n ", "...", "10/10", "\U0001f600"])
def test_without_words_there_is_nothing_to_say(text: str, build: Any, brittle: Any) -> None:
    answers = Answers()
    attempt = build(answers, Similarities()).perturb(brittle((text,)), (text,), 1, seed=0)
    assert (attempt.adversarial, attempt.queries) == (None, 1)
    assert answers.asked == []


def test_a_wrong_original_costs_one_query(build: Any, bag_of_words: Any) -> None:
    answers = Answers(a=["lovely"])
    attempt = build(answers, Similarities()).perturb(bag_of_words(), ("a dull one",), 1, seed=0)
    assert (attempt.adversarial, attempt.queries) == (None, 1)
    assert answers.asked == []


def test_on_the_tiny_model_an_attack_is_the_same_twice(
    chatty: CausalBackbone,
    language_model_package: Path,
    encoder: Path,
    monkeypatch: pytest.MonkeyPatch,
    brittle: Any,
) -> None:
    monkeypatch.syspath_prepend(language_model_package)
    monkeypatch.setattr(
        "attacks.recipes.paraphrase.load_paraphraser", lambda _: Paraphraser(chatty)
    )
    text = "the film is warm and bright"
    attack = build_attack("paraphrase(min_similarity=-1)", ("text",))
    first = attack.perturb(brittle((text,)), (text,), 1, seed=3)
    attack.perturb(brittle(("the plot is bad",)), ("the plot is bad",), 1, seed=8)
    assert attack.perturb(brittle((text,)), (text,), 1, seed=3) == first
    assert first.adversarial is not None
    assert attack.perturb(brittle((text,)), (text,), 1, seed=4) != first
    assert set(attack.resources) == {"language-model", "sentence-encoder"}
    assert attack.threat.knowledge == "label"
