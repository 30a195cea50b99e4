"""Characters that look alike, by the three spaces of VIPER.

Eger, Sahin, Rueckle, Lee, Schulz, Mesgar, Swarnkar, Simpson, Gurevych. Text Processing Like Humans
Do: Visually Attacking and Shielding NLP Systems. NAACL 2019. https://aclanthology.org/N19-1165/

All three read characters below code point 30,000, as the authors do, and leave out what is no sign
of its own: spaces, controls and marks that combine with the letter before.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import numpy as np

_CHARACTERS = range(0x21, 30_000)
_NEIGHBORS = 20  # of a character, as in the authors' code
# Marks above and below: a letter of ECES takes the first that Unicode has on it.
_MARKS = "\u0302\u0301\u030c\u0307\u0308\u0303\u030a\u0323\u0331\u0327"
_SIDE, _POINTS, _CORNER = 24, 22, (2, 0)  # of an image, as in the authors' code


@dataclass(frozen=True)
class Lookalikes:
    """What may stand for one character.

    Attributes:
        characters: in order of likeness; none is the character itself.
        weights: how often each is drawn; they sum to 1.
    """

    characters: tuple[str, ...]
    weights: tuple[float, ...]


NOTHING = Lookalikes((), ())


def _weighted(ranked: list[tuple[float, str]]) -> Lookalikes:
    """The first of ``ranked``, pairs of a weight and a character."""
    ranked = ranked[:_NEIGHBORS]
    total = math.fsum(weight for weight, _ in ranked)
    return Lookalikes(
        tuple(character for _, character in ranked),
        tuple(weight / total for weight, _ in ranked),
    )


@lru_cache(maxsize=4096)
def described_alike(character: str) -> Lookalikes:
    """DCES: Latin letters whose Unicode names say the same letter in the same case.

    The nearer the names as bags of words (Euclidean distance ``d``), the oftener, by
    ``exp(-d / 2)``. Other characters have none.
    """
    letters = _described()
    own = letters.get(character)
    if own is None:
        return NOTHING
    ranked = sorted(
        (len(own.words ^ other.words), near)
        for near, other in letters.items()
        if near != character and other.case == own.case and other.letters & own.letters
    )
    return _weighted([(math.exp(-math.sqrt(count) / 2), near) for count, near in ranked])


@lru_cache(maxsize=4096)
def marked(character: str) -> Lookalikes:
    """ECES: the same letter with one mark above or below."""
    if not character.isascii() or not character.isalpha():
        return NOTHING
    composed = (unicodedata.normalize("NFC", character + mark) for mark in _MARKS)
    return _weighted([(1.0, one) for one in composed if len(one) == 1][:1])


@lru_cache(maxsize=4096)
def drawn_alike(character: str, font: Path) -> Lookalikes:
    """ICES: characters whose images are alike, drawn as often as their cosine is high.

    Letters of scripts from right to left are left out: they would reorder the text.

    Args:
        character: any.
        font: a TrueType font; characters it lacks have no lookalikes and are none.
    """
    images = _images(font)
    row = images.rows.get(character)
    if row is None:
        return NOTHING
    cosines = images.pixels @ images.pixels[row]
    cosines[row] = -1.0
    order = np.argsort(-cosines, kind="stable")[:_NEIGHBORS]
    return _weighted([(float(cosines[place]), images.characters[place]) for place in order])


@dataclass(frozen=True)
class _Name:
    """What the Unicode name of a Latin letter says."""

    letters: frozenset[str]
    case: str
    words: frozenset[str]


@lru_cache(maxsize=1)
def _described() -> Mapping[str, _Name]:
    found = {}
    for character in map(chr, _CHARACTERS):
        words = unicodedata.name(character, "").split()
        # The first tells: a "LATIN LETTER SMALL CAPITAL A" is small.
        case = next((word for word in words if word in ("SMALL", "CAPITAL")), "")
        letters = frozenset(word for word in words if len(word) == 1)
        if "LATIN" in words and case and letters and _is_sign(character):
            longer = frozenset(word for word in words if len(word) > 1)
            found[character] = _Name(letters, case, longer)
    return MappingProxyType(found)


def _is_sign(character: str) -> bool:
    return unicodedata.category(character)[0] not in "CMZ"


@dataclass(frozen=True)
class _Images:
    characters: tuple[str, ...]
    rows: Mapping[str, int]
    pixels: np.ndarray  # float32 (characters, side * side), each row of length 1


@lru_cache(maxsize=1)
def _images(font: Path) -> _Images:
    from matplotlib.ft2font import FT2Font
    from PIL import Image, ImageDraw, ImageFont

    known = FT2Font(str(font)).get_charmap()
    pen = ImageFont.truetype(str(font), _POINTS)
    characters, pixels = [], []
    for character in map(chr, _CHARACTERS):
        right_to_left = unicodedata.bidirectional(character) in ("R", "AL", "AN")
        if ord(character) not in known or right_to_left or not _is_sign(character):
            continue
        image = Image.new("L", (_SIDE, _SIDE))
        ImageDraw.Draw(image).text(_CORNER, character, font=pen, fill=255)
        row = np.asarray(image, dtype=np.float32).ravel()
        if row.any():
            characters.append(character)
            pixels.append(row / np.linalg.norm(row))
    places = {character: row for row, character in enumerate(characters)}
    return _Images(tuple(characters), places, np.stack(pixels))
