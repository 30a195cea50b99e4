"""Workers: what they tell, how they end, and that nobody outlives anybody it should not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from pool_jobs import Die, Refuse, Say, Wait, make_nothing, make_shelf

from robust_prefix.errors import ConfigError
from robust_prefix.evaluation.pool import Died, Failed, Finished, Pool, Told

from ..processes import alive, gone_soon

HERE = Path(__file__).parent


def from_list(jobs: Iterable[Any]) -> Callable[[], Any]:
    left = deque(jobs)
    return lambda: left.popleft() if left else None


def test_every_job_tells_what_it_has_to_and_ends() -> None:
    jobs = [Say((str(number), "x")) for number in range(5)]
    told: dict[Any, list[Any]] = {job: [] for job in jobs}
    with Pool(2, make_shelf) as pool:
        for event in pool.run(from_list(jobs)):
            if isinstance(event, Told):
                told[event.job].append(event.value)
            else:
                assert isinstance(event, Finished)
                assert len(told[event.job]) == 3
        assert list(pool.run(from_list([]))) == []
    for number, job in enumerate(jobs):
        assert told[job][:2] == [str(number), "x"]
        assert told[job][2][2] == "1"  # one thread
    seen = sorted((pid, count) for values in told.values() for pid, count, _ in values[2:])
    pids = {pid for pid, _ in seen}
    assert 1 <= len(pids) <= 2
    assert os.getpid() not in pids
    # a bench is made once a worker
    assert [count for pid in sorted(pids) for p, count in seen if p == pid] == [
        count for pid in sorted(pids) for count in range(1, 1 + sum(p == pid for p, _ in seen))
    ]
    assert all(map(gone_soon, pids))


def test_what_is_done_with_an_event_may_bring_new_jobs() -> None:
    left = deque([Say(("first",))])
    heard = []
    with Pool(1, make_shelf) as pool:
        for event in pool.run(lambda: left.popleft() if left else None):
            if isinstance(event, Told):
                heard.append(event.value)
            elif len(heard) < 6:
                left.append(Say(("next",)))
    assert [value for value in heard if isinstance(value, str)] == ["first", "next", "next"]


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGKILL, "it was ended by SIGKILL, as when memory is short"),
        (signal.SIGSEGV, "it was ended by SIGSEGV"),
        (None, "it ended with status 3"),
    ],
    ids=["killed", "segfault", "exit"],
)
def test_a_death_is_heard_and_another_takes_the_place(number: int | None, reason: str) -> None:
    with Pool(1, make_shelf) as pool:
        events = list(pool.run(from_list([Die(number), Say(("after",))])))
    assert events[:2] == [Told(Die(number), "farewell"), Died(Die(number), reason)]
    assert events[2] == Told(Say(("after",)), "after")
    assert isinstance(events[-1], Finished)


def test_errors_of_ours_are_events_and_any_other_is_raised() -> None:
    job = Refuse(ConfigError("expected this, got that"))
    with Pool(1, make_shelf) as pool:
        events = list(pool.run(from_list([job, Say(())])))
        assert isinstance(events[1], Failed)
        assert isinstance(events[1].error, ConfigError)
        assert str(events[1].error) == "expected this, got that"
        assert isinstance(events[-1], Finished)  # by the same worker
        with pytest.raises(RuntimeError, match="KeyError: 'lost'"):
            list(pool.run(from_list([Refuse(KeyError("lost"))])))


def test_a_bench_that_cannot_be_made_fails_the_job() -> None:
    with Pool(1, make_nothing) as pool:
        (event,) = pool.run(from_list([Say(())]))
    assert isinstance(event, Failed)
    assert "expected a shelf" in str(event.error)


def test_workers_end_with_the_pool_though_they_are_busy() -> None:
    pool = Pool(1, make_shelf)
    event = next(pool.run(from_list([Wait()])))
    assert isinstance(event, Told)
    assert alive(event.value)
    pool.close()
    assert gone_soon(event.value)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent_though_they_are_busy(number: int) -> None:
    code = """
        from pool_jobs import Wait, make_shelf
        from robust_prefix.evaluation.pool import Pool, Told
        jobs = [Wait(), Wait()]
        for event in Pool(2, make_shelf).run(lambda: jobs.pop() if jobs else None):
            print(event.value, flush=True)
    """
    paths = os.pathsep.join([str(HERE.parents[1]), str(HERE)])
    parent = subprocess.Popen(
        [sys.executable, "-c", "\n".join(line[8:] for line in code.splitlines())],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    with parent:
        pids = [int(parent.stdout.readline()) for _ in range(2)]
        assert all(map(alive, pids))
        parent.send_signal(number)
        assert parent.wait(20) == -number
        assert all(map(gone_soon, pids))
