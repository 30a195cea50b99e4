"""Making visible what a text hides: control characters, look-alikes, blanks that are no space.

Adversarial text is hostile to whoever displays it: escape codes drive a terminal, direction
overrides reorder a line, zero-width characters hide inside words.
"""

from __future__ import annotations

import itertools
import unicodedata
from dataclasses import dataclass
from typing import Literal

Kind = Literal["plain", "hidden", "foreign"]

_HIDDEN_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
# Letters and marks that show nothing: fillers, the blank Braille cell, variation selectors.
_BLANKS = set("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | set(
    map(chr, range(0xFE00, 0xFE10))
)


@dataclass(frozen=True)
class Chunk:
    """A run of text to be shown one way.

    Attributes:
        kind: ``plain``; ``hidden``, one invisible character given as ``U+202E``; or ``foreign``,
            one letter of a script that was not expected.
        text: what to show.
        title: the character's Unicode name, for the last two kinds.
    """

    kind: Kind
    text: str
    title: str = ""


def is_hidden(char: str) -> bool:
    """Whether ``char`` shows nothing of its own or controls how others are shown."""
    category = unicodedata.category(char)
    return category in _HIDDEN_CATEGORIES or (category == "Zs" and char != " ") or char in _BLANKS


def scripts(text: str) -> frozenset[str]:
    """The scripts of the letters of ``text``, each as the first word of their Unicode names."""
    return frozenset(_script(char) for char in text if char.isalpha())


def chunks(text: str, expected: frozenset[str] | None = None) -> list[Chunk]:
    """Cut ``text`` so that nothing in it stays unseen.

    Args:
        text: any text.
        expected: the scripts a letter may have; one of another script, such as a Cyrillic letter
            in an English word, is singled out. None expects all.
    """

    def kind(char: str) -> Kind:
        if is_hidden(char):
            return "hidden"
        known = expected is None or not char.isalpha() or _script(char) in expected
        return "plain" if known else "foreign"

    found = []
    for name, run in itertools.groupby(text, key=kind):
        if name == "plain":
            found.append(Chunk(name, "".join(run)))
            continue
        for char in run:
            code = f"U+{ord(char):04X}"
            title = f"{code} {unicodedata.name(char, 'CONTROL OR UNNAMED CHARACTER')}"
            found.append(Chunk(name, code if name == "hidden" else char, title))
    return found


def escape_hidden(text: str) -> str:
    """``text`` with each invisible character written as ``<U+202E>``."""
    return "".join(
        f"<{chunk.text}>" if chunk.kind == "hidden" else chunk.text for chunk in chunks(text)
    )


def _script(char: str) -> str:
    return unicodedata.name(char, "").partition(" ")[0]
