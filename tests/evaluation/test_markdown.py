"""The summary as Markdown: the numbers of the table, and no mark-up from a name."""

from __future__ import annotations

import re

import pytest
from evaluation_fakes import CONTROL, DEFENSE, manifest, record
from pages import HOSTILE

from robust_prefix.evaluation import Results, summarize
from robust_prefix.evaluation.markdown import escape, render_markdown


def run_of(defense: str = DEFENSE, **changes: object) -> Results:
    systems = (("none", "undefended"), (defense, "defense"), (CONTROL, "control"))
    found = manifest(
        **(
            {
                "n": 4,
                "defenses": (defense,),
                "controls": {defense: (CONTROL,)},
                "protocols": ("direct",),
            }
            | changes
        )
    )
    records = [
        record(
            attack=found.attack,
            defense=spec,
            role=role,
            example=example,
            outcome="succeeded" if example < 2 else "failed",
            adversarial=("a okay film",) if example < 2 else None,
        )
        for spec, role in systems
        for example in range(4)
    ]
    return Results(found, tuple(records), summarize(records, found))


def tables(text: str) -> list[list[list[str]]]:
    """Every table as rows of cells."""
    found = re.findall(r"(?:^\|.*\|\n?)+", text, flags=re.MULTILINE)
    return [[line.strip("| ").split(" | ") for line in table.splitlines()] for table in found]


def test_one_cell() -> None:
    text = render_markdown([run_of()], {})
    accuracy, costs = tables(text)
    assert accuracy[0][:3] == ["system", "clean", "robust"]
    assert accuracy[2:] == [
        [name, "100.0%", "50.0%", "15.0 to 85.0", "50.0%", "3", "1.0"]
        for name in ("undefended", "thesaurus", "control: random-prefix")
    ]
    assert costs[2] == ["undefended", "5", "5", "-", "-", "-", "1.0x"]
    assert "**thesaurus cannot be told apart from random noise of the same norm.**" in text
    assert "- **small n: 4 examples**" in text
    assert all(len(set(map(len, table))) == 1 for table in tables(text))


def test_several_cells_begin_with_the_matrix() -> None:
    text = render_markdown([run_of(), run_of(attack="pwws")], {"reviews bae": "got none"})
    matrix, *_ = tables(text)
    assert matrix[0] == ["attack", "undefended", "thesaurus"]
    assert matrix[2:] == [["swap", "50.0%", "50.0% (50.0%)"], ["pwws", "50.0%", "50.0% (50.0%)"]]
    assert "- reviews bae: got none" in text


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_names_stay_names(text: str) -> None:
    written = render_markdown([run_of(defense=text, model=text)], {text: f"{text} | x"})
    written.encode("utf-8")
    assert not re.search(r"(?<!\\)[<>`]|(?<!\\)\[(?!U\+)", written)
    assert not re.search(r"[\0\x1b\u202e]", written)
    assert all(len(set(map(len, table))) == 1 for table in tables(written.replace(r"\|", "")))


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("ag_news", "ag_news"),
        ("_soft_", r"\_soft\_"),
        ("a|b", r"a\|b"),
        ("**bold**", r"\*\*bold\*\*"),
        ("[x](y)", r"\[x\](y)"),
        ("a\nb", r"a\<U+000A\>b"),
    ],
)
def test_escape(text: str, escaped: str) -> None:
    assert escape(text) == escaped
