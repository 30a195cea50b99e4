"""Attack each example under each system, one at a time, and write a record as each one ends.

Nothing is batched across examples and no random state passes from one to the next, so a run that
was killed and resumed ends in the same records as one that was not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from robust_prefix.errors import ConfigError, InputError
from robust_prefix.evaluation.once import fit, fitted, probe
from robust_prefix.evaluation.protocols import (
    Attack,
    Classifier,
    Example,
    RecordedAttack,
    UniversalAttack,
)
from robust_prefix.evaluation.records import Key, Manifest, Record
from robust_prefix.evaluation.store import RecordStore
from robust_prefix.evaluation.trial import Perturb, System, Trial
from robust_prefix.tasks import Fields


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    done: int  # records in the store that belong to this cell
    total: int
    record: Record  # the one that just ended


@dataclass(frozen=True)
class Started:
    """A record is about to be made; this is what it is if nothing more is ever heard of it."""

    record: Record


def evaluate(
    systems: Sequence[System],
    attack: Attack,
    examples: Sequence[Example],
    store: RecordStore,
    manifest: Manifest,
    *,
    training: Callable[[], Sequence[Example]] = tuple,
    others: Callable[[], Sequence[Example]] = tuple,
    on_progress: Callable[[Progress], None] | None = None,
    on_check: Callable[[System], None] = lambda system: None,
    check: bool = True,
) -> None:
    """Fill ``store`` with the records of one cell.

    The undefended system is attacked directly, whatever the protocols: its adversaries are what is
    replayed. The others are shown those (``replay``), attacked themselves (``direct``), by one who
    sees what they hide (``adaptive``), or all of it (``worst``). Records already in the store are
    not made again.

    A crash at one example becomes an ``error`` record. Ctrl-C, a missing resource, a wrong setting
    and a store that cannot be written end the run, which may be resumed.

    Args:
        systems: those that the manifest names, the undefended first.
        attack: what searches for adversaries.
        examples: what to attack, each index once.
        store: where records go.
        manifest: the cell of the store that these arguments fill.
        training: gives training examples to an attack that looks for one change for all texts.
        others: gives examples that are not attacked, for the checks to compare with.
        on_progress: called after each new record.
        on_check: called before a system is checked, or an attack fitted to it, which takes a while.
        check: whether systems are checked, see ``checks.probe``.

    Raises:
        ConfigError: the arguments contradict each other or the manifest.
        InputError: an example does not fit the task.
        StorageError, ResourceError: see above.
    """
    check_cell(manifest, systems, attack, examples)
    perturbs: dict[tuple[str, str], Perturb] = {}
    outside = functools.cache(others)
    for system in systems:
        key = manifest.probe_key(system.defense)
        if check and system.role != "control" and store.find("probe", key) is None:
            on_check(system)
            store.put("probe", key, probe(system, examples, outside(), manifest))
        if not isinstance(attack, UniversalAttack):
            continue
        for protocol in manifest.searches(system.defense):
            key = manifest.state_key(system.defense, protocol)
            state = store.find("state", key)
            if state is None:
                on_check(system)
                state = fit(system, attack, training(), manifest, protocol)
                store.put("state", key, state)
            perturbs[system.defense, protocol] = fitted(attack, state)
    total = len(examples) * (manifest.total // manifest.n)
    done = len(store.records(manifest))
    for example in examples:
        for event in attack_example(systems, attack, example, manifest, store.get, perturbs):
            if isinstance(event, Record):
                store.add(event)
                done += 1
                if on_progress is not None:
                    on_progress(Progress(done, total, event))


def attack_example(
    systems: Sequence[System],
    attack: Attack,
    example: Example,
    manifest: Manifest,
    known: Callable[[Key], Record | None],
    perturbs: Mapping[tuple[str, str], Perturb] | None = None,
    leave_out: Collection[Key] = (),
) -> Iterator[Started | Record]:
    """Make the records of one example; each is announced when it starts and yielded when it ends.

    Args:
        systems: the undefended first.
        known: gives the records that are not to be made again.
        perturbs: by defence and protocol, what is to attack it instead of ``attack`` itself.
        leave_out: the keys of records that cannot be made.

    Raises:
        ConfigError, ResourceError, StorageError: the record that was announced last cannot be
            made, nor can any other of its system and protocol.
    """
    source: Record | None = None

    def find() -> Fields | None:
        if isinstance(attack, RecordedAttack):
            return attack.adversary(example.index)
        if source is None or source.outcome == "error":
            raise RuntimeError("the attack on the undefended model crashed: nothing to replay")
        return source.adversarial if source.outcome == "succeeded" else None

    for system in systems:
        for protocol in manifest.rows_of(system.defense):
            key = manifest.key(system.defense, protocol, example.index)
            record = known(key)
            if record is None and key not in leave_out:
                trial = Trial(system, example, key, attack.goal)
                yield Started(trial.record("error"))
                perturb = (perturbs or {}).get((system.defense, protocol), attack.perturb)
                record = trial.replay(find) if protocol == "replay" else trial.direct(perturb)
                yield record
            if system.role == "undefended":
                source = record


def check_cell(
    manifest: Manifest, systems: Sequence[System], attack: Attack, examples: Sequence[Example]
) -> None:
    """Check that systems, attack and examples are those of the manifest and fit one another.

    Raises:
        ConfigError: something is not what the manifest says.
        InputError: an example does not fit the task.
    """
    if not systems or systems[0].role != "undefended":
        raise ConfigError(f"expected the undefended system first, got {systems[:1]}")
    classifier = systems[0].classifier
    asked = {
        "task": classifier.task.name,
        "columns": classifier.task.columns,
        "labels": classifier.task.labels,
        "attack": attack.spec,
        "systems": {system.defense: system.role for system in systems},
    }
    for name, value in asked.items():
        if getattr(manifest, name) != value:
            raise ConfigError(
                f"expected {name} {getattr(manifest, name)!r} as the manifest says, got {value!r}; "
                "open the store with the manifest of this run"
            )
    if len(systems) != len(manifest.systems):
        specs = [system.defense for system in systems]
        raise ConfigError(f"expected each defence once, got {specs}")
    _check_examples(examples, classifier)


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
