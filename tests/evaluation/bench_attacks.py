"""Attacks that worker processes of the tests can build: word swaps that meet with accidents.

``BENCH_ACCIDENTS`` names a folder. Where it is set ``fragile`` loses its process once at each text,
which a file there remembers, and ``hungry`` finds its word list once the file ``words`` is there.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from robust_prefix.errors import ConfigError, ResourceError, unknown_name
from robust_prefix.evaluation.protocols import Attempt, Example, Goal, ThreatModel, Victim
from robust_prefix.evaluation.workbench import Workbench
from robust_prefix.tasks import Fields

WORDS = ("good", "bad", "fine", "dull", "warm", "cold", "film", "plot")


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
    """Loses its process at the first try of each text."""

    def perturb(self, victim: Victim, fields: Fields, label: int, seed: int) -> Attempt:
        folder = os.environ.get("BENCH_ACCIDENTS")
        if folder is not None:
            mark = Path(folder) / f"{seed}"
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().perturb(victim, fields, label, seed)


class Deadly(Swap):
    """Loses its process at every try of a text about the plot."""

    def perturb(self, victim: Victim, fields: Fields, label: int, seed: int) -> Attempt:
        if "plot" in fields[0].split():
            os.kill(os.getpid(), signal.SIGSEGV)
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
        if "plot" in fields[0].split() and not _words().exists():
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
    if spec == "absent" and not _words().exists():
        raise ResourceError("expected a dictionary, got none; run: touch words")
    return ATTACKS[spec](spec)


def canonical(spec: str) -> str:
    if spec not in ATTACKS:
        raise unknown_name("attack", spec, ATTACKS)
    return f"{spec}(words=8)"


def make_workbench(data_dir: Path) -> Workbench:
    return Workbench(build_attack, "cpu", "float32", data_dir)


def _words() -> Path:
    return Path(os.environ.get("BENCH_ACCIDENTS", "/nowhere")) / "words"
