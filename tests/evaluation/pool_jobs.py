"""Jobs for the worker processes of the tests; they import this module by its name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

from robust_prefix.errors import ConfigError


@dataclass
class Shelf:
    """A bench that remembers how many jobs it has seen."""

    seen: int = 0


def make_shelf() -> Shelf:
    return Shelf()


def make_nothing() -> Shelf:
    raise ConfigError("expected a shelf, got none")


@dataclass(frozen=True)
class Say:
    """Tells its words, who says them and with how many threads."""

    words: tuple[str, ...]

    def __call__(self, shelf: Shelf) -> Iterator[object]:
        shelf.seen += 1
        yield from self.words
        yield os.getpid(), shelf.seen, os.environ["OMP_NUM_THREADS"]


@dataclass(frozen=True)
class Die:
    """Says something and is gone, unless the file is there; then it is well."""

    signal: int | None = None
    unless: str = ""

    def __call__(self, shelf: Shelf) -> Iterator[object]:
        yield "farewell"
        if self.unless and os.path.exists(self.unless):
            return
        if self.unless:
            open(self.unless, "w").close()
        if self.signal is None:
            os._exit(3)
        os.kill(os.getpid(), self.signal)
        time.sleep(60)


@dataclass(frozen=True)
class Refuse:
    """Raises."""

    error: Exception

    def __call__(self, shelf: Shelf) -> Iterator[object]:
        yield "well"
        raise self.error


@dataclass(frozen=True)
class Wait:
    """Says its process and stays busy without listening to anyone."""

    def __call__(self, shelf: Shelf) -> Iterator[object]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        yield os.getpid()
        end = time.monotonic() + 60
        while time.monotonic() < end:
            pass
