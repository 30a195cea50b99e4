"""Run a matrix: workers attack, this process alone decides and writes.

Every record is in the database as soon as it ends. Which worker makes it, in what order and at
which attempt changes nothing in it, so the files at the end are the same bytes however often a run
was killed.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from robust_prefix.errors import ArtifactError, ConfigError, ResourceError
from robust_prefix.evaluation.bench import DATABASE
from robust_prefix.evaluation.outputs import check_folder, write_results
from robust_prefix.evaluation.plan import CellPlan
from robust_prefix.evaluation.pool import Died, Event, Failed, Pool, Told
from robust_prefix.evaluation.quality import KIND, unmeasured
from robust_prefix.evaluation.records import UNDEFENDED, Key, Manifest, Record
from robust_prefix.evaluation.results import Results, stored_states
from robust_prefix.evaluation.runner import Started
from robust_prefix.evaluation.store import RecordStore
from robust_prefix.evaluation.summary import short_name
from robust_prefix.evaluation.workbench import (
    AttackExample,
    Fit,
    Measure,
    Prepare,
    Prepared,
    Probe,
    Workbench,
)
from robust_prefix.progress import progress

logger = logging.getLogger(__name__)

TRIES = 2
"""How often a record may take a process down before it is given up."""

_PAIRS_A_JOB = 8

Item = TypeVar("Item")
OneJob = TypeVar("OneJob", bound=Prepare | Probe | Fit | Measure)


def run_benchmark(
    cells: Sequence[CellPlan],
    make: Callable[[], Workbench],
    out: str | Path,
    workers: int,
    similarity: bool = False,
) -> list[Results]:
    """Run the cells of a matrix, or what is left of them, and write what they come to.

    Records go to ``out/run.sqlite`` as they end. A cell for which something has to be installed is
    left out and noted as missing; the same call takes it up once that is there.

    Args:
        cells: see :meth:`robust_prefix.evaluation.plan.Plan.cells`.
        make: makes a worker's bench, see ``Pool``.
        out: the folder; it may hold an earlier run of these cells or of some of them.
        workers: how many processes.
        similarity: whether the benches have a sentence encoder.

    Raises:
        ConfigError: a setting does not fit, or ``out`` holds cells that are not among these.
        ResourceError: no cell can be run, or a process ended before it could begin.
        StorageError: ``out`` cannot be written, or another process writes there.
    """
    check_folder(out, DATABASE)
    path = Path(out) / DATABASE
    stored = _stored(path)
    with Pool(workers, make) as pool:
        prepared, missing = _prepare(pool, cells, stored)
        if not prepared:
            raise ResourceError(next(iter(missing.values())))
        known = {cell: stored[cell.name] for cell in cells if cell.name in stored}
        known |= {cell: found.manifest for cell, found in prepared.items()}
        manifests = [known[cell] for cell in cells if cell in known]
        with RecordStore(path, manifests) as store:
            for name in store.items("missing"):
                store.remove("missing", name)
            for name, reason in missing.items():
                store.put("missing", name, reason)
            run = _Benchmark(pool, store, prepared)
            run.once()
            run.examples()
            run.measure(similarity)
            pool.close(at_once=False)
            return write_results(store, out)


class _Benchmark:
    """The part of a run for which the database is open."""

    def __init__(
        self, pool: Pool, store: RecordStore, prepared: Mapping[CellPlan, Prepared]
    ) -> None:
        self._pool = pool
        self._store = store
        self._prepared = prepared
        # What cannot be made: cell, defence and protocol.
        self._refused: set[tuple[str, str, str]] = set()

    def once(self) -> None:
        """Check each system, and find the one change of the attacks that look for one."""
        jobs = list(self._once_jobs())
        with progress("check", len(jobs)) as advance:
            for done, event in enumerate(_each(self._pool, jobs)):
                advance(done // 2, short_name(event.job.defense))  # each tells, and then it is over
                self._keep_once(event)

    def _keep_once(self, event: Event[Probe | Fit]) -> None:
        manifest, defense = event.job.manifest, event.job.defense
        probing = isinstance(event.job, Probe)
        kind = "probe" if probing else "state"
        protocol = "direct" if isinstance(event.job, Probe) else event.job.protocol
        key = manifest.probe_key(defense) if probing else manifest.state_key(defense, protocol)
        if isinstance(event, Told):
            self._store.put(kind, key, event.value)
        elif isinstance(event, Died):
            found = {"failed": {"process": event.reason}} if probing else {"error": event.reason}
            self._store.put(kind, key, found)
        elif isinstance(event, Failed):
            self._refuse(manifest, None if probing else defense, protocol, event.error)

    def _once_jobs(self) -> Iterator[Probe | Fit]:
        seen = {*self._store.items("probe"), *self._store.items("state")}
        for cell, found in self._prepared.items():
            manifest = found.manifest
            for defense, role in manifest.systems.items():
                key = manifest.probe_key(defense)
                if role != "control" and key not in seen:
                    seen.add(key)
                    yield Probe(cell, manifest, defense)
                for protocol in manifest.searches(defense) if found.universal else ():
                    if manifest.state_key(defense, protocol) not in seen:
                        yield Fit(cell, manifest, defense, protocol)

    def examples(self) -> None:
        """Attack, until there is no record left that can be made."""
        cells = [found.manifest for found in self._prepared.values()]
        done = sum(len(self._store.records(cell)) for cell in cells)
        with progress("benchmark", sum(cell.total for cell in cells), done) as advance:
            for record in self._attack():
                self._store.add(record)
                done += 1
                what = f"{short_name(record.attack)}, seed {record.seed}"
                advance(done, f"{what}, {short_name(record.defense)}")

    def _attack(self) -> Iterator[Record]:
        """Each record as it ends."""
        left = collections.deque(
            (cell, example) for cell, found in self._prepared.items() for example in found.examples
        )
        started: dict[AttackExample, Record] = {}
        deaths: collections.Counter[Key] = collections.Counter()

        def take() -> AttackExample | None:
            while left:
                job = self._job(*left.popleft())
                if job is not None:
                    return job
            return None

        for event in self._pool.run(take):
            job = event.job
            if isinstance(event, Told) and isinstance(event.value, Started):
                started[job] = event.value.record
                continue
            record = started.pop(job, None)
            if isinstance(event, Told):
                yield event.value
            elif isinstance(event, Failed):
                defense, protocol = (record.defense, record.protocol) if record else (None, "")
                self._refuse(job.manifest, defense, protocol, event.error)
                left.appendleft((job.cell, job.example))
            elif isinstance(event, Died):
                key = record.key if record else job.manifest.key("", "direct", job.example)
                deaths[key] += 1
                logger.warning(
                    "a worker process died at %s: %s", " ".join(map(str, key)), event.reason
                )
                if deaths[key] >= TRIES:
                    if record is None:
                        raise _died(event.reason)
                    message = f"the process died {TRIES} times at this record: {event.reason}"
                    yield dataclasses.replace(record, outcome="error", message=message)
                left.appendleft((job.cell, job.example))

    def measure(self, similarity: bool) -> None:
        """Score the adversaries, each pair of texts once; what takes processes down stays empty."""
        jobs: list[Measure] = []
        seen: set[str] = set()
        for cell, found in self._prepared.items():
            pairs = unmeasured(self._store, self._store.records(found.manifest), similarity)
            left = [(key, pair) for key, pair in pairs.items() if key not in seen]
            seen |= pairs.keys()
            jobs += [Measure(cell, dict(chunk)) for chunk in _chunks(left, _PAIRS_A_JOB)]
        total = len(seen)
        with progress("measure", total) as advance:
            for event in _each(self._pool, jobs):
                if isinstance(event, Told):
                    key, quality = event.value
                    self._store.put(KIND, key, dataclasses.asdict(quality))
                    seen.discard(key)
                    advance(total - len(seen), "")
                elif isinstance(event, Failed):
                    raise event.error

    def _job(self, cell: CellPlan, example: int) -> AttackExample | None:
        """What is left to do for an example; None where that is nothing."""
        manifest = self._prepared[cell].manifest
        rows = [
            manifest.key(defense, protocol, example)
            for defense in manifest.systems
            for protocol in manifest.rows_of(defense)
        ]
        name = manifest.name
        refused = {key for key in rows if (name, key.defense, key.protocol) in self._refused}
        known = {key: record for key in rows if (record := self._store.get(key)) is not None}
        # Without the undefended system's record there is nothing to replay either.
        if rows[0] in refused or not set(rows) - refused - known.keys():
            return None
        states = stored_states(self._store, manifest)
        return AttackExample(
            cell, manifest, example, tuple(known.values()), states, frozenset(refused)
        )

    def _refuse(
        self, manifest: Manifest, defense: str | None, protocol: str, error: Exception
    ) -> None:
        """Note that a system cannot be attacked this way; without a defence: nor any of the cell.

        Raises:
            RobustPrefixError: it is nothing that concerns this system or cell alone.
        """
        if not isinstance(
            error, ResourceError if defense is None else (ArtifactError, ConfigError, ResourceError)
        ):
            raise error
        if defense is None:
            defense, protocol = UNDEFENDED, manifest.rows_of(UNDEFENDED)[0]
        name = (manifest.name, defense, protocol)
        if name not in self._refused:
            self._refused.add(name)
            # Without the undefended there is nothing to replay and nothing to compare with.
            key = name[0] if defense == UNDEFENDED else " ".join(name)
            self._store.put("missing", key, str(error))


def _prepare(
    pool: Pool, cells: Sequence[CellPlan], stored: Mapping[str, Manifest]
) -> tuple[dict[CellPlan, Prepared], dict[str, str]]:
    """What each cell comes to; and by name, why it cannot be run here."""
    found: dict[CellPlan, Prepared] = {}
    missing: dict[str, str] = {}
    jobs = [Prepare(cell, stored.get(cell.name)) for cell in cells]
    with progress("prepare", len(cells)) as advance:
        for event in _each(pool, jobs):
            cell = event.job.cell
            if isinstance(event, Told):
                found[cell] = event.value
            elif isinstance(event, Died):
                raise _died(event.reason)
            elif isinstance(event, Failed):
                if not isinstance(event.error, ResourceError):
                    raise event.error
                missing[cell.name] = str(event.error)
            advance(len(found) + len(missing), short_name(cell.attack))
    return {cell: found[cell] for cell in cells if cell in found}, missing


def _each(pool: Pool, jobs: Iterable[OneJob]) -> Iterator[Event[OneJob]]:
    """Do jobs that may be done again from their start; a death is passed on once it comes twice."""
    left = collections.deque(jobs)
    deaths: collections.Counter[OneJob] = collections.Counter()

    def take() -> OneJob | None:
        return left.popleft() if left else None

    for event in pool.run(take):
        if isinstance(event, Died):
            deaths[event.job] += 1
            logger.warning("a worker process died: %s", event.reason)
            if deaths[event.job] < TRIES:
                left.appendleft(event.job)
                continue
        yield event


def _chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _stored(path: Path) -> dict[str, Manifest]:
    """The cells of an earlier run, by name; also finds out at once whether another is on."""
    # SQLite's file is empty until its tables are there: whoever was stopped before wrote nothing
    if not path.is_file() or not path.stat().st_size:
        return {}
    with RecordStore(path) as store:
        manifests = store.manifests
    RecordStore(path, manifests).close()
    return {manifest.name: manifest for manifest in manifests}


def _died(reason: str) -> ResourceError:
    return ResourceError(
        f"expected a worker process to load its model, got one that died {TRIES} times: {reason}; "
        "try fewer --workers"
    )
