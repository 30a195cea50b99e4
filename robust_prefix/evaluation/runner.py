"""Attack each example under each system, one at a time, and write a record as each one ends.

Nothing is batched across examples and no random state passes from one to the next, so a run that
was killed and resumed ends in the same records as one that was not.
"""

from __future__ import annotations

import hashlib
import json
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from robust_prefix.errors import ConfigError, InputError, ResourceError, StorageError
from robust_prefix.evaluation.protocols import (
    PROTOCOLS,
    Attack,
    Classifier,
    Example,
)
from robust_prefix.evaluation.records import Key, Manifest, Outcome, Record, Role, RowProtocol
from robust_prefix.evaluation.store import RecordStore
from robust_prefix.tasks import Fields

# What no single example is to blame for: it would come again at every one of them.
_STOPS_THE_RUN = (ConfigError, ResourceError, StorageError)


@dataclass(frozen=True)
class System:
    """A classifier and what it is in the run for."""

    role: Role
    classifier: Classifier


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    done: int  # records in the store that belong to this run
    total: int
    record: Record  # the one that just ended


def evaluate(
    systems: Sequence[System],
    attack: Attack,
    examples: Sequence[Example],
    store: RecordStore,
    protocol: str,
    seed: int,
    on_progress: Callable[[Progress], None] | None = None,
) -> None:
    """Fill ``store`` with the records of ``examples`` under ``systems``.

    The undefended system is attacked directly, whatever the protocol: its adversaries are what is
    replayed. The others are shown those (``replay``), attacked themselves (``direct``), or both
    (``worst``). Records already in the store are not made again.

    A crash at one example becomes an ``error`` record. Ctrl-C, a missing resource, a wrong setting
    and a store that cannot be written end the run, which may be resumed.

    Args:
        systems: exactly one of role ``undefended``, and any others.
        attack: what searches for adversaries.
        examples: what to attack, each index once.
        store: where records go; its manifest must say the same attack, protocol and seed.
        protocol: ``replay``, ``direct`` or ``worst``.
        seed: seed of the run; each record's own seed is derived from it and the record's key.
        on_progress: called after each new record.

    Raises:
        ConfigError: the arguments contradict each other or the manifest.
        InputError: an example does not fit the task.
        StorageError, ResourceError: see above.
    """
    undefended = _undefended(systems)
    _check_manifest(store.manifest, undefended.classifier, attack, protocol, seed)
    _check_examples(examples, undefended.classifier)
    others = [system for system in systems if system is not undefended]
    rows: tuple[RowProtocol, ...] = ("direct",) if protocol == "direct" else ("replay",)
    if protocol == "worst":
        rows = ("replay", "direct")
    manifest = store.manifest
    total = len(examples) * (1 + len(others) * len(rows))
    done = 0

    def row(system: System, example: Example, how: RowProtocol, source: Record | None) -> Record:
        nonlocal done
        key = Key(
            task=manifest.task,
            model=manifest.model,
            prefix=manifest.prefix,
            attack=attack.spec,
            defense=system.classifier.defense.spec,
            protocol=how,
            example=example.index,
            seed=seed,
        )
        record = store.get(key)
        done += 1
        if record is None:
            record = _Trial(system, attack, example, key).run(source)
            store.add(record)
            if on_progress is not None:
                on_progress(Progress(done, total, record))
        return record

    for example in examples:
        source = row(undefended, example, "direct", None)
        for system in others:
            for how in rows:
                row(system, example, how, source if how == "replay" else None)


class CountingVictim:
    """A classifier as an attack sees it: fields in, float32 logits out, every text counted."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self.queries = 0

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
        expected = (len(texts), len(self.labels))
        if not texts:
            return np.zeros(expected, dtype=np.float32)
        self.queries += len(texts)
        logits = self._classifier.logits(texts).detach().cpu().float().numpy()
        if logits.shape != expected or not np.isfinite(logits).all():
            state = "finite" if np.isfinite(logits).all() else "not finite"
            raise ArithmeticError(
                f"expected finite logits of shape {expected}, got shape {logits.shape}, {state}"
            )
        return logits


def example_seed(key: Key) -> int:
    """A 32-bit seed that depends on nothing but ``key``, which holds the seed of the run."""
    digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")


class _Trial:
    """One example under one system: what is known so far, so that a crash can still be recorded."""

    def __init__(self, system: System, attack: Attack, example: Example, key: Key) -> None:
        self.system = system
        self.attack = attack
        self.example = example
        self.key = key
        self.victim = CountingVictim(system.classifier)
        self.original: tuple[int, float] | None = None
        self.adversarial: Fields | None = None
        self.answer: tuple[int, float] | None = None
        self.queries = 0

    def run(self, source: Record | None) -> Record:
        """Attack, or replay the adversary of ``source`` where that is given."""
        cost = self.system.classifier.defense.cost
        cost.reset()
        start = time.perf_counter()
        message = ""
        outcome: Outcome
        try:
            outcome = self._direct() if source is None else self._replay(source)
            if outcome == "failed" and source is None and self.adversarial is not None:
                message = "the attack reported an adversary, and it did not fool the model"
        except _STOPS_THE_RUN:
            raise
        except Exception:  # a crash of one example must neither end the run nor pass for a defence
            outcome, message = "error", traceback.format_exc()
        return Record(
            **self.key._asdict(),
            role=self.system.role,
            dynamic=self.system.classifier.defense.dynamic,
            label=self.example.label,
            original=self.example.fields,
            adversarial=self.adversarial,
            prediction_original=self.original and self.original[0],
            prediction_adversarial=self.answer and self.answer[0],
            margin_original=self.original and self.original[1],
            margin_adversarial=self.answer and self.answer[1],
            queries=self.queries,
            model_queries=self.victim.queries,
            forward_passes=float(cost.forward),
            backward_passes=float(cost.backward),
            seconds=time.perf_counter() - start,
            outcome=outcome,
            message=message,
        )

    def _direct(self) -> Outcome:
        example = self.example
        self.original = self._ask(example.fields)
        if self.original[0] != example.label:
            return "skipped"
        attempt = self.attack.perturb(
            self.victim, example.fields, example.label, example_seed(self.key)
        )
        self.queries = int(attempt.queries)
        return self._judge(attempt.adversarial)

    def _replay(self, source: Record) -> Outcome:
        if source.outcome == "error":
            raise RuntimeError("the attack on the undefended model crashed: nothing to replay")
        self.original = self._ask(self.example.fields)
        if self.original[0] != self.example.label:
            return "skipped"
        return self._judge(source.adversarial if source.outcome == "succeeded" else None)

    def _judge(self, adversarial: Fields | None) -> Outcome:
        """Believe no report: ask the system about the adversary once more."""
        if adversarial is None:
            return "failed"
        columns = self.victim.columns
        if len(adversarial) != len(columns) or not all(isinstance(x, str) for x in adversarial):
            raise TypeError(f"expected an adversary of columns {columns}, got {adversarial!r}")
        self.adversarial = tuple(adversarial)
        self.answer = self._ask(self.adversarial)
        return "succeeded" if self.answer[0] != self.example.label else "failed"

    def _ask(self, fields: Fields) -> tuple[int, float]:
        """Predicted class, and the logit of the true class minus the best other."""
        logits = self.victim.logits([fields])[0]
        others = np.delete(logits, self.example.label)
        return int(logits.argmax()), float(logits[self.example.label] - others.max())


def _undefended(systems: Sequence[System]) -> System:
    found = [system for system in systems if system.role == "undefended"]
    if len(found) != 1:
        raise ConfigError(f"expected exactly one undefended system, got {len(found)}")
    specs = [system.classifier.defense.spec for system in systems]
    for spec in specs:
        if specs.count(spec) > 1:
            raise ConfigError(f"expected each defence once, got {spec!r} {specs.count(spec)} times")
    return found[0]


def _check_manifest(
    manifest: Manifest, classifier: Classifier, attack: Attack, protocol: str, seed: int
) -> None:
    if protocol not in PROTOCOLS:
        raise ConfigError(f"expected a protocol ({', '.join(PROTOCOLS)}), got {protocol!r}")
    asked = {
        "task": classifier.task.name,
        "columns": classifier.task.columns,
        "labels": classifier.task.labels,
        "attack": attack.spec,
        "protocol": protocol,
        "seed": seed,
    }
    for name, value in asked.items():
        if getattr(manifest, name) != value:
            raise ConfigError(
                f"expected {name} {getattr(manifest, name)!r} as the store's manifest says, "
                f"got {value!r}; open the store with the manifest of this run"
            )


def _check_examples(examples: Sequence[Example], classifier: Classifier) -> None:
    columns, labels = classifier.task.columns, classifier.task.labels
    seen: set[int] = set()
    for example in examples:
        if example.index in seen:
            raise InputError(f"expected each example once, got index {example.index} again")
        seen.add(example.index)
        if len(example.fields) != len(columns):
            raise InputError(
                f"expected the columns {columns} in example {example.index}, "
                f"got {len(example.fields)} of them"
            )
        if not 0 <= example.label < len(labels):
            raise InputError(
                f"expected a label of 0 to {len(labels) - 1} in example {example.index}, "
                f"got {example.label}"
            )
