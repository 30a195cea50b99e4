"""One example under one system: the attack or the replay, counted, verified and recorded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from robust_prefix.detection import Decisions, as_attacked
from robust_prefix.errors import ArtifactError, ConfigError, ResourceError, StorageError
from robust_prefix.evaluation.protocols import (
    Attempt,
    Classifier,
    Deciding,
    Example,
    Goal,
    Remembering,
    Victim,
    WhiteBox,
)
from robust_prefix.evaluation.records import Key, Outcome, Record, Role
from robust_prefix.gradients import Through, TokenGradients
from robust_prefix.tasks import Fields

STOPS_THE_RUN = (ArtifactError, ConfigError, ResourceError, StorageError)
"""What no single example is to blame for: it would come again at every one of them."""

Perturb = Callable[[Victim, Fields, int, int], Attempt]
"""``Attack.perturb``."""


@dataclass(frozen=True)
class System:
    """A classifier and what it is in the run for."""

    role: Role
    classifier: Classifier

    @property
    def defense(self) -> str:
        """Canonical spec of its defence."""
        return self.classifier.defense.spec


class CountingVictim:
    """A classifier as an attack sees it: fields in, float32 logits out, every text counted.

    Where it may abstain, an attacker who starts from a text of class ``label`` is shown that, too,
    as :func:`robust_prefix.detection.as_attacked` puts it into the scores.

    Args:
        label: the class; without one the scores are shown as they are.
        goal: what an adversary is to do.
        revealed: whether scores that the defence hides are shown, as of
            :attr:`robust_prefix.detection.Decisions.revealed`.
    """

    def __init__(
        self,
        classifier: Classifier,
        label: int | None = None,
        goal: Goal = "misclassify",
        revealed: bool = False,
    ) -> None:
        self._classifier = classifier
        self._label = label
        self._goal: Goal = goal
        self._revealed = revealed
        self._asked = [0]  # one number, shared with those that face a class

    @property
    def queries(self) -> int:
        """How many texts were asked about so far."""
        return self._asked[0]

    def facing(self, label: int) -> CountingVictim:
        """The same, counted together, as an attacker sees it who starts from texts of a class."""
        found = CountingVictim(self._classifier, label, self._goal, self._revealed)
        found._asked = self._asked
        return found

    @property
    def randomized(self) -> bool:
        """Whether an answer may differ from call to call; a classifier that does not say is taken
        for one whose answers stay."""
        return bool(getattr(self._classifier.defense, "randomized", False))

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names, in the order of the logits' columns."""
        return self._classifier.task.labels

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the text columns."""
        return self._classifier.task.columns

    def logits(self, texts: Sequence[Fields]) -> np.ndarray:
        """Scores of ``texts``: float32 ``(len(texts), classes)``.

        Raises:
            ArithmeticError: the classifier's answer has another shape or is not finite. Such an
                answer has no argmax, so it must not pass for a prediction.
        """
        texts = list(texts)
        if not texts:
            return np.zeros((0, len(self.labels)), dtype=np.float32)
        decisions = self.decide(texts)
        if self._revealed:
            if not decisions.unhidden:
                raise RuntimeError(
                    "expected what the defence hides for an adaptive attack, got nothing"
                )
            decisions = decisions.revealed
        if self._label is None:
            return decisions.logits.numpy()
        return as_attacked(decisions, [self._label] * len(texts), self._goal).numpy()

    def decide(self, texts: Sequence[Fields]) -> Decisions:
        """Scores and abstentions as they are, on the CPU.

        Raises:
            ArithmeticError: see ``logits``.
        """
        texts = list(texts)
        expected = (len(texts), len(self.labels))
        self._asked[0] += len(texts)
        if isinstance(self._classifier, Deciding):
            decisions = self._classifier.decide(texts)
        else:
            decisions = Decisions(self._classifier.logits(texts))
        scores = decisions.logits.detach().cpu().float()
        logits = scores.numpy()
        if logits.shape != expected or not np.isfinite(logits).all():
            state = "finite" if np.isfinite(logits).all() else "not finite"
            raise ArithmeticError(
                f"expected finite logits of shape {expected}, got shape {logits.shape}, {state}"
            )
        return dataclasses.replace(decisions, logits=scores)

    def gradients(
        self, texts: Sequence[Fields], labels: Sequence[int], through: Through = "fixed"
    ) -> list[TokenGradients]:
        """See ``WhiteBox``; counts one query a text.

        Raises:
            ConfigError: the classifier gives no gradients, or its defence cannot be differentiated.
        """
        inside = self._inside
        self._asked[0] += len(texts)
        return inside.gradients(list(texts), list(labels), through)

    def embeddings(self) -> np.ndarray:
        """See ``WhiteBox``."""
        return self._inside.embeddings()

    def decode(self, tokens: Sequence[int]) -> str:
        """See ``WhiteBox``."""
        return self._inside.decode(tokens)

    def encode(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """See ``WhiteBox``."""
        return self._inside.encode(texts)

    @property
    def _inside(self) -> WhiteBox:
        if not hasattr(self._classifier, "gradients"):
            raise ConfigError(
                f"expected a classifier that gives gradients, got "
                f"{type(self._classifier).__name__}; use an attack that reads scores alone"
            )
        return cast("WhiteBox", self._classifier)


def _remembering(classifier: Classifier) -> AbstractContextManager[None]:
    """For an attack, which asks about one text again and again; its adversary is judged outside."""
    return classifier.remembering() if isinstance(classifier, Remembering) else nullcontext()


def example_seed(key: Key) -> int:
    """A 32-bit seed that depends on nothing but ``key``, which holds the seed of the run.

    An adaptive attack draws as the direct one does, so that they differ in what they see alone.
    """
    drawn = key._replace(protocol="direct") if key.protocol == "adaptive" else key
    return seed_of(list(drawn))


def seed_of(value: Any) -> int:
    """A 32-bit seed from anything that JSON holds."""
    digest = hashlib.blake2b(json.dumps(value).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")


def _rounded(passes: float) -> float:
    """Sums of thirtieths differ in their last bits with what ran before."""
    return round(float(passes), 6)


class Trial:
    """One record in the making: what is known so far, so that a crash can still be recorded.

    Args:
        system: who is attacked.
        example: with which text.
        key: under which key the record is kept.
        goal: what an adversary is to do.
    """

    def __init__(self, system: System, example: Example, key: Key, goal: Goal) -> None:
        self.system = system
        self.example = example
        self.key = key
        self.goal = goal
        self.victim = CountingVictim(
            system.classifier, example.label, goal, revealed=key.protocol == "adaptive"
        )
        self.original: tuple[int | None, float] | None = None
        self.prediction_passes: tuple[float, float] | None = None
        self.adversarial: Fields | None = None
        self.answer: tuple[int | None, float] | None = None
        self.queries = 0
        system.classifier.defense.cost.reset()

    def direct(self, perturb: Perturb) -> Record:
        """The record of an attack on this very system, ``direct`` or ``adaptive`` by the key."""

        def run() -> Outcome:
            example = self.example
            if self._ask_original() != example.label:
                return "skipped"
            with _remembering(self.system.classifier):
                seed = example_seed(self.key)
                attempt = perturb(self.victim, example.fields, example.label, seed)
            self.queries = int(attempt.queries)
            return self._judge(attempt.adversarial)

        record = self._run(run)
        if record.unverified:
            message = "the attack reported an adversary, and it did not fool the model"
            return dataclasses.replace(record, message=message)
        return record

    def replay(self, find: Callable[[], Fields | None]) -> Record:
        """The record of showing what ``find`` returns; None: there is nothing to show."""

        def run() -> Outcome:
            # first, so that what is right before an attack does not hang on another's crash
            before = self._ask_original()
            adversarial = find()
            return "skipped" if before != self.example.label else self._judge(adversarial)

        return self._run(run)

    def record(self, outcome: Outcome, message: str = "", seconds: float = 0.0) -> Record:
        """The record of what is known now."""
        defense = self.system.classifier.defense
        forward, backward = self.prediction_passes or (None, None)
        return Record(
            **self.key._asdict(),
            role=self.system.role,
            dynamic=defense.dynamic,
            label=self.example.label,
            original=self.example.fields,
            adversarial=self.adversarial,
            prediction_original=self.original and self.original[0],
            prediction_adversarial=self.answer and self.answer[0],
            margin_original=self.original and self.original[1],
            margin_adversarial=self.answer and self.answer[1],
            queries=self.queries,
            model_queries=self.victim.queries,
            forward_passes=_rounded(defense.cost.forward),
            backward_passes=_rounded(defense.cost.backward),
            prediction_forward_passes=forward,
            prediction_backward_passes=backward,
            seconds=seconds,
            outcome=outcome,
            message=message,
        )

    def _run(self, work: Callable[[], Outcome]) -> Record:
        start = time.perf_counter()
        outcome: Outcome
        message = ""
        try:
            outcome = work()
        except STOPS_THE_RUN:
            raise
        except Exception:  # a crash of one example must neither end the run nor pass for a defence
            outcome, message = "error", traceback.format_exc()
        return self.record(outcome, message, time.perf_counter() - start)

    def _judge(self, adversarial: Fields | None) -> Outcome:
        """Believe no report: ask the system about the adversary once more."""
        if adversarial is None:
            return "failed"
        columns = self.victim.columns
        if len(adversarial) != len(columns) or not all(isinstance(x, str) for x in adversarial):
            raise TypeError(f"expected an adversary of columns {columns}, got {adversarial!r}")
        self.adversarial = tuple(adversarial)
        self.answer = self._ask(self.adversarial)
        if self.answer[0] is None:  # refused: nobody was fooled
            return "failed"
        kept = self.answer[0] == self.example.label
        return "succeeded" if kept == (self.goal == "keep") else "failed"

    def _ask_original(self) -> int | None:
        """Predicted class of the original, and what that one prediction cost."""
        self.original = self._ask(self.example.fields)
        cost = self.system.classifier.defense.cost
        self.prediction_passes = (_rounded(cost.forward), _rounded(cost.backward))
        return self.original[0]

    def _ask(self, fields: Fields) -> tuple[int | None, float]:
        """Predicted class, None where it is refused, and the logit of the true class minus the
        best other."""
        decisions = self.victim.decide([fields])
        logits = decisions.logits.numpy()[0]
        others = np.delete(logits, self.example.label)
        return decisions.labels[0], float(logits[self.example.label] - others.max())
