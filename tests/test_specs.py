"""Names with settings: what is parsed, what is refused, and that printing is the inverse."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robust_prefix.errors import ConfigError, RobustPrefixError
from robust_prefix.specs import (
    Spec,
    build_config,
    parse_composition,
    parse_spec,
    split_specs,
    without_settings,
)

names = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,12}", fullmatch=True)
keys = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
values = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
specs = st.builds(Spec, names, st.dictionaries(keys, values, max_size=4))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", Spec("none")),
        (" none ", Spec("none")),
        ("none()", Spec("none")),
        ("none( )", Spec("none")),
        ("robust-prefix(steps=5)", Spec("robust-prefix", {"steps": "5"})),
        ("a.b_c-d( x = 1 ,y=two words)", Spec("a.b_c-d", {"x": "1", "y": "two words"})),
        ("a(x=1e-3,y=a=b)", Spec("a", {"x": "1e-3", "y": "a=b"})),
        ('a(x="one, (two)", y = "" )', Spec("a", {"x": "one, (two)", "y": ""})),
        (r'a(x=" \"so\" \u00e9\n")', Spec("a", {"x": ' "so" \u00e9\n'})),
        ('a(x="+1\n2")', Spec("a", {"x": "+1\n2"})),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_specs_are_parsed(text: str, expected: Spec) -> None:
    assert parse_spec(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "(x=1)",
        "1a",
        "a(",
        "a)",
        "a(x=1",
        "a(x=1))",
        "a(x=(1))",
        "a(x)",
        "a(x=)",
        "a(=1)",
        "a(x y=1)",
        "a(x=1,)",
        "a(x=1, x=2)",
        'a(x="1)',
        'a(x=1")',
        'a(x="1" 2)',
        'a("x"=1)',
        r'a(x="\q")',
        "a b",
        "a+b",
    ],
)
def test_what_is_not_a_spec_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected") as caught:
        parse_spec(text)
    assert repr(text) in str(caught.value)


def test_compositions_keep_their_order_and_a_plus_inside_a_setting() -> None:
    parts = parse_composition("normalize + masked-vote(copies=8, join=a+b)+none")
    assert parts == [
        Spec("normalize"),
        Spec("masked-vote", {"copies": "8", "join": "a+b"}),
        Spec("none"),
    ]


@given(specs)
def test_printing_is_the_inverse_of_parsing(spec: Spec) -> None:
    assert parse_spec(str(spec)) == spec


@given(st.lists(specs, min_size=1, max_size=3))
def test_whatever_their_values_hold_several_come_apart(several: list[Spec]) -> None:
    assert [parse_spec(part) for part in split_specs(", ".join(map(str, several)), ",")] == several
    assert without_settings("+".join(map(str, several))) == "+".join(spec.name for spec in several)


@given(st.lists(specs, min_size=1, max_size=4))
def test_a_composition_is_its_parts(parts: list[Spec]) -> None:
    assert parse_composition("+".join(map(str, parts))) == parts


@given(st.text(st.sampled_from("ab1-_.+()=, \n"), max_size=20))
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        parts = parse_composition(text)
    except ConfigError:
        return
    assert parse_composition("+".join(map(str, parts))) == parts


@dataclass(frozen=True)
class Settings:
    flag: bool = True
    steps: int = 10
    rate: float = 0.1
    name: str = "a"


def test_settings_given_as_text_become_their_types() -> None:
    asked = {"flag": "false", "steps": "3", "rate": "1e-3", "name": "__import__('os')"}
    built = build_config(Settings, asked, "x")
    assert built == Settings(flag=False, steps=3, rate=0.001, name="__import__('os')")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step": "3"}, "expected a known setting of x .*got 'step'; did you mean 'steps'?"),
        ({"steps": "3.5"}, "expected a valid steps for x, got '3.5'"),
        ({"steps": "1 + 1"}, "expected a valid steps for x, got '1 \\+ 1'"),
        ({"flag": "maybe"}, "expected a valid flag for x, got 'maybe'"),
    ],
    ids=["unknown", "fraction", "expression", "flag"],
)
def test_settings_that_do_not_fit_are_named(settings: dict[str, str], message: str) -> None:
    with pytest.raises(RobustPrefixError) as caught:
        build_config(Settings, settings, "x")
    assert re.match(message, str(caught.value))
