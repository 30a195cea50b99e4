"""Processes: whether they are still there, and a pool that does without."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from robust_prefix.errors import RobustPrefixError
from robust_prefix.evaluation.pool import Died, Event, Failed, Finished, Told


def state(pid: int) -> str:
    """The system's letter for what a process does, ``T`` for stopped; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be buried does not."""
    return state(pid) not in ("", "Z")


def gone_soon(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


class Death(BaseException):
    """The process of a worker ends here."""


class InlinePool:
    """In the place of ``Pool``: its workers are generators that take turns in a random order."""

    started = 0

    def __init__(self, workers: int, make: Callable[[], Any]) -> None:
        self._make = make
        self._benches: list[Any] = [None] * workers
        self._random = random.Random(workers)

    def run(self, take: Callable[[], Any]) -> Iterator[Event[Any]]:
        busy: dict[int, tuple[Any, Iterator[Any]]] = {}
        while True:
            for place in range(len(self._benches)):
                if place not in busy and (job := take()) is not None:
                    busy[place] = (job, self._work(place, job))
            if not busy:
                return
            place = self._random.choice(list(busy))
            job, events = busy[place]
            event = next(events)
            if not isinstance(event, Told):
                del busy[place]
            yield event

    def _work(self, place: int, job: Any) -> Iterator[Event[Any]]:
        try:
            bench = self._benches[place]
            if bench is None:
                InlinePool.started += 1
                bench = self._benches[place] = self._make()
            for value in job(bench):
                yield Told(job, value)
        except Death as death:
            self._benches[place] = None
            yield Died(job, str(death))
        except RobustPrefixError as error:
            yield Failed(job, error)
        else:
            yield Finished(job)

    def close(self, at_once: bool = True) -> None:
        self._benches = [None] * len(self._benches)

    def __enter__(self) -> InlinePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
