"""Processes that work through jobs, each on one core, and whose deaths are noticed.

The executors of the standard library give up when one process dies. Here a dead process is
reported with the job it had, and another takes its place: a segmentation fault or a kill for want
of memory costs one job. The other way about, no worker outlives the process that started it,
however that one ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from robust_prefix.errors import RobustPrefixError

# What libraries read when they are loaded: how many threads they start.
ONE_THREAD = {
    name: "1"
    for name in (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
    )
} | {"TOKENIZERS_PARALLELISM": "false"}

_PATIENCE = 10.0  # seconds that a worker without work is given to end by itself

Bench = TypeVar("Bench", contravariant=True)


class Job(Protocol[Bench]):
    """What a worker does at its bench; goes from process to process, so it must be plain data."""

    def __call__(self, bench: Bench, /) -> Iterator[Any]:
        """Do it, yielding what there is to tell."""
        ...


AnyJob = TypeVar("AnyJob", bound=Job[Any])


@dataclass(frozen=True)
class Told(Generic[AnyJob]):
    """A job has something to tell."""

    job: AnyJob
    value: Any


@dataclass(frozen=True)
class Finished(Generic[AnyJob]):
    """A job has come to its end."""

    job: AnyJob


@dataclass(frozen=True)
class Failed(Generic[AnyJob]):
    """A job raised one of the project's errors; any other is raised where the events are read."""

    job: AnyJob
    error: RobustPrefixError


@dataclass(frozen=True)
class Died(Generic[AnyJob]):
    """The process that was at a job is gone; why, in words."""

    job: AnyJob
    reason: str


Event = Told[AnyJob] | Finished[AnyJob] | Failed[AnyJob] | Died[AnyJob]


class Pool:
    """Worker processes, started as there is work for them.

    Args:
        workers: how many at most.
        make: makes a worker's bench, in the worker; a function of a module, or a ``partial`` of
            one, for a new interpreter has to find it again.
    """

    def __init__(self, workers: int, make: Callable[[], Any]) -> None:
        self._make = make
        self._workers: list[_Worker | None] = [None] * workers

    def run(self, take: Callable[[], AnyJob | None]) -> Iterator[Event[AnyJob]]:
        """Have jobs done until there are none.

        Args:
            take: gives the next job, or None where there is none now; it is asked again after
                each event, so that what is done with an event may bring new jobs.

        Raises:
            RuntimeError: a job raised something that is none of the project's errors.
        """
        while True:
            self._hand_out(take)
            busy = {w.connection: w for w in self._workers if w is not None and w.job is not None}
            if not busy:
                return
            for connection in wait(list(busy)):
                yield self._hear(busy[connection])  # type: ignore[index]

    def close(self, at_once: bool = True) -> None:
        """End all workers; without ``at_once`` those that have no work may end by themselves."""
        for worker in filter(None, self._workers):
            worker.connection.close()
            if at_once:
                worker.process.kill()
        for worker in filter(None, self._workers):
            worker.process.join(_PATIENCE)
            if worker.process.exitcode is None:
                worker.process.kill()
                worker.process.join()
        self._workers = [None] * len(self._workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(at_once=kind is not None)

    def _hand_out(self, take: Callable[[], AnyJob | None]) -> None:
        for place, worker in enumerate(self._workers):
            if worker is not None and worker.job is not None:
                continue
            job = take()
            if job is None:
                return
            if worker is None or not worker.process.is_alive():
                worker = self._workers[place] = _Worker(self._make)
            worker.give(job)

    def _hear(self, worker: _Worker) -> Event[Any]:
        job = worker.job
        try:
            kind, value = worker.connection.recv()
        except (EOFError, OSError):
            self._workers[self._workers.index(worker)] = None
            return Died(job, worker.end())
        if kind == "told":
            return Told(job, value)
        worker.job = None
        if kind == "failed":
            return Failed(job, value)
        if kind == "crashed":
            raise RuntimeError(f"a worker process met what it did not expect\n{value}")
        return Finished(job)


class _Worker:
    """One process and the line to it."""

    def __init__(self, make: Callable[[], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_work, args=(theirs, make), daemon=True)
        with _environment(ONE_THREAD):
            self.process.start()
        theirs.close()  # the line is to end when the worker does
        self.job: Any = None

    def give(self, job: Any) -> None:
        self.job = job
        with suppress(ConnectionError):  # it died just now: heard where it is listened to
            self.connection.send(job)

    def end(self) -> str:
        """Why the process is gone."""
        self.connection.close()
        self.process.join()
        code = self.process.exitcode or 0
        if code >= 0:
            return f"it ended with status {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        memory = ", as when memory is short" if name == "SIGKILL" else ""
        return f"it was ended by {name}{memory}"


def _work(connection: Connection, make: Callable[[], Any]) -> None:
    """What a worker process does all its life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    bench = None
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        try:
            bench = make() if bench is None else bench
            for value in job(bench):
                connection.send(("told", value))
        except RobustPrefixError as error:
            connection.send(("failed", error))
        except Exception:
            connection.send(("crashed", traceback.format_exc()))
        else:
            connection.send(("finished", None))


def _end_with_parent() -> None:
    """End this process the moment the one that started it does, busy or not."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
    os._exit(1)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Have these variables for what is started inside."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
