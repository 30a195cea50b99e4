"""Which words a copy of a text shows, and what such a copy reads like.

A word is what stands between white space. The words of all masked columns are counted through, so
that a mask is a row of ``words`` truth values whatever the columns are.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from robust_prefix.tasks import Fields

Masks = NDArray[np.bool_]
"""``(copies, words)``: whether a copy shows a word."""

Layout = Literal["scattered", "blocks"]

STAND_IN = "_"
"""What a masked word reads as where users name nothing else. So reads a column of which no word is
left: it is not empty, and the same whatever was there."""

DROP = "none"
"""How users name the stand-in that is none: masked words are left out."""

_WORD = re.compile(r"\S+")


def words_of(text: str) -> list[tuple[int, int]]:
    """Start and end of each word."""
    return [match.span() for match in _WORD.finditer(text)]


def count_words(fields: Fields, first_column: int = 0) -> int:
    """The number of words from ``first_column`` on."""
    return sum(len(words_of(text)) for text in fields[first_column:])


def balanced_masks(
    words: int, copies: int, shown: int, layout: Layout = "scattered", seed: int = 0
) -> Masks:
    """Masks that show each word in exactly ``shown`` copies.

    Whoever changes a word reaches ``shown`` copies, whichever word it is, and with ``shown`` = 1
    changes of two words never reach more than two.

    Args:
        copies: at least ``shown``.
        layout: ``scattered`` deals the words out at random, to copies whose sizes differ by one at
            most; ``blocks`` shows runs of neighbours (the block smoothing of Levine & Feizi,
            NeurIPS 2020, "(De)Randomized Smoothing for Certifiable Defense against Patch
            Attacks"), the last word being the first one's neighbour.
        seed: of ``scattered``.

    Returns:
        The masks, without those that show nothing: a text may be too short for so many copies.
    """
    masks = np.zeros((copies, words), dtype=bool)
    if layout == "blocks":
        segment = np.arange(words) * copies // max(1, words)
        for start in range(shown):
            masks[(segment + start) % copies, np.arange(words)] = True
    else:
        rng = np.random.default_rng(seed)
        sizes = np.zeros(copies, dtype=int)
        for word in np.argsort(rng.random(words)):
            # the smallest copies first, in any order among equals: sizes never differ by two
            chosen = np.lexsort((rng.random(copies), sizes))[:shown]
            masks[chosen, word] = True
            sizes[chosen] += 1
    return masks[masks.any(1)]


@lru_cache(maxsize=4096)
def masks_by_length(words: int, copies: int, shown: int, layout: Layout, seed: int) -> Masks:
    """``balanced_masks`` from the number of words alone; not to be written to."""
    digest = hashlib.blake2b(f"{seed} {words}".encode(), digest_size=8).digest()
    masks = balanced_masks(words, copies, shown, layout, int.from_bytes(digest, "big"))
    masks.flags.writeable = False
    return masks


def masks_by_text(
    fields: Fields, words: int, copies: int, shown: int, layout: Layout, seed: int
) -> Masks:
    """``balanced_masks`` from a hash of the text; blocks begin at a word that it decides."""
    key = "\0".join((str(seed), *fields)).encode("utf-8", "surrogatepass")
    drawn = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")
    masks = balanced_masks(words, copies, shown, layout, drawn)
    return np.roll(masks, drawn % max(1, words), 1) if layout == "blocks" else masks


def visible_words(words: int, mask: float) -> int:
    """How many of ``words`` are left when a share ``mask`` of them is masked: at least one."""
    return min(words, max(1, round((1 - mask) * words)))


def random_masks(words: int, visible: int, copies: int, rng: np.random.Generator) -> Masks:
    """Masks that show ``visible`` words each, every choice of them equally likely."""
    ranks = rng.random((copies, words)).argsort(1).argsort(1)
    masks: Masks = ranks < visible
    return masks


def every_mask(words: int, visible: int) -> Masks:
    """All masks that show ``visible`` words ``(C(words, visible), words)``."""
    chosen = [list(shown) for shown in combinations(range(words), visible)]
    masks = np.zeros((len(chosen), words), dtype=bool)
    np.put_along_axis(masks, np.asarray(chosen), True, axis=1)
    return masks


@dataclass(frozen=True)
class MaskedText:
    """One column with some of its words masked.

    Attributes:
        text: what is left.
        origin: for each character of ``text`` its place in the original; -1 for a stand-in's and
            for the white space before one.
    """

    text: str
    origin: tuple[int, ...]

    def original_span(self, start: int, end: int) -> tuple[int, int] | None:
        """The stretch of the original that one of ``text`` shows; None where it shows none."""
        places = [place for place in self.origin[start:end] if place >= 0]
        return (min(places), max(places) + 1) if places else None


def mask_column(text: str, shown: Sequence[bool] | NDArray[np.bool_], stand_in: str) -> MaskedText:
    """A text's shown words with single spaces between them.

    Args:
        shown: of each word.
        stand_in: what a masked word reads as; it is left out where this is empty.
    """
    read: list[str] = []
    origin: list[int] = []
    for (start, end), kept in zip(words_of(text), shown, strict=True):
        if not kept and not stand_in:
            continue
        if read:
            read.append(" ")
            origin.append(start - 1 if kept else -1)
        read.append(text[start:end] if kept else stand_in)
        origin += range(start, end) if kept else [-1] * len(stand_in)
    if not read:
        return MaskedText(STAND_IN, (-1,) * len(STAND_IN))
    return MaskedText("".join(read), tuple(origin))


def mask_fields(
    fields: Fields, shown: NDArray[np.bool_], stand_in: str, first_column: int = 0
) -> tuple[MaskedText, ...]:
    """Every column under one mask, those before ``first_column`` as they are.

    Args:
        shown: of each word from ``first_column`` on ``(words,)``.
        stand_in: see :func:`mask_column`.
    """
    masked = [MaskedText(text, tuple(range(len(text)))) for text in fields[:first_column]]
    done = 0
    for text in fields[first_column:]:
        count = len(words_of(text))
        masked.append(mask_column(text, shown[done : done + count], stand_in))
        done += count
    return tuple(masked)
