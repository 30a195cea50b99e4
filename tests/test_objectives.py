"""Adversaries in training: what they make is harder, inside its limits, and reaches the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from robust_prefix.backbones import CausalBackbone, TokenBatch
from robust_prefix.configs import PrefixTuningConfig, TrainingConfig
from robust_prefix.errors import ArtifactError, ConfigError
from robust_prefix.objectives import (
    Adversary,
    Minibatch,
    PrefixObjective,
    build_adversary,
    triggers,
)
from robust_prefix.objectives.triggers import TriggerAdversary
from robust_prefix.objectives.typos import BESIDE, typos
from robust_prefix.prefixes import Prefix
from robust_prefix.prefixes.model import Prompter
from robust_prefix.prefixes.prefix_tuning import DirectPrefix
from robust_prefix.tasks import Fields, Task
from robust_prefix.training import train_prefix

TEXTS: list[Fields] = [
    ("the film is good and warm",),
    ("the plot is dull and cold but the cast is fine",),
    ("a story",),
]
LABELS = torch.tensor([1, 0, 1])
SYNONYMS = {
    "good": ("fine", "great"),
    "warm": ("bright",),
    "dull": ("flat", "weak"),
    "plot": ("story",),
}


def substitutes(word: str) -> Sequence[str]:
    """A word list of four words."""
    return SYNONYMS.get(word, ())


class _Spy(Adversary[Any]):
    """Keeps what another adversary was given and made."""

    name = "spy"

    def __init__(self, inner: Adversary[Any]) -> None:
        self.inner = inner
        self.seen: list[tuple[Minibatch, list[Any]]] = []

    def perturb(self, minibatch: Minibatch, seed: int) -> list[Any]:
        made = self.inner.perturb(minibatch, seed)
        self.seen.append((minibatch, made))
        return made


def objective_for(
    backbone: CausalBackbone,
    task: Task,
    prefix: Prefix,
    spec: str,
    weight: float = 0.5,
    texts: Sequence[Fields] = TEXTS,
) -> tuple[PrefixObjective, _Spy]:
    prompter = Prompter(backbone, task)
    adversary = build_adversary(spec, prompter, substitutes)
    assert adversary is not None
    spy = _Spy(adversary)
    return PrefixObjective(prompter, DirectPrefix(prefix.tensor), spy, texts, weight), spy


def run(
    objective: PrefixObjective,
    backbone: CausalBackbone,
    task: Task,
    texts: Sequence[Fields] = TEXTS,
) -> dict[str, Tensor]:
    batch = backbone.pad(Prompter(backbone, task).encode(texts).rows)
    result: dict[str, Tensor] = objective(
        batch.ids, batch.answer, LABELS[: len(texts)], torch.arange(len(texts))
    )
    return result


SPECS = [
    "pgd(steps=4)",
    "freelb(steps=3)",
    "pgd(ball=sentence)",
    "substitution(edits=typos, variants=8)",
    "masking(copies=2, low=0.8)",
]


@pytest.mark.parametrize("spec", SPECS)
def test_the_perturbation_reaches_the_model(
    backbone: CausalBackbone, task: Task, prefix: Prefix, spec: str
) -> None:
    """The published code assigns it to a local variable; here loss and gradient are other ones."""
    objective, spy = objective_for(backbone, task, prefix, spec, weight=1.0)
    objective.train()
    loss = run(objective, backbone, task)["loss"]
    loss.backward()
    [(minibatch, made)] = spy.seen
    with torch.no_grad():
        clean = minibatch.losses(minibatch.prompts).mean()
        harder = torch.stack([minibatch.losses(prompts).mean() for prompts in made]).mean()
    assert harder > clean + 1e-3
    standard = PrefixObjective(Prompter(backbone, task), DirectPrefix(prefix.tensor))
    run(standard.train(), backbone, task)["loss"].backward()
    adversarial, plain = objective.prefix.tensor.grad, standard.prefix.tensor.grad
    assert (adversarial - plain).norm() > 0.01 * plain.norm()


def test_the_loss_mixes_clean_and_perturbed(
    backbone: CausalBackbone, task: Task, prefix: Prefix
) -> None:
    losses = {}
    for weight in (0.0, 0.25, 1.0):
        objective, _ = objective_for(backbone, task, prefix, "pgd", weight)
        losses[weight] = run(objective.train(), backbone, task)["loss"].item()
    assert losses[0.25] == pytest.approx(0.75 * losses[0.0] + 0.25 * losses[1.0], rel=1e-5)


def test_evaluation_is_on_clean_text(backbone: CausalBackbone, task: Task, prefix: Prefix) -> None:
    objective, spy = objective_for(backbone, task, prefix, "freelb")
    standard = PrefixObjective(Prompter(backbone, task), DirectPrefix(prefix.tensor))
    found = run(objective.eval(), backbone, task)
    assert torch.equal(found["loss"], run(standard.eval(), backbone, task)["loss"])
    assert not spy.seen


@pytest.mark.parametrize("method", ["pgd", "freelb"])
@pytest.mark.parametrize("ball", ["word", "sentence"])
def test_a_perturbation_stays_in_its_ball(
    backbone: CausalBackbone, task: Task, prefix: Prefix, method: str, ball: str
) -> None:
    radius = 0.2
    spec = f"{method}(ball={ball}, radius={radius}, steps=5, step_size=0.9)"
    objective, spy = objective_for(backbone, task, prefix, spec)
    run(objective.train(), backbone, task)
    [(minibatch, made)] = spy.seen
    assert len(made) == (5 if method == "freelb" else 1)
    clean = minibatch.prompts.embedded
    padding = torch.arange(clean.shape[1]) > minibatch.prompts.batch.answer[:, None]
    for prompts in made:
        delta = prompts.embedded - clean
        assert delta[padding].abs().max() == 0
        if ball == "word":
            share = delta.norm(dim=-1)[~padding] / clean.norm(dim=-1)[~padding]
        else:
            real = clean * ~padding[..., None]
            share = delta.flatten(1).norm(dim=1) / real.flatten(1).norm(dim=1)
        assert share.max() <= radius * (1 + 1e-4)
        assert share.max() > 0.5 * radius


def test_a_longer_ascent_is_a_harder_one(
    backbone: CausalBackbone, task: Task, prefix: Prefix
) -> None:
    objective, spy = objective_for(backbone, task, prefix, "freelb(steps=6, step_size=0.3)")
    run(objective.train(), backbone, task)
    [(minibatch, made)] = spy.seen
    losses = [float(minibatch.losses(prompts).mean()) for prompts in made]
    assert losses[-1] > losses[0]


def shown_texts(backbone: CausalBackbone, task: Task, batch: TokenBatch) -> list[str]:
    """The texts of padded prompts."""
    prompts = [
        backbone.tokenizer.decode(ids[: answer + 1])
        for ids, answer in zip(batch.ids, batch.answer.tolist(), strict=True)
    ]
    end = task.render(("",)).rstrip()
    return [prompt.removesuffix(end).rstrip() for prompt in prompts]


@pytest.mark.parametrize(("low", "high"), [(0.4, 0.4), (0.3, 0.8), (1.0, 1.0), (0.0, 0.0)])
def test_masking_hides_its_share_of_the_words(
    backbone: CausalBackbone, task: Task, prefix: Prefix, low: float, high: float
) -> None:
    spec = f"masking(low={low}, high={high}, copies=8)"
    objective, spy = objective_for(backbone, task, prefix, spec)
    run(objective.train(), backbone, task)
    run(objective, backbone, task)
    numbers = []
    for _, made in spy.seen:
        assert len(made) == 8
        for prompts in made:
            shown = shown_texts(backbone, task, prompts.batch)
            for [text], found in zip(TEXTS, shown, strict=True):
                pairs = list(zip(text.split(), found.split(), strict=True))
                assert all(after in ("_", before) for before, after in pairs)
                left = sum(after != "_" for _, after in pairs)
                fewest, most = (max(1, round((1 - s) * len(pairs))) for s in (high, low))
                assert fewest <= left <= most
                numbers.append((len(pairs), left))
    assert (len(set(numbers)) > len(TEXTS)) == (low < high)


def test_masking_leaves_words_out_and_keeps_columns(
    backbone: CausalBackbone, task: Task, prefix: Prefix
) -> None:
    objective, spy = objective_for(
        backbone, task, prefix, "masking(stand_in=none, low=0.5, high=0.5)"
    )
    run(objective.train(), backbone, task)
    [(_, [made])] = spy.seen
    for [text], found in zip(TEXTS, shown_texts(backbone, task, made.batch), strict=True):
        left = found.split()
        assert len(left) == max(1, round(0.5 * len(text.split())))
        rest = iter(text.split())
        assert all(word in rest for word in left)  # in their order
    pair = Task(
        name="pairs",
        columns=("premise", "hypothesis"),
        labels=("no", "yes"),
        label_words=(" no", " yes"),
        template="{premise} question {hypothesis} yes or no ?",
    )
    pairs: list[Fields] = [("good warm dull plot", "good warm dull plot")] * 3
    objective, spy = objective_for(
        backbone, pair, prefix, "masking(columns=last, low=1, high=1)", texts=pairs
    )
    run(objective.train(), backbone, pair, pairs)
    for prompt in spy.seen[0][1][0].batch.ids:
        words = backbone.tokenizer.decode(prompt).split()
        assert words[:5] == ["good", "warm", "dull", "plot", "question"]
        assert words[5:9].count("_") == 3


def test_without_a_share_of_clean_text_its_gradient_is_left_out(
    backbone: CausalBackbone, task: Task, prefix: Prefix
) -> None:
    gradients = []
    for weight in (1.0, 1 - 1e-7):
        objective, _ = objective_for(backbone, task, prefix, "masking", weight)
        run(objective.train(), backbone, task)["loss"].backward()
        gradients.append(objective.prefix.tensor.grad)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("rounds", "most"), [(1, 0.4), (3, 0.4), (3, 0.05)])
@pytest.mark.parametrize("edits", ["synonyms", "typos", "both"])
def test_substitution_keeps_to_its_words(
    backbone: CausalBackbone, task: Task, prefix: Prefix, edits: str, rounds: int, most: float
) -> None:
    objective, spy = objective_for(
        backbone, task, prefix, f"substitution(edits={edits}, rounds={rounds}, max_changed={most})"
    )
    run(objective.train(), backbone, task)
    run(objective, backbone, task)
    changed = 0
    for minibatch, [made] in spy.seen:
        batch = made.batch
        for number, [text] in enumerate(TEXTS):
            prompt = backbone.tokenizer.decode(batch.ids[number, : batch.answer[number] + 1])
            found = prompt.removesuffix(task.render(("",)).rstrip()).rstrip()
            before, after = text.split(), found.split()[: len(text.split())]
            pairs = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
            assert len(pairs) <= max(1, math.ceil(most * len(before)))
            changed += len(pairs)
            if edits == "synonyms":
                assert all(b in SYNONYMS[a] for a, b in pairs)
        assert len(minibatch.fields) == len(TEXTS)
    assert changed >= 4


def test_the_worst_of_the_variants_is_taken(
    backbone: CausalBackbone, task: Task, prefix: Prefix
) -> None:
    """More variants of the same draw are never easier on average over many minibatches."""
    means = []
    for variants in (1, 8):
        objective, spy = objective_for(
            backbone, task, prefix, f"substitution(edits=typos, variants={variants}, temperature=9)"
        )
        for _ in range(6):
            run(objective.train(), backbone, task)
        with torch.no_grad():
            means.append(np.mean([float(m.losses(made[0]).mean()) for m, made in spy.seen]))
    assert means[1] > means[0]


def test_only_the_last_column_of_a_pair_changes(backbone: CausalBackbone, prefix: Prefix) -> None:
    task = Task(
        name="pairs",
        columns=("premise", "hypothesis"),
        labels=("no", "yes"),
        label_words=(" no", " yes"),
        template="{premise} question {hypothesis} yes or no ?",
    )
    pairs: list[Fields] = [("good warm dull plot", "good warm dull plot")] * 3
    objective, spy = objective_for(
        backbone, task, prefix, "substitution(max_changed=1)", texts=pairs
    )
    run(objective.train(), backbone, task, pairs)
    for prompt in spy.seen[0][1][0].batch.ids:
        text = backbone.tokenizer.decode(prompt)
        assert text.startswith("good warm dull plot question ")
        assert not text.startswith("good warm dull plot question good warm dull plot")


def test_equal_seeds_make_equal_minibatches(
    backbone: CausalBackbone, task: Task, prefix: Prefix
) -> None:
    for spec in ("substitution(edits=both)", "freelb", "masking"):
        seen = []
        for _ in range(2):
            objective, spy = objective_for(backbone, task, prefix, spec)
            for _ in range(2):
                run(objective.train(), backbone, task)
            seen.append([made[0].embedded for _, made in spy.seen])
        assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
        first, second = seen[0]
        assert first.shape != second.shape or not torch.equal(first, second)


@pytest.mark.parametrize("place", ["start", "end", "either"])
def test_triggers_stand_at_their_place_and_are_one_for_a_class_a_variant(
    backbone: CausalBackbone, task: Task, prefix: Prefix, place: str
) -> None:
    objective, spy = objective_for(
        backbone, task, prefix, f"triggers(length=3, variants=1, temperature=0, place={place})"
    )
    lengths, places = set(), set()
    for _ in range(24):
        run(objective.train(), backbone, task)
    for _, [made] in spy.seen:
        triggers = []
        shown = shown_texts(backbone, task, made.batch)
        before = all(text.endswith(f" {own}") for text, [own] in zip(shown, TEXTS, strict=True))
        places.add("start" if before else "end")
        for text, [own] in zip(shown, TEXTS, strict=True):
            assert before or text.startswith(f"{own} ")
            words = text.removesuffix(own) if before else text.removeprefix(own)
            triggers.append(words.split())
        assert triggers[0] == triggers[2]  # the two of one class
        assert len(triggers[0]) == len(triggers[1]) > 0
        lengths.add(len(triggers[0]))
    assert lengths == {1, 2, 3}
    assert places == ({"start", "end"} if place == "either" else {place})


@pytest.mark.parametrize("place", ["start", "end"])
def test_a_trigger_raises_the_loss_more_than_words_drawn_at_random(
    backbone: CausalBackbone, task: Task, prefix: Prefix, place: str
) -> None:
    means = []
    for temperature in (0, 1e6):
        objective, spy = objective_for(
            backbone,
            task,
            prefix,
            f"triggers(length=4, variants=1, temperature={temperature}, place={place})",
        )
        for _ in range(8):
            run(objective.train(), backbone, task)
        with torch.no_grad():
            means.append(np.mean([float(m.losses(made[0]).mean()) for m, made in spy.seen]))
    assert means[0] > means[1]


@pytest.mark.parametrize("at_end", [False, True])
def test_only_what_the_trigger_changes_ranks_its_words(
    backbone: CausalBackbone, task: Task, at_end: bool
) -> None:
    prompter = Prompter(backbone, task)
    adversary = TriggerAdversary(prompter)
    text, trigger = "thin crisp walnut", ("bad", "good")
    first = len(text) + 1 if at_end else 0
    read = f"{text} bad good" if at_end else f"bad good {text}"
    spans = prompter.spans((read,))
    inside = [span is not None and first < span[2] <= first + len("bad good") for span in spans]
    for chosen in (inside, [not each for each in inside]):
        gradient = torch.zeros(1, len(spans), backbone.hidden_size)
        gradient[0, chosen] = 1
        minibatch: Any = SimpleNamespace(
            fields=[(text,)],
            labels=torch.tensor([0]),
            words=(),
            embed=lambda texts: texts,
            slopes=lambda prompts, gradient=gradient: (gradient, None),
        )
        gains = adversary._gains(minibatch, {0: trigger}, at_end)[0]
        assert bool(gains.any(1).all()) == bool(gains.any()) == (chosen is inside)


@pytest.mark.parametrize(
    ("place", "edges"),
    [
        ("start", {1: {"the", "the plot"}, 0: {"the", "the film", "a", "a story"}}),
        ("end", {1: {"fine", "is fine"}, 0: {"warm", "and warm", "story", "a story"}}),
    ],
)
def test_borrowed_triggers_are_what_texts_of_other_classes_begin_or_end_with(
    backbone: CausalBackbone,
    task: Task,
    prefix: Prefix,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    edges: dict[int, set[str]],
) -> None:
    tried: list[dict[int, tuple[str, ...]]] = []
    put = triggers._put

    def noted(minibatch: Any, chosen: Any, at_end: bool) -> list[Fields]:
        tried.append(chosen)
        return put(minibatch, chosen, at_end)

    monkeypatch.setattr(triggers, "_put", noted)
    spec = f"triggers(length=2, variants=1, borrowed=8, place={place})"
    objective, _ = objective_for(backbone, task, prefix, spec)
    for _ in range(12):
        run(objective.train(), backbone, task)
    rounds = [tried[start : start + 10] for start in range(0, len(tried), 10)]
    assert len(rounds) == 12  # of a random start, one that the gradient chose, and eight borrowed
    for label, own in edges.items():
        found = {" ".join(each[label]) for some in rounds for each in some[2:]}
        assert found == own


def test_where_all_texts_are_of_one_class_nothing_is_borrowed(
    backbone: CausalBackbone, task: Task, prefix: Prefix
) -> None:
    objective, spy = objective_for(backbone, task, prefix, "triggers(borrowed=4)", texts=TEXTS[:1])
    assert torch.isfinite(run(objective.train(), backbone, task, TEXTS[:1])["loss"])
    [(_, [made])] = spy.seen
    [text] = shown_texts(backbone, task, made.batch)
    assert text.endswith(f" {TEXTS[0][0]}")


def test_adversaries_take_turns(backbone: CausalBackbone, task: Task, prefix: Prefix) -> None:
    built = build_adversary("triggers(length=1)+masking", Prompter(backbone, task))
    objective = PrefixObjective(
        Prompter(backbone, task), DirectPrefix(prefix.tensor), built, TEXTS, weight=1.0
    )
    assert built is not None
    seen: list[int] = []
    for number, part in enumerate(built.parts):
        inner = part.perturb

        def perturb(
            minibatch: Minibatch, seed: int, number: int = number, inner: Any = inner
        ) -> Any:
            seen.append(number)
            return inner(minibatch, seed)

        part.perturb = perturb  # type: ignore[method-assign]
    for _ in range(4):
        run(objective.train(), backbone, task)
    assert seen == [0, 1, 0, 1]


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyzABC", max_size=12), st.integers(0, 2**31))
def test_typos_are_near_and_never_the_word(word: str, seed: int) -> None:
    found = typos(word, 6, np.random.default_rng(seed))
    assert len(found) == len(set(found)) <= (6 if len(word) > 2 else 0)
    for typo in found:
        assert typo != word
        assert abs(len(typo) - len(word)) <= 1
        kept = sum(a == b for a, b in zip(typo, word, strict=False))
        kept += sum(a == b for a, b in zip(typo[::-1], word[::-1], strict=False))
        assert kept >= len(word) - 2


def test_keys_are_beside_each_other() -> None:
    assert set(BESIDE["s"]) == set("awedxz")
    assert all(letter in BESIDE[other] for letter, near in BESIDE.items() for other in near)


def test_training_goes_on_from_a_trained_prefix(
    backbone: CausalBackbone, task: Task, prefix: Prefix
) -> None:
    still = TrainingConfig(epochs=1, learning_rate=1e-12, batch_size=16)
    length = PrefixTuningConfig(length=prefix.length)
    found = train_prefix(backbone, task, prefix=length, training=still, start=prefix)
    assert torch.allclose(found.tensor, prefix.tensor, atol=1e-6)
    assert found.config["start"] == prefix.fingerprint
    with pytest.raises(ConfigError, match="expected a prefix of length 7 to start from, got 4"):
        train_prefix(backbone, task, prefix=PrefixTuningConfig(length=7), start=prefix)
    other = Prefix(prefix.tensor, "another", "0" * 16)
    with pytest.raises(ArtifactError, match="another"):
        train_prefix(backbone, task, prefix=length, start=other)


@pytest.mark.parametrize(
    ("spec", "words", "message"),
    [
        pytest.param("frelb", None, "did you mean 'freelb'", id="unknown name"),
        pytest.param("pgd(radios=1)", None, "did you mean 'radius'", id="unknown setting"),
        pytest.param("pgd+frelb", None, "did you mean 'freelb'", id="unknown second name"),
        pytest.param("pgd+none", None, "expected none alone", id="none beside another"),
        pytest.param("triggers(length=0)", None, "expected a valid length", id="no words"),
        pytest.param("pgd(radius=0)", None, "expected a valid radius", id="out of range"),
        pytest.param("substitution", None, "expected word lists", id="no word lists"),
        pytest.param("masking(low=0.9, high=0.1)", None, "low=0.9 is more", id="no share"),
        pytest.param("masking(stand_in=a b)", None, "valid stand_in", id="two words"),
    ],
)
def test_a_bad_adversary_is_one_clear_line(
    backbone: CausalBackbone, task: Task, spec: str, words: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        build_adversary(spec, Prompter(backbone, task), words)
    assert "\n" not in str(raised.value)


def test_no_adversary_is_none(backbone: CausalBackbone, task: Task) -> None:
    assert build_adversary("none", Prompter(backbone, task)) is None


class _Capitals:
    """Reads every word with an "o" in it in capitals."""

    spec = "capitals"

    def read(self, fields: Fields) -> Fields:
        words = (word.upper() if "o" in word else word for word in fields[-1].split(" "))
        return (*fields[:-1], " ".join(words))


@pytest.mark.parametrize("edits", ["substitution(edits=typos, max_changed=1)", "triggers"])
def test_what_adversaries_make_up_is_tried_as_it_is_read(
    backbone: CausalBackbone, task: Task, prefix: Prefix, edits: str
) -> None:
    prompter = Prompter(backbone, task)
    built = build_adversary(edits, prompter, None, _Capitals())
    assert built is not None
    spy = _Spy(built)  # type: ignore[arg-type]
    texts: list[Fields] = [("thin crisp walnut",)] * 3
    objective = PrefixObjective(prompter, DirectPrefix(prefix.tensor), spy, texts, 1.0)
    for _ in range(6):
        run(objective.train(), backbone, task, texts)
    new = [
        word
        for _, [made] in spy.seen
        for text in shown_texts(backbone, task, made.batch)
        for word in text.split()
        if word not in texts[0][0].split()
    ]
    assert len(new) > 6
    assert all(word.isupper() for word in new if "o" in word.lower())
