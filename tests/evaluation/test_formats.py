"""Numbers as people read them."""

from __future__ import annotations

import pytest

from robust_prefix.evaluation.formats import factor


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (0.04, "0.0x"),
        (5.24, "5.2x"),
        (99.94, "99.9x"),
        (418.4, "418x"),
        (9_999.4, "9999x"),
        (10_000, "1e4x"),
        (1_986_183_510_396.0, "2e12x"),
    ],
)
def test_how_many_times_as_much(value: float | None, shown: str) -> None:
    assert factor(value) == shown
