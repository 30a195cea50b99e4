"""(b) Queries a second: an attack's own candidates, asked of TextAttack's wrapper and of ours.

The attack is run once, against our undefended classifier, and every list of texts that it asks
about is kept. The lists are then replayed, in order and whole, to each contestant: to TextAttack's
wrapper in pieces of 32, as TextAttack's goal functions cut them unless told otherwise, to ours as
our attacks hand them over, a step's candidates at once. Nothing but the answering is timed: search
and word lists are the same whoever answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from attacks import build_attack, list_attacks
from attacks.textattack_import import import_textattack
from robust_prefix.classifier import PrefixClassifier
from robust_prefix.tasks import Fields
from timing.defended import EXAMPLE, GATED, PLAIN
from timing.interleave import clock_for, timed
from timing.material import Material
from timing.peft_baselines import classifier_of, longest_wrapper, shipped_wrapper
from timing.results import Plan, Row, contests

PART = "queries"
SHIPPED = "TextAttack's wrapper as it ships"
LONGEST = "TextAttack's wrapper, padded to the longest"
THEIR_BATCH = 32  # model_batch_size of textattack.goal_functions.GoalFunction
OUR_BATCH = 32  # batch_size of PrefixClassifier.logits

Calls = list[list[Fields]]
"""The texts of each call that an attack made, in order."""

Answer = Callable[[list[Fields]], Tensor]
Start = Callable[[], AbstractContextManager[Answer]]
"""Scores ``(texts, classes)`` of the texts of a call."""


class RecordingVictim:
    """A victim that keeps what it is asked.

    Attributes:
        calls: so far.
    """

    def __init__(self, classifier: PrefixClassifier) -> None:
        self.classifier = classifier
        self.calls: Calls = []

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names."""
        return self.classifier.task.labels

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the text columns."""
        return self.classifier.task.columns

    def logits(self, texts: Sequence[Fields]) -> np.ndarray:
        """Scores, float32 ``(len(texts), classes)``."""
        self.calls.append(list(texts))
        scores: np.ndarray = self.classifier.logits(texts).numpy()
        return scores


def choose_attack(data_dir: Path | None) -> str:
    """PWWS where WordNet is to be had, else an attack that needs no word list."""
    runnable = {info.name for info in list_attacks(data_dir) if info.runnable}
    return "pwws" if "pwws" in runnable else "deepwordbug"


def record(
    classifier: PrefixClassifier,
    material: Material,
    attack: str,
    data_dir: Path | None,
    seed: int,
    sentences: int,
    most: int | None = None,
) -> list[Calls]:
    """What an attack on each of the first ``sentences`` texts asks.

    Texts that are misclassified as they are take no candidates and are passed over.

    Args:
        most: keep only the first calls of a text, up to that many queries; None keeps all.
    """
    plain = classifier.with_defense(classifier.build_defense(PLAIN))
    built = build_attack(attack, plain.task.columns, data_dir)
    found: list[Calls] = []
    for text, label in zip(material.texts, material.labels, strict=True):
        victim = RecordingVictim(plain)
        built.perturb(victim, text, label, seed)
        if len(victim.calls) > 1:
            found.append(_first(victim.calls, most))
        if len(found) == sentences:
            break
    return found


def _first(calls: Calls, most: int | None) -> Calls:
    if most is None:
        return calls
    kept: Calls = []
    for call in calls:
        room = most - sum(map(len, kept))
        if room > 0:
            kept.append(call[:room])
    return kept


def measure(
    classifier: PrefixClassifier,
    recorded: Sequence[Calls],
    plan: Plan,
    data_dir: Path | None,
) -> list[Row]:
    """Replay what was recorded, one text's calls a round.

    Args:
        plan: with a round for each text, and no others: a text's candidates are asked about once.
    """
    import_textattack(data_dir)
    clock = clock_for(classifier.model.backbone.device)
    entrants = contestants(classifier)
    items = [sum(map(len, calls)) for calls in recorded]
    for start in entrants.values():
        with start() as answer:
            answer([("warm up",) * len(classifier.task.columns)])
    with contests(PART, 1, len(entrants), plan) as run:
        entered = {name: timed(_replay(start, recorded), clock) for name, start in entrants.items()}
        return run({}, entered, PLAIN, items)


def contestants(classifier: PrefixClassifier) -> dict[str, Start]:
    """Who answers the queries about one text, inside its context; the first two are theirs.

    TextAttack must be importable.
    """
    victim = classifier_of(classifier.model)
    entrants = {
        SHIPPED: _in_pieces(classifier, shipped_wrapper(classifier.model, victim)),
        LONGEST: _in_pieces(classifier, longest_wrapper(classifier.model, victim)),
    }
    for spec in (PLAIN, GATED, EXAMPLE):
        entrants[spec] = _ours(classifier.with_defense(classifier.build_defense(spec)))
    return entrants


def _replay(start: Start, recorded: Sequence[Calls]) -> Callable[[int], None]:
    def play(number: int) -> None:
        with start() as answer:
            for call in recorded[number]:
                answer(call)

    return play


def _ours(classifier: PrefixClassifier) -> Start:
    @contextmanager
    def start() -> Iterator[Answer]:
        with classifier.remembering():  # as during an attack on one example
            yield lambda texts: classifier.logits(texts, batch_size=OUR_BATCH)

    return start


def _in_pieces(classifier: PrefixClassifier, wrapper: Callable[[list[str]], Tensor]) -> Start:
    def answer(texts: list[Fields]) -> Tensor:
        prompts = [classifier.task.render(text) for text in texts]
        starts = range(0, len(prompts), THEIR_BATCH)
        return torch.cat([wrapper(prompts[at : at + THEIR_BATCH]).cpu() for at in starts])

    return lambda: nullcontext(answer)
