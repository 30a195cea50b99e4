"""Attacks that meet with accidents."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robust_prefix.errors import ConfigError, ResourceError, unknown_name
from robust_prefix.evaluation.protocols import Attempt, Example, Goal, ThreatModel, Victim
from robust_prefix.evaluation.workbench import Workbench
from robust_prefix.tasks import Fields

from ..processes import Death

WORDS = ("good", "bad", "fine", "dull", "warm", "cold", "film", "plot")


@dataclass
class Accidents:
    """What is out there; the tests change it.

    Attributes:
        folder: where ``Fragile`` remembers what it has died of; None keeps it well.
        words: whether the word list is there.
    """

    folder: Path | None = None
    words: bool = False


ACCIDENTS = Accidents()


class Swap:
    """Puts words of the list in random places until the victim errs, at most ten times."""

    goal: Goal = "misclassify"
    deviation = ""
    resources: dict[str, str] = {}  # noqa: RUF012
    threat = ThreatModel("score", ("text",), "any word", 10)

    def __init__(self, name: str) -> None:
        self.name = name
        self.spec = f"{name}(words=8)"

    def perturb(self, victim: Victim, fields: Fields, label: int, seed: int) -> Attempt:
        rng = np.random.default_rng(seed)
        words = fields[0].split()
        for query in range(1, 11):
            words[rng.integers(len(words))] = str(rng.choice(WORDS))
            if victim.logits([(" ".join(words),)])[0].argmax() != label:
                return Attempt((" ".join(words),), query)
        return Attempt(None, 10)


class Fragile(Swap):
    """Loses its process at the first try of each text, if there is a folder to remember it."""

    def perturb(self, victim: Victim, fields: Fields, label: int, seed: int) -> Attempt:
        folder = ACCIDENTS.folder
        if folder is not None and not (folder / f"{seed}").exists():
            (folder / f"{seed}").touch()
            raise Death("it was ended by SIGKILL, as when memory is short")
        return super().perturb(victim, fields, label, seed)


class Deadly(Swap):
    """Loses its process at every try of a text about the cast."""

    def perturb(self, victim: Victim, fields: Fields, label: int, seed: int) -> Attempt:
        if "cast" in fields[0].split():
            raise Death("it was ended by SIGSEGV")
        return super().perturb(victim, fields, label, seed)


class Choosy(Swap):
    """Can do nothing with any defence."""

    def perturb(self, victim: Victim, fields: Fields, label: int, seed: int) -> Attempt:
        if victim._classifier.defense.name != "none":  # type: ignore[attr-defined]
            raise ConfigError("expected no defence, got one")
        return super().perturb(victim, fields, label, seed)


class Hungry(Swap):
    """Misses its word list in the middle of the work."""

    def perturb(self, victim: Victim, fields: Fields, label: int, seed: int) -> Attempt:
        if "cast" in fields[0].split() and not ACCIDENTS.words:
            raise ResourceError("expected a word list, got none; run: touch words")
        return super().perturb(victim, fields, label, seed)


class Universal(Swap):
    """Finds one word for all texts."""

    def fit(self, victim: Victim, examples: Sequence[Example], seed: int) -> str:
        def right(word: str) -> int:
            texts = [(f"{word} {example.fields[0]}",) for example in examples[:8]]
            labels = [example.label for example in examples[:8]]
            return int((victim.logits(texts).argmax(1) == labels).sum())

        return json.dumps(min(WORDS, key=right))

    def fitted(self, state: str) -> Fitted:
        return Fitted(self.name, json.loads(state))


class Fitted(Swap):
    """Puts the word before the text."""

    def __init__(self, name: str, word: str) -> None:
        super().__init__(name)
        self.word = word

    def perturb(self, victim: Victim, fields: Fields, label: int, seed: int) -> Attempt:
        return Attempt((f"{self.word} {fields[0]}",), 1)


ATTACKS: dict[str, type[Swap]] = {
    "swap": Swap,
    "fragile": Fragile,
    "deadly": Deadly,
    "choosy": Choosy,
    "hungry": Hungry,
    "universal": Universal,
    "absent": Swap,
}


def build_attack(spec: str, columns: tuple[str, ...], data_dir: object = None) -> Swap:
    if spec == "absent" and not ACCIDENTS.words:
        raise ResourceError("expected a dictionary, got none; run: touch words")
    return ATTACKS[spec](spec)


def canonical(spec: str) -> str:
    if spec not in ATTACKS:
        raise unknown_name("attack", spec, ATTACKS)
    return f"{spec}(words=8)"


def make_workbench(data_dir: Path) -> Workbench:
    return Workbench(build_attack, "cpu", "float32", data_dir)
