"""Names short enough for a table that still tell their specs apart."""

from __future__ import annotations

import pytest

from robust_prefix.evaluation.names import distinct_names, short_name


@pytest.mark.parametrize(
    ("spec", "short"),
    [
        ("none", "none"),
        ("a(x=1)", "a"),
        ("a(x=1)+b(y=2, z=3)", "a+b"),
        ("file:/x/y.csv", "file:/x/y.csv"),
    ],
)
def test_short_name(spec: str, short: str) -> None:
    assert short_name(spec) == short


@pytest.mark.parametrize(
    ("specs", "names"),
    [
        pytest.param(["a(x=1)", "b(x=1)"], ["a", "b"], id="different"),
        pytest.param(["a(x=1, y=1)", "a(x=2, y=1)"], ["a(x=1)", "a(x=2)"], id="one-setting"),
        pytest.param(["a(x=1, y=1)", "a(x=2, y=2)"], ["a(x=1, y=1)", "a(x=2, y=2)"], id="two"),
        pytest.param(["a", "a(x=2)"], ["a", "a(x=2)"], id="none-and-one"),
        pytest.param(
            ["v(n=1)+a(x=1)", "v(n=1)+a(x=2)"], ["v+a(x=1)", "v+a(x=2)"], id="composition"
        ),
        pytest.param(["a(x=1)", "a(x=1)"], ["a", "a"], id="the-same"),
        pytest.param(["<b>(1)", "<b>(2)"], ["<b>(1)", "<b>(2)"], id="no-specs"),
    ],
)
def test_distinct_names(specs: list[str], names: list[str]) -> None:
    found = distinct_names(specs)
    assert [found[spec] for spec in specs] == names
