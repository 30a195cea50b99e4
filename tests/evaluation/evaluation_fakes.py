"""Small stand-ins that satisfy the evaluation's protocols: a lexicon classifier and a word swap.

Both work on real sentences, so that outcomes can be worked out by reading them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from robust_prefix.evaluation import Attempt, Example, Manifest, Record, RecordStore, System, Victim
from robust_prefix.evaluation.protocols import Goal, ThreatModel
from robust_prefix.tasks import Fields

LABELS = ("negative", "positive")
SCORES = {
    "gorgeous": 2,
    "witty": 2,
    "fine": 1,
    "warm": 1,
    "dull": -2,
    "clumsy": -2,
    "tired": -1,
    "flat": -1,
}
SYNONYMS = {
    "gorgeous": ["lovely", "dull"],
    "witty": ["clever"],
    "fine": ["okay"],
    "warm": ["tepid"],
    "dull": ["slow"],
    "clumsy": ["awkward"],
    "tired": ["worn"],
}
SENTENCES = (
    ("a gorgeous , witty film", 1),  # +4: two swaps needed
    ("a fine and warm tale", 1),  # +2
    ("dull , clumsy and tired", 0),  # -5
    ("flat and flat again", 0),  # -2, no synonym: the attack finds nothing
    ("a witty but dull and flat piece", 1),  # -1: wrong before any attack
    ("it is witty", 1),  # +2
)
EXAMPLES = [Example(10 + i, (text,), label) for i, (text, label) in enumerate(SENTENCES)]


@dataclasses.dataclass(frozen=True)
class FakeTask:
    name: str = "reviews"
    columns: tuple[str, ...] = ("text",)
    labels: tuple[str, ...] = LABELS


class FakePasses:
    def __init__(self) -> None:
        self.forward = 0.0
        self.backward = 0.0

    def reset(self) -> None:
        self.forward = self.backward = 0.0


class FakeDefense:
    def __init__(self, spec: str, dynamic: bool = False) -> None:
        self.spec = spec
        self.dynamic = dynamic
        self.cost = FakePasses()


class LexiconClassifier:
    """Sums word scores, to which a defence may add words it knows besides.

    A sum of nothing counts as positive for the defended and negative for the undefended, so that
    one text without any known word tells them apart.
    """

    def __init__(
        self,
        spec: str = "none",
        extra: dict[str, int] | None = None,
        dynamic: bool = False,
        task: FakeTask | None = None,
    ) -> None:
        self.task = task or FakeTask()
        self.defense = FakeDefense(spec, dynamic)
        self.scores = SCORES | (extra or {})

    def logits(self, texts: Sequence[Fields]) -> torch.Tensor:
        self.defense.cost.forward += len(texts) * (2.5 if self.defense.dynamic else 1.0)
        self.defense.cost.backward += len(texts) * (1.5 if self.defense.dynamic else 0.0)
        sums = [
            sum(self.scores.get(w, 0) for column in text for w in column.split()) for text in texts
        ]
        return torch.tensor([[-value / 2 + 0.05, value / 2] for value in sums])


class SwapAttack:
    """Swaps known words one by one, in an order drawn from the seed, until the victim errs."""

    name = "swap"

    goal: Goal = "misclassify"
    deviation = ""
    threat = ThreatModel("score", ("text",), "swaps of known words", None)

    def __init__(self, spec: str = "swap(words=all)") -> None:
        self.spec = spec
        self.resources: dict[str, str] = {}
        self.seeds: list[int] = []

    def perturb(self, victim: Victim, fields: Fields, label: int, seed: int) -> Attempt:
        self.seeds.append(seed)
        words = fields[-1].split()
        places = [i for i, word in enumerate(words) if word in SYNONYMS]
        np.random.default_rng(seed).shuffle(places)
        queries = 0
        for place in places:
            words[place] = SYNONYMS[words[place]][0]
            candidate = (*fields[:-1], " ".join(words))
            queries += 1
            if victim.logits([candidate])[0].argmax() != label:
                return Attempt(candidate, queries)
        return Attempt(None, queries)


class FunctionAttack:
    """An attack made of a function of the fields."""

    name = "function"
    spec = "swap(words=all)"
    resources: ClassVar[dict[str, str]] = {}
    deviation = ""
    threat = ThreatModel("score", ("text",), "anything", None)

    def __init__(self, function: Callable[[Fields], Attempt], goal: Goal = "misclassify") -> None:
        self.function = function
        self.goal = goal

    def perturb(self, victim: Victim, fields: Fields, label: int, seed: int) -> Attempt:
        return self.function(fields)


UNDEFENDED = "none"
DEFENSE = "thesaurus(words=3)"
CONTROL = "random-prefix(rms=0.2, seed=0)"


def systems() -> list[System]:
    """Undefended; a dynamic defence that knows three more words; a control that knows one."""
    return [
        System("undefended", LexiconClassifier()),
        System(
            "defense",
            LexiconClassifier(DEFENSE, {"lovely": 2, "clever": 2, "okay": 2}, dynamic=True),
        ),
        System("control", LexiconClassifier(CONTROL, {"okay": 2})),
    ]


def manifest(**changes: object) -> Manifest:
    values = {
        "task": "reviews",
        "columns": ("text",),
        "labels": LABELS,
        "model": "lexicon",
        "prefix": "c0ffee",
        "attack": "swap(words=all)",
        "seed": 7,
        "n": len(EXAMPLES),
        "test_fingerprint": "f00d",
        "defenses": (DEFENSE,),
        "protocols": ("worst",),
        "controls": {DEFENSE: (CONTROL,)},
        "settings": {"dtype": "float32"},
    }
    return Manifest(**(values | changes))  # type: ignore[arg-type]


ALONE: dict[str, object] = {"defenses": (), "controls": {}, "protocols": ("direct",)}
"""What a manifest says of a cell without any defence."""


def open_store(folder: Path, **changes: object) -> RecordStore:
    return RecordStore(folder / "run.sqlite", manifest(**changes))


def record(**changes: object) -> Record:
    """A record of an undefended direct attack that succeeded."""
    values: dict[str, object] = {
        "task": "reviews",
        "model": "lexicon",
        "prefix": "c0ffee",
        "attack": "swap(words=all)",
        "defense": "none",
        "role": "undefended",
        "dynamic": False,
        "protocol": "direct",
        "example": 1,
        "seed": 7,
        "label": 1,
        "original": ("a fine film",),
        "adversarial": ("a okay film",),
        "prediction_original": 1,
        "prediction_adversarial": 0,
        "margin_original": 1.0,
        "margin_adversarial": -0.5,
        "queries": 3,
        "model_queries": 5,
        "forward_passes": 5.0,
        "backward_passes": 0.0,
        "seconds": 0.25,
        "outcome": "succeeded",
        "prediction_forward_passes": 1.0,
        "prediction_backward_passes": 0.0,
    }
    return Record(**(values | changes))  # type: ignore[arg-type]


def without_time(records: Sequence[Record]) -> list[Record]:
    return [dataclasses.replace(r, seconds=0.0, message=_last(r.message)) for r in records]


def _last(message: str) -> str:
    return re.sub(r"0x[0-9a-f]+", "", message.strip().splitlines()[-1]) if message else ""
