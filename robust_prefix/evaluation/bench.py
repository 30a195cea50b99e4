"""One benchmark cell from its parts: who is attacked, on which examples, beside which control."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robust_prefix.classifier import PrefixClassifier
from robust_prefix.defenses import Defense, NoDefense, RandomPrefix, RobustPrefix
from robust_prefix.errors import ConfigError
from robust_prefix.evaluation.outputs import write_results
from robust_prefix.evaluation.protocols import PROTOCOLS, Attack, Example
from robust_prefix.evaluation.records import Manifest
from robust_prefix.evaluation.runner import Progress, System, evaluate
from robust_prefix.evaluation.store import RecordStore
from robust_prefix.evaluation.summary import Summary
from robust_prefix.progress import progress
from robust_prefix.tasks import Fields, Task

if TYPE_CHECKING:
    from datasets import Dataset

DATABASE = "run.sqlite"
_CONTROL_TEXTS = 64


def sample_examples(task: Task, rows: Dataset, count: int, seed: int) -> list[Example]:
    """The first ``count`` rows of a seeded shuffle.

    Raises:
        ConfigError: there are not so many rows.
    """
    if not 1 <= count <= len(rows):
        raise ConfigError(
            f"expected 1 to {len(rows)} examples (the size of the split), got {count}"
        )
    chosen = np.random.default_rng(seed).permutation(len(rows))[:count].tolist()
    picked = rows.select(chosen)
    return [
        Example(index, tuple(row[column] for column in task.columns), row["label"])
        for index, row in zip(chosen, picked, strict=True)
    ]


def fingerprint_rows(rows: Dataset) -> str:
    """A hash of a split's texts and labels."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def matching_control(
    classifier: PrefixClassifier, defense: Defense[Any], texts: Sequence[Fields], seed: int
) -> RandomPrefix | None:
    """The equal-norm random prefix for a defence that tunes one; None for any other.

    The norm is measured on the first texts of the run itself.
    """
    if not isinstance(defense, RobustPrefix) or defense.config.steps == 0:
        return None
    return RandomPrefix.matching(defense, classifier.model, texts[:_CONTROL_TEXTS], seed)


def run_attack(
    classifier: PrefixClassifier,
    attack: Attack,
    rows: Dataset,
    *,
    defense: Defense[Any],
    protocol: str,
    num_examples: int,
    seed: int,
    out: str | Path,
) -> Summary:
    """Attack a classifier undefended and defended, with the control beside a dynamic defence.

    Records go to ``out/run.sqlite`` as each example ends; the same call takes a killed run up
    again. At the end ``results.csv``, ``summary.json`` and ``report.html`` are written.

    Args:
        rows: the split to draw from, see :func:`robust_prefix.data.load_split`.
        defense: what is put to the test; ``none`` attacks the undefended classifier alone.
        protocol: ``replay``, ``direct`` or ``worst``.

    Raises:
        ConfigError: an unknown protocol, too many examples, or ``out`` holds another run.
        StorageError: ``out`` cannot be written, or another process writes there.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"expected a protocol of {'/'.join(PROTOCOLS)}, got {protocol!r}")
    task, backbone = classifier.task, classifier.model.backbone
    examples = sample_examples(task, rows, num_examples, seed)
    systems = [System("undefended", classifier.with_defense(NoDefense()))]
    control: RandomPrefix | None = None
    if not isinstance(defense, NoDefense):
        systems.append(System("defense", classifier.with_defense(defense)))
        texts = [example.fields for example in examples]
        control = matching_control(classifier, defense, texts, seed)
        if control is not None:
            systems.append(System("control", classifier.with_defense(control)))
    manifest = Manifest(
        task=task.name,
        columns=task.columns,
        labels=task.labels,
        model=backbone.name,
        prefix=classifier.model.prefix.fingerprint,
        attack=attack.spec,
        defense=defense.spec,
        protocol=protocol,
        n=num_examples,
        seed=seed,
        test_fingerprint=fingerprint_rows(rows),
        control=control.spec if control is not None else None,
        control_rms=control.config.rms if control is not None else None,
        settings={
            "dtype": str(backbone.dtype).removeprefix("torch."),
            "device": backbone.device.type,
            "base_fingerprint": backbone.fingerprint,
            **{f"resource.{name}": found for name, found in attack.resources.items()},
        },
    )
    rows_each = 2 if protocol == "worst" else 1
    total = num_examples * (1 + rows_each * (len(systems) - 1))
    with RecordStore(Path(out) / DATABASE, manifest) as store:
        with progress("attack", total, len(store)) as advance:

            def show(event: Progress) -> None:
                record = event.record
                advance(event.done, f"{record.role} {record.protocol} {record.outcome}")

            evaluate(systems, attack, examples, store, protocol, seed, show)
        return write_results(store, out)[0].summary
