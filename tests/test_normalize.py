"""Normalisation: what attackers write is read as usual, and what is usual stays."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robust_prefix.defenses import Fitted, Normalize, Projection, RandomPrefix, build_defense
from robust_prefix.prefixes import PrefixModel
from robust_prefix.rewriting import Rewritten
from robust_prefix.subspaces import Subspaces
from robust_prefix.tasks import Fields

COMPATIBLE = {"characters": "compatible", "spelling": "none"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("a gorgeous , witty film", "a gorgeous , witty film", id="as it was"),
        pytest.param("a gorg\u200beous f\u00adilm", "a gorgeous film", id="invisible"),
        pytest.param("\u202ea gorgeous\u202c film", "a gorgeous film", id="bidi marks"),
        pytest.param("a g\u043erg\u0435\u043eus fi\u217cm", "a gorgeous film", id="look-alikes"),
        pytest.param("\u03b1 film", "a film", id="Greek"),
        pytest.param("a g\u00f6rg\u00ebou\u0161 f\u012blm", "a gorgeous film", id="accents"),
        pytest.param("a go\u0323r\u0302geous film", "a gorgeous film", id="combining"),
        pytest.param("\uff41 \uff46\uff49\uff4c\uff4d", "a film", id="full width"),
        pytest.param("a \u2c65 \u0247 \u00f8 film", "a a e o film", id="letters with strokes"),
        pytest.param("a gorgeuos , wity film", "a gorgeous , with film", id="misspelt"),
        pytest.param("A Gorgeuos FLIM", "A Gorgeous FILM", id="case is kept"),
        pytest.param("a gor geous film", "a gorgeous film", id="split"),
        pytest.param("wo n't , did n't , it 's", "wo n't , did n't , it 's", id="contractions"),
        pytest.param("it 's one , i 'll go", "it 's one , i 'll go", id="halves of contractions"),
        pytest.param("it \u2019s not so", "it \u2019s not so", id="with a curly apostrophe"),
        pytest.param("25s lacks it", "25s lacks it", id="beside a digit"),
        pytest.param("⒮om⒠ ᴋ⒤nd of ŀov⒠", "some kind of love", id="letters in brackets"),
        pytest.param("10/10 !!! :-)", "10/10 !!! :-)", id="no words"),
        pytest.param("a well-made film", "a well-made film", id="hyphen"),
        pytest.param("it isn`t , it doesn\u2018t", "it isn't , it doesn't", id="typed otherwise"),
        pytest.param(
            "it isn\u00b4t , it doesn\u2032t", "it isn't , it doesn't", id="an accent for it"
        ),
        pytest.param("it doesn t , it isn t", "it doesn t , it isn t", id="lost apostrophe"),
        pytest.param("a `` film '' \u2018 so \u2018", "a `` film '' \u2018 so \u2018", id="quotes"),
    ],
)
def test_attackers_characters_are_read_as_usual(text: str, expected: str) -> None:
    assert Normalize().rewrite(text).text == expected


@pytest.mark.parametrize(
    ("settings", "text", "expected"),
    [
        ({"characters": "keep", "spelling": "none"}, "\u0430\u200b flim", "\u0430\u200b flim"),
        (COMPATIBLE, "\u0430\u200b \uff46\u00fc", "\u0430 f\u00fc"),
        (COMPATIBLE, "\u0444\u0438\u043b\u044c\u043c", "\u0444\u0438\u043b\u044c\u043c"),
        ({"spelling": "none"}, "gorgeuos", "gorgeuos"),
        (COMPATIBLE, "doesn\u00b4t", "doesn't"),
        ({"characters": "keep"}, "doesn\u00b4t", "doesn\u00b4t"),
        ({"max_edits": 2}, "grogeuos", "gorgeous"),
        ({"max_edits": 1}, "grogeuos", "grogeuos"),
        ({"min_letters": 9}, "gorgeuos", "gorgeuos"),
    ],
)
def test_settings(settings: dict[str, object], text: str, expected: str) -> None:
    assert Normalize(**settings).rewrite(text).text == expected


@given(st.text(max_size=40))
def test_every_character_has_an_origin_in_order(text: str) -> None:
    rewritten = Normalize().rewrite(text)
    assert len(rewritten.origin) == len(rewritten.text)
    assert all(0 <= start < end <= len(text) for start, end in rewritten.origin)
    assert [start for start, _ in rewritten.origin] == sorted(s for s, _ in rewritten.origin)


@given(st.text(alphabet="abcdefgh ,.!'", max_size=40))
def test_plain_text_is_kept_without_spelling(text: str) -> None:
    assert Normalize(spelling="none").rewrite(text) == Rewritten.of(text)


def test_the_origin_of_a_corrected_word_is_the_word() -> None:
    rewritten = Normalize().rewrite("a gor\u200bgeuos film")
    assert rewritten.text == "a gorgeous film"
    assert set(rewritten.origin[2:10]) == {(2, 11)}
    assert rewritten.origin[11] == (12, 13)


def test_nothing_left_is_left_as_it_was() -> None:
    hidden: Fields = ("\u200b\u200d",)
    assert Normalize().rewrite_fields(hidden)[0].text == hidden[0]


def test_the_answer_is_that_of_the_usual_text(model: PrefixModel, spaces: Subspaces) -> None:
    usual: list[Fields] = [("the film is good and warm",), ("the plot is dull",)]
    attacked: list[Fields] = [
        ("the f\u0456lm is go\u200bod and wa\u0155m",),
        ("thhe pl\u043et is dull",),
    ]
    for inner in (None, Projection(spaces), RandomPrefix(rms=0.5)):
        wrapped = Normalize(inner)
        found = wrapped.logits(model, attacked)
        assert torch.equal(found, wrapped.logits(model, usual))
        if inner is not None:
            assert torch.equal(found, inner.logits(model, usual))
        assert wrapped.cost.forward > 0
    assert not torch.equal(found, RandomPrefix(rms=0.5).logits(model, attacked))


def test_compositions_are_named_and_built_from_the_outside_in(spaces: Subspaces) -> None:
    built = build_defense("normalize(spelling=none)+robust-prefix(steps=2)", Fitted(spaces))
    assert isinstance(built, Normalize)
    assert built.inner.name == "robust-prefix"
    assert built.dynamic
    assert not Normalize().dynamic
    assert build_defense(built.spec, Fitted(spaces)).spec == built.spec
    assert Normalize().spec == build_defense("normalize+none").spec


def test_gradients_point_into_the_text_as_it_was(model: PrefixModel) -> None:
    text = "the f\u0456lm is go\u200bod"
    [found] = Normalize().gradients(model, [(text,)], [1])
    [plain] = build_defense("none").gradients(model, [("the film is good",)], [1])
    assert found.tokens == plain.tokens
    assert (found.gradient == plain.gradient).all()
    covered = "".join(text[span[1] : span[2]] for span in found.spans if span is not None)
    assert covered.replace(" ", "") == text.replace(" ", "")
