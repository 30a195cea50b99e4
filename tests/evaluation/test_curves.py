"""Accuracy against queries: the last point of the curve is the robust accuracy of the table."""

from __future__ import annotations

import itertools

import pytest
from evaluation_fakes import record
from hypothesis import given
from hypothesis import strategies as st

from robust_prefix.evaluation import Record
from robust_prefix.evaluation.curves import QueryCurve, query_curve, round_budgets

NUMBER = itertools.count()


def direct(outcome: str, queries: int = 0, **changes: object) -> Record:
    values = {"outcome": outcome, "queries": queries, "example": next(NUMBER)}
    if outcome != "succeeded":
        values["adversarial"] = None
    return record(**(values | changes))


def test_each_adversary_is_a_step() -> None:
    curve = query_curve(
        [
            direct("succeeded", 12),
            direct("succeeded", 3),
            direct("succeeded", 12),
            direct("failed", 40),
            direct("skipped"),
            direct("error", 7),
        ]
    )
    assert curve == QueryCurve(n=6, examples=6, queries=(0, 3, 12), held=(4, 3, 1), most=40)
    assert [curve.at(budget) for budget in (0, 2, 3, 11, 12, 1000)] == [
        pytest.approx(held / 6) for held in (4, 4, 3, 3, 1, 1)
    ]


def test_a_claim_that_failed_verification_fell() -> None:
    curve = query_curve([direct("failed", 5, adversarial=("a okay film",)), direct("failed", 9)])
    assert curve == QueryCurve(n=2, examples=2, queries=(0, 5), held=(2, 1), most=9)


def test_an_adversary_for_free() -> None:
    curve = query_curve([direct("succeeded", 0)])
    assert curve == QueryCurve(n=1, examples=1, queries=(0,), held=(0,), most=0)
    assert curve.to_dict()["band"] == [[0, 0.0, 0.7935]]


def test_a_replay_has_no_curve() -> None:
    assert query_curve([direct("succeeded", protocol="replay")]) is None
    assert query_curve([]) is None


def test_all_wrong_before() -> None:
    curve = query_curve([direct("skipped"), direct("error")])
    assert curve == QueryCurve(n=2, examples=2, queries=(0,), held=(0,), most=0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["succeeded", "failed", "skipped", "error"]), st.integers(0, 300)
        ),
        min_size=1,
    )
)
def test_it_falls_to_the_robust_accuracy(drawn: list[tuple[str, int]]) -> None:
    records = [direct(outcome, queries) for outcome, queries in drawn]
    curve = query_curve(records)
    assert curve is not None
    assert list(curve.held) == sorted(curve.held, reverse=True)
    assert list(curve.queries) == sorted(set(curve.queries))
    assert curve.at(10**9) == sum(r.held for r in records) / len(records)
    for budget in (0, 1, 20, 150):
        fallen = sum(r.outcome == "succeeded" and r.queries <= budget for r in records)
        attacked = sum(r.attacked for r in records)
        assert curve.at(budget) == pytest.approx((attacked - fallen) / len(records))


@pytest.mark.parametrize(
    ("most", "budgets"),
    [(0, [0]), (1, [0, 1]), (7, [0, 1, 2, 5, 7]), (100, [0, 1, 2, 5, 10, 20, 50, 100])],
)
def test_round_budgets(most: int, budgets: list[int]) -> None:
    assert round_budgets(most) == budgets


def test_seeds_of_a_control_are_averaged_and_not_taken_for_more_examples() -> None:
    seeds = [direct("succeeded", 5, example=1, defense=f"random-prefix(seed={s})") for s in (0, 1)]
    seeds += [direct("failed", 9, example=2, defense=f"random-prefix(seed={s})") for s in (0, 1)]
    curve = query_curve(seeds)
    assert curve == QueryCurve(n=4, examples=2, queries=(0, 5), held=(4, 2), most=9)
    assert (curve.at(4), curve.at(5), curve.band) == (1.0, 0.5, [])
