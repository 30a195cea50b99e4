"""Defences that cheat or stumble, each in one way, on a real classifier; and honest odd ones."""

from __future__ import annotations

import difflib
import hashlib
import random
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from robust_prefix.defenses import Defense
from robust_prefix.defenses.base import NoSettings
from robust_prefix.evaluation import Example
from robust_prefix.prefixes import Inputs, PrefixModel
from robust_prefix.tasks import Fields

Change = Callable[[PrefixModel, Inputs], Tensor]


class Planted(Defense[NoSettings]):
    """A defence made of a function that gives the scores of a batch."""

    name = "planted"
    summary = "scores by a function"

    def __init__(self, change: Change, name: str = "planted", batch_dependent: bool = False):
        super().__init__()
        self.change = change
        self.__dict__["name"] = name
        self._batch_dependent = batch_dependent

    @property
    def batch_dependent(self) -> bool:
        return self._batch_dependent

    @property
    def spec(self) -> str:
        return str(self.__dict__["name"])

    def run(self, model: PrefixModel, inputs: Inputs) -> Tensor:
        return self.change(model, inputs)


Find = Callable[[str], int | None]


def exact(memory: dict[str, int]) -> Find:
    return memory.get


def plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def normalized(memory: dict[str, int]) -> Find:
    known = {plain(text): label for text, label in memory.items()}
    return lambda text: known.get(plain(text))


def nearest(memory: dict[str, int], alike: Callable[[str, str], float], least: float) -> Find:
    """The label of the known text most alike, if it is at least so much alike."""

    def find(text: str) -> int | None:
        best, label = max((alike(text, known), label) for known, label in memory.items())
        return label if best >= least else None

    return find


def by_words(memory: dict[str, int], least: float) -> Find:
    def overlap(first: str, second: str) -> float:
        one, two = set(plain(first).split()), set(plain(second).split())
        return len(one & two) / len(one | two)

    return nearest(memory, overlap, least)


def by_letters(memory: dict[str, int], least: float) -> Find:
    def ratio(first: str, second: str) -> float:
        return difflib.SequenceMatcher(None, first, second, autojunk=False).quick_ratio()

    return nearest(memory, ratio, least)


def memory_of(examples: Sequence[Example]) -> dict[str, int]:
    return {example.fields[-1]: example.label for example in examples}


def lookup(find: Find, constant: bool = False, name: str = "lookup") -> Planted:
    """Known texts get their label, others what the model says, or always the first class.

    The scores of known texts vary like a model's, so that nothing is told by their sameness.
    """

    def change(model: PrefixModel, inputs: Inputs) -> Tensor:
        scores = model.logits(inputs)
        if constant:
            scores = torch.tensor([[1.0, -1.0]]).expand(len(inputs), 2).clone()
        for row, text in enumerate(inputs.texts):
            label = find(text[-1])
            if label is not None:
                scores[row] = -1.0 - zlib.crc32(text[-1].encode()) % 997 / 997
                scores[row, label] *= -1
        return scores

    return Planted(change, name)


def on_logits(change: Callable[[Tensor], Tensor], name: str = "planted", **more: Any) -> Planted:
    return Planted(lambda model, inputs: change(model.logits(inputs)), name, **more)


def noise(scale: float = 0.3) -> Planted:
    """Other noise at each call: the classifier's scores are not to be had twice."""
    return on_logits(lambda scores: scores + scale * torch.randn_like(scores), "noise")


def neighbours() -> Planted:
    """Scores relative to the mean of the batch."""
    return on_logits(
        lambda scores: scores - scores.mean(0) if len(scores) > 1 else scores,
        "neighbours",
        batch_dependent=True,
    )


def worn_out() -> Planted:
    """Each call weakens the next ones."""
    calls = [0]

    def change(scores: Tensor) -> Tensor:
        calls[0] += 1
        return scores * 0.99 ** calls[0]

    return on_logits(change, "worn-out")


def secretly_tuned() -> Planted:
    """One gradient step on the embeddings that nobody is told of."""

    def change(model: PrefixModel, inputs: Inputs) -> Tensor:
        import dataclasses

        with torch.enable_grad():
            embedded = inputs.embedded.detach().requires_grad_()
            scores = model.logits(dataclasses.replace(inputs, embedded=embedded))
            (slope,) = torch.autograd.grad(scores.square().sum(), embedded)
        return model.logits(dataclasses.replace(inputs, embedded=embedded.detach() - 0.01 * slope))

    return Planted(change, "secretly-tuned")


def on_texts(change: Callable[[str], str], name: str) -> Planted:
    """The model's answer to another text."""

    def scores(model: PrefixModel, inputs: Inputs) -> Tensor:
        changed: list[Fields] = [tuple(map(change, text)) for text in inputs.texts]
        return model.logits(model.pad(model.prompter.encode(changed)))

    return Planted(scores, name)


def masked_vote(copies: int = 3, hard: bool = False) -> Planted:
    """The mean over copies with words left out, drawn from a hash of the text."""

    def votes(model: PrefixModel, inputs: Inputs) -> Tensor:
        rounds = []
        for number in range(copies):
            masked = [tuple(_masked(column, number) for column in text) for text in inputs.texts]
            scores = model.logits(model.pad(model.prompter.encode(masked)))
            rounds.append(
                (scores == scores.max(1, keepdim=True).values).float() if hard else scores
            )
        return torch.stack(rounds).mean(0)

    return Planted(votes, "masked-vote")


def _masked(text: str, number: int) -> str:
    rng = random.Random(hashlib.sha256(f"{number} {text}".encode()).digest())
    kept = [word for word in text.split() if rng.random() > 0.2]
    return " ".join(kept) or text
