"""What certificates come to, and whether attacks were held against them."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from typing import Any

import pytest

from robust_prefix.certification import Certificate
from robust_prefix.evaluation.certified import (
    Certified,
    certificates_csv,
    certified_shares,
    listed_substitutions,
    median_radius,
    summarize,
    tried,
    words_substituted,
)
from robust_prefix.evaluation.protocols import Example
from robust_prefix.evaluation.records import Record
from robust_prefix.tasks import Fields


def row(index: int, answer: int | None, radius: int, label: int = 1) -> Certified:
    example = Example(index, (f"text number {index} , here",), label)
    return Certified(example, Certificate(answer, radius, 5, 0.9))


ROWS = [row(0, 1, 3), row(1, 1, 1), row(2, 0, 2), row(3, None, 0), row(4, 1, 0)]


def test_what_is_certified_at_each_number_of_words() -> None:
    shares = certified_shares(ROWS)
    assert [share.words for share in shares] == [0, 1, 2, 3]
    assert [share.certified.value for share in shares] == [0.8, 0.6, 0.4, 0.2]
    assert [share.accuracy.value for share in shares] == [0.6, 0.4, 0.2, 0.2]
    assert all(s.accuracy.low <= (s.accuracy.value or 0) <= s.accuracy.high for s in shares)


def test_a_text_without_words_has_no_share_of_them() -> None:
    """Such as ``10/10``, whose answer is certain whatever stands for its words."""
    empty = Certified(Example(0, ("10/10",), 1), Certificate(1, 0, 0, 1.0))
    assert summarize([empty])["median_share_of_words"] is None
    assert summarize([empty, row(1, 1, 1)])["median_share_of_words"] == 0.2


@pytest.mark.parametrize(
    ("changed", "count"),
    [
        pytest.param("A good film, well made", 0, id="case alone"),
        pytest.param("a great film, well made", 1, id="one"),
        pytest.param("a fine movie, well made", 2, id="two"),
        pytest.param("a superb film, well made", None, id="not listed"),
        pytest.param("a good film, well-made", None, id="joined"),
        pytest.param("a good film; well made", None, id="punctuation"),
        pytest.param("a good film, well made indeed", None, id="added"),
    ],
)
def test_listed_substitutions(changed: str, count: int | None) -> None:
    near = {"good": ["Great", "fine"], "film": ["movie"]}
    found = listed_substitutions(
        ("premise", "a good film, well made"), ("premise", changed), lambda w: near.get(w, []), 1
    )
    assert found == count
    assert listed_substitutions(("a", "b"), ("c", "b"), lambda w: ["c"], 1) is None


@pytest.mark.parametrize(
    ("radii", "median"),
    [
        pytest.param([3, 1, 0, 0], 1, id="half of an even number"),
        pytest.param([3, 1, 0], 1, id="the middle of an odd one"),
        pytest.param([2, -1, -1], None, id="most are wrong"),
        pytest.param([2, 2, -1], 2, id="wrong ones count as least"),
        pytest.param([], None, id="none"),
    ],
)
def test_the_median_radius_is_that_half_of_the_texts_outlast(
    radii: list[int], median: int | None
) -> None:
    rows = [
        row(place, 1 if radius >= 0 else 0, max(0, radius)) for place, radius in enumerate(radii)
    ]
    assert median_radius(rows) == median


def test_the_summary_counts_wrong_and_abstaining_answers_as_not_certified() -> None:
    found = summarize(ROWS)
    assert (found["n"], found["abstained"], found["median_radius"]) == (5, 1, 0)
    assert found["clean_accuracy"] == found["certified"][0]["accuracy"]
    assert found["median_share_of_words"] == pytest.approx(0.2)
    assert json.loads(json.dumps(found)) == found


def test_certificates_are_a_row_a_text() -> None:
    rows = list(csv.DictReader(io.StringIO(certificates_csv(ROWS, ("bad", "good")))))
    assert [each["prediction"] for each in rows] == ["good", "good", "bad", "", "good"]
    assert [each["radius"] for each in rows] == ["3", "1", "2", "", "0"]
    assert [each["correct"] for each in rows] == ["true", "true", "false", "false", "true"]
    assert json.loads(rows[1]["original"]) == ["text number 1 , here"]


@pytest.mark.parametrize(
    ("original", "changed", "first_column", "expected"),
    [
        pytest.param(("a b c",), ("a x c",), 0, 1, id="one"),
        pytest.param(("a b c",), ("a  b\tc",), 0, 0, id="white space is no word"),
        pytest.param(("a b c",), ("a b",), 0, None, id="one less"),
        pytest.param(("a b", "c"), ("a", "b c"), 0, None, id="another column"),
        pytest.param(("a b", "c d"), ("x b", "c y"), 0, 2, id="two columns"),
        pytest.param(("a b", "c d"), ("x b", "c y"), 1, None, id="a column that must stay"),
        pytest.param(("a b", "c d"), ("a b", "c y"), 1, 1, id="the last column"),
    ],
)
def test_words_substituted(
    original: Fields, changed: Fields, first_column: int, expected: int | None
) -> None:
    assert words_substituted(original, changed, first_column) == expected


RECORD = Record(
    task="t",
    model="m",
    prefix="p",
    attack="a",
    defense="masked-vote",
    role="defense",
    dynamic=False,
    protocol="direct",
    example=0,
    seed=0,
    label=1,
    original=ROWS[0].example.fields,
    adversarial=("text x 0 , y",),
    prediction_original=1,
    prediction_adversarial=0,
    margin_original=1.0,
    margin_adversarial=-1.0,
    queries=9,
    model_queries=9,
    forward_passes=9.0,
    backward_passes=0.0,
    seconds=1.0,
    outcome="succeeded",
)


@pytest.mark.parametrize(
    ("change", "attacked", "inside", "broken"),
    [
        pytest.param({}, 1, 1, 1, id="two words changed of three allowed"),
        pytest.param({"prediction_adversarial": 1}, 1, 1, 0, id="it held"),
        pytest.param({"adversarial": ("p q r s here",)}, 1, 0, 0, id="too many words"),
        pytest.param({"adversarial": ("text number 0 here",)}, 1, 0, 0, id="a word less"),
        pytest.param({"adversarial": None, "outcome": "failed"}, 1, 0, 0, id="no adversary"),
        pytest.param(
            {"adversarial": None, "outcome": "failed", "protocol": "replay"},
            *(0, 0, 0),
            id="nothing to replay",
        ),
        pytest.param({"example": 7}, 0, 0, 0, id="another text"),
        pytest.param({"original": ("text number 0 , there",)}, 0, 0, 0, id="another data set"),
        pytest.param({"example": 3, "original": ROWS[3].example.fields}, 0, 0, 0, id="abstained"),
        pytest.param({"outcome": "skipped"}, 0, 1, 1, id="wrong before"),
    ],
)
def test_adversaries_are_held_against_certificates(
    change: dict[str, Any], attacked: int, inside: int, broken: int
) -> None:
    record = dataclasses.replace(RECORD, **change)
    found = tried(ROWS, [record])
    assert (found.attacked, found.inside, len(found.broken)) == (attacked, inside, broken)
