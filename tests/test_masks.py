"""Masks: how often each word is shown, and what a masked text reads like."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robust_prefix.masks import (
    STAND_IN,
    Layout,
    balanced_masks,
    count_words,
    every_mask,
    mask_column,
    mask_fields,
    masks_by_length,
    masks_by_text,
    random_masks,
    visible_words,
    words_of,
)

LAYOUTS = st.sampled_from(["scattered", "blocks"])


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.data(), LAYOUTS, st.integers(0, 99))
def test_every_word_is_shown_equally_often(
    words: int, copies: int, data: st.DataObject, layout: Layout, seed: int
) -> None:
    shown = data.draw(st.integers(1, copies))
    masks = balanced_masks(words, copies, shown, layout, seed)
    assert (masks.sum(0) == shown).all()
    sizes = masks.sum(1)
    assert sizes.min() >= 1
    assert len(masks) == copies or words * shown < copies * 2
    spread = 1 if layout == "scattered" else shown
    assert sizes.max() - sizes.min() <= spread


def test_blocks_are_runs_of_neighbours() -> None:
    masks = balanced_masks(8, 4, 2, "blocks")
    assert ["".join("#" if shown else "." for shown in row) for row in masks] == [
        "##....##",
        "####....",
        "..####..",
        "....####",
    ]


def test_scattered_words_are_not_neighbours_alone() -> None:
    assert not np.array_equal(balanced_masks(12, 4, 1, seed=0), balanced_masks(12, 4, 1, seed=1))
    assert np.abs(np.diff(balanced_masks(12, 4, 1, seed=0).astype(int), axis=1)).sum() > 8


def test_a_draw_by_length_ignores_the_text_and_one_by_text_does_not() -> None:
    first = masks_by_length(10, 5, 1, "scattered", 0)
    assert np.array_equal(first, masks_by_length(10, 5, 1, "scattered", 0))
    assert not np.array_equal(first, masks_by_length(10, 5, 1, "scattered", 1))
    with pytest.raises(ValueError, match="read-only"):
        first[0] = True
    for layout in ("scattered", "blocks"):
        drawn = [masks_by_text((f"text {n}",), 10, 5, 1, layout, 0) for n in range(6)]
        assert any(not np.array_equal(drawn[0], other) for other in drawn)
        assert all((masks.sum(0) == 1).all() for masks in drawn)
        assert np.array_equal(drawn[0], masks_by_text(("text 0",), 10, 5, 1, layout, 0))


@pytest.mark.parametrize(("words", "mask", "visible"), [(10, 0.7, 3), (2, 0.9, 1), (5, 0.0, 5)])
def test_visible_words(words: int, mask: float, visible: int) -> None:
    assert visible_words(words, mask) == visible


def test_random_masks_are_uniform_over_all_masks() -> None:
    every = every_mask(5, 2)
    assert len({tuple(row) for row in every.tolist()}) == len(every) == comb(5, 2)
    assert (every.sum(1) == 2).all()
    drawn = random_masks(5, 2, 5000, np.random.default_rng(0))
    counts = [int((drawn == row).all(1).sum()) for row in every]
    assert sum(counts) == 5000
    assert max(abs(count - 500) for count in counts) < 100  # 4.7 standard deviations


TEXT = " a  gorgeous, witty\tfilm"


@pytest.mark.parametrize(
    ("shown", "stand_in", "expected"),
    [
        pytest.param([1, 1, 1, 1], "_", "a gorgeous, witty film", id="all"),
        pytest.param([0, 1, 0, 1], "_", "_ gorgeous, _ film", id="stand-in"),
        pytest.param([0, 1, 0, 1], "", "gorgeous, film", id="left out"),
        pytest.param([0, 0, 0, 0], "...", "... ... ... ...", id="none shown"),
        pytest.param([0, 0, 0, 0], "", STAND_IN, id="nothing left"),
    ],
)
def test_a_masked_text(shown: list[int], stand_in: str, expected: str) -> None:
    masked = mask_column(TEXT, [bool(s) for s in shown], stand_in)
    assert masked.text == expected
    assert len(masked.origin) == len(expected)
    for character, place in zip(masked.text, masked.origin, strict=True):
        if place >= 0 and not character.isspace():
            assert TEXT[place] == character
    visible = {place for place in masked.origin if place >= 0 and not TEXT[place].isspace()}
    wanted = {
        place
        for (start, end), kept in zip(words_of(TEXT), shown, strict=True)
        for place in range(start, end)
        if kept
    }
    assert visible == wanted


def test_a_stretch_is_found_in_the_original() -> None:
    masked = mask_column(TEXT, [True, False, True, False], "__")
    assert masked.text == "a __ witty __"
    assert masked.original_span(4, 10) == (13, 19)  # " witty"
    assert masked.original_span(2, 4) is None  # the stand-in


def test_columns_are_counted_through() -> None:
    fields = ("one two", "three four five")
    assert (count_words(fields), count_words(fields, 1)) == (5, 3)
    masks = np.array([True, False, False, True, True])
    assert [c.text for c in mask_fields(fields, masks, "_")] == ["one _", "_ four five"]
    last = mask_fields(fields, masks[2:], "_", first_column=1)
    assert [column.text for column in last] == ["one two", "_ four five"]
    assert last[0].original_span(0, 3) == (0, 3)
