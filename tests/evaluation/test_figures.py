"""Numbers to coordinates."""

from __future__ import annotations

import itertools
import math
import re

import pytest
from evaluation_fakes import DEFENSE, manifest, record

from robust_prefix.evaluation import summarize
from robust_prefix.evaluation.curves import QueryCurve
from robust_prefix.evaluation.report.figures import curve_panel, scatter_points, share

CURVE = QueryCurve(n=10, examples=10, queries=(0, 9), held=(10, 4), most=99)


def test_a_curve_steps_down_on_a_logarithm() -> None:
    panel = curve_panel("p", [("defense", "d", CURVE)])
    (line,) = panel.lines
    # log(1 + 9) is half of log(1 + 99)
    assert line.path == "M0.00 0.00H50.00V60.00H100"
    assert line.fall == "100.0% to 40.0%"
    assert line.words == "100.0% at 0, 40.0% at 9, 40.0% at 99"
    assert (panel.ticks[0].place, panel.ticks[0].label) == ("0.00", "0")
    assert [tick.label for tick in panel.ticks] == ["0", "1", "5", "10", "20", "50", "99"]


def test_ticks_keep_their_distance() -> None:
    curve = QueryCurve(n=1, examples=1, queries=(0,), held=(1,), most=10**6)
    places = [float(tick.place) for tick in curve_panel("p", [("defense", "d", curve)]).ticks]
    assert all(b - a >= 9 for a, b in itertools.pairwise(places))
    assert len(places) > 5
    assert places[-1] == 100.0  # the most that was asked is told in any case


def test_a_band_lies_around_its_curve() -> None:
    lines = curve_panel("p", [("undefended", "u", CURVE), ("defense", "d", CURVE)]).lines
    assert lines[0].band == ""
    points = re.findall(r"([\d.]+) ([\d.]+)", lines[1].band)
    upper, lower = points[: len(points) // 2], points[len(points) // 2 :]
    for (x, high), (same, low) in zip(upper, reversed(lower), strict=True):
        assert x == same
        budget = math.expm1(float(x) / 100 * math.log1p(99))
        assert float(high) <= 100 - 100 * CURVE.at(round(budget)) <= float(low)
    assert float(upper[-1][0]) == 100.0


def test_nothing_asked_is_a_flat_line() -> None:
    curve = QueryCurve(n=4, examples=4, queries=(0,), held=(2,), most=0)
    panel = curve_panel("p", [("undefended", "u", curve)])
    assert panel.lines[0].path == "M0.00 50.00H100"
    assert [tick.label for tick in panel.ticks] == ["0"]


def test_a_point_is_replay_across_and_direct_up() -> None:
    records = [
        record(
            example=example,
            defense=DEFENSE,
            role="defense",
            protocol=protocol,
            outcome="failed" if example < held else "succeeded",
            adversarial=None if example < held else ("x",),
        )
        for protocol, held in (("replay", 3), ("direct", 1))
        for example in range(4)
    ]
    summary = summarize(records, manifest(n=4))
    replay, direct = summary.row(DEFENSE, "replay"), summary.row(DEFENSE, "direct")
    (point,) = scatter_points([("thesaurus", replay, direct)])
    assert (point.number, point.role, point.x, point.y) == (1, "defense", "75.00", "75.00")
    assert point.words == "75.0% replayed, 25.0% attacked directly"
    assert float(point.across[0]) < 75 < float(point.across[1])
    assert float(point.along[0]) > 75 > float(point.along[1])  # the axis points down


@pytest.mark.parametrize(("value", "told"), [(None, "0.00"), (0.5, "50.00"), (1 / 3, "33.33")])
def test_share(value: float | None, told: str) -> None:
    assert share(value) == told
