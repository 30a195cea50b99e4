"""Progress with time left: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import logging
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

logger = logging.getLogger(__name__)

Advance = Callable[[int, str], None]
"""Called with the number of steps done in all and a short note."""

_LOG_EVERY_SECONDS = 30.0


@contextmanager
def progress(description: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Show how far a long piece of work is, on stderr.

    Args:
        total: steps in all.
        done: steps that a resumed run need not do again; they do not count for the time left.
    """
    console = Console(file=sys.stderr)
    if console.is_terminal and multiprocessing.parent_process() is None:  # one screen, one bar
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        ) as bar:
            task = bar.add_task(description, total=total, completed=done, note="")
            yield lambda completed, note: bar.update(task, completed=completed, note=note)
        return
    start = last = time.monotonic()

    def advance(completed: int, note: str) -> None:
        nonlocal last
        now = time.monotonic()
        if completed < total and now - last < _LOG_EVERY_SECONDS:
            return
        last = now
        left = (now - start) / max(1, completed - done) * (total - completed)
        logger.info("%s %d/%d, %.0f s left %s", description, completed, total, left, note)

    yield advance
