"""Measurements as data: rows in JSON with every round, and in CSV with their medians."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robust_prefix.files import write_json, write_text
from robust_prefix.progress import progress
from timing.interleave import Contestant, Spread, Timings, interleave, runs

COLUMNS = (
    "part",
    "setting",
    "contestant",
    "baseline",
    "rounds",
    "ratio",
    "ratio_p10",
    "ratio_p90",
    "ratio_low",
    "ratio_high",
    "seconds",
    "seconds_p10",
    "seconds_p90",
    "items",
    "items_per_second",
    "peak_bytes",
)


@dataclass(frozen=True)
class Row:
    """One contestant in one setting, beside the baseline that ran in the same rounds.

    Attributes:
        part: which of the questions it belongs to.
        setting: what was held fixed, by name.
        seconds, baseline_seconds: one number a round.
        items: texts, queries, examples or rows of each round.
        peak_bytes: memory above what the process held before, one number a round; empty where it
            was not measured.
    """

    part: str
    setting: Mapping[str, int]
    contestant: str
    baseline: str
    seconds: Sequence[float]
    baseline_seconds: Sequence[float]
    items: Sequence[int]
    peak_bytes: Sequence[int] = field(default=())

    @property
    def ratio(self) -> Spread:
        """How many times as long as the baseline, round by round."""
        return self.timings.ratio("own", "baseline")

    @property
    def timings(self) -> Timings:
        """Its seconds as ``own`` and those of the baseline as ``baseline``."""
        return Timings({"own": self.seconds, "baseline": self.baseline_seconds})

    @property
    def per_second(self) -> float:
        """Items a second over all rounds."""
        return sum(self.items) / sum(self.seconds)

    @property
    def peak(self) -> int | None:
        """The largest of the peaks."""
        return max(self.peak_bytes, default=None)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, every round among them."""
        return {
            **dataclasses.asdict(self),
            "ratio": dataclasses.asdict(self.ratio),
            "items_per_second": self.per_second,
        }

    def to_csv(self) -> dict[str, Any]:
        """One cell for each of ``COLUMNS``."""
        ratio, seconds = self.ratio, self.timings.spread("own")
        return {
            "part": self.part,
            "setting": " ".join(f"{name}={value}" for name, value in self.setting.items()),
            "contestant": self.contestant,
            "baseline": self.baseline,
            "rounds": len(self.seconds),
            "ratio": f"{ratio.median:.4g}",
            "ratio_p10": f"{ratio.p10:.4g}",
            "ratio_p90": f"{ratio.p90:.4g}",
            "ratio_low": f"{ratio.low:.4g}",
            "ratio_high": f"{ratio.high:.4g}",
            "seconds": f"{seconds.median:.4g}",
            "seconds_p10": f"{seconds.p10:.4g}",
            "seconds_p90": f"{seconds.p90:.4g}",
            "items": sum(self.items),
            "items_per_second": f"{self.per_second:.4g}",
            "peak_bytes": "" if self.peak is None else self.peak,
        }


@dataclass(frozen=True)
class Plan:
    """How often to measure.

    Attributes:
        rounds: of each contest.
        seed: of the orders and the texts.
        warmup: rounds beforehand, which do not count.
    """

    rounds: int
    seed: int
    warmup: int = 1


RunContest = Callable[[Mapping[str, int], Mapping[str, Contestant], str, Sequence[int]], list[Row]]
"""Runs one contest: its setting, who takes part, the baseline, and the items of each round."""


@contextmanager
def contests(part: str, settings: int, contestants: int, plan: Plan) -> Iterator[RunContest]:
    """Show the progress of the contests of one part.

    Args:
        settings: how many there will be.
        contestants: in each.
    """
    total = settings * runs(contestants, plan.rounds, plan.warmup)
    done = 0
    with progress(part, total) as advance:

        def step(name: str) -> None:
            nonlocal done
            done += 1
            advance(done, name)

        def run(
            setting: Mapping[str, int],
            entered: Mapping[str, Contestant],
            baseline: str,
            items: Sequence[int],
        ) -> list[Row]:
            timings = interleave(entered, plan.rounds, plan.seed, plan.warmup, step)
            seconds = timings.seconds
            return [
                Row(part, dict(setting), name, baseline, seconds[name], seconds[baseline], items)
                for name in entered
            ]

        yield run


def find(rows: Sequence[Row], part: str, contestant: str, **setting: int) -> Row | None:
    """The first row of that part, contestant and setting; None where it was not measured."""
    for row in rows:
        if (row.part, row.contestant) == (part, contestant) and all(
            row.setting.get(name) == value for name, value in setting.items()
        ):
            return row
    return None


def write_results(out: Path, document: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write ``speed.json`` and ``speed.csv``.

    Raises:
        StorageError: writing failed.
    """
    write_json(out / "speed.json", {**document, "rows": [row.to_dict() for row in rows]})
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.to_csv() for row in rows)
    write_text(out / "speed.csv", text.getvalue())
