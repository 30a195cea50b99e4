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
_BLANKS = set("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | set(map(chr, range(0xFE00, 0xFE10)))


@dataclass(frozen=True)
class Chunk:
    """A run of text to be shown one way.

    Attributes:
        kind: ``plain``; ``hidden``, one invisible character given as ``U+202E``; or ``foreign``,
            one character outside ASCII where only ASCII was expected.
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


def chunks(text: str, ascii_expected: bool = False) -> list[Chunk]:
    """Cut ``text`` so that nothing in it stays unseen.

    Args:
        text: any text.
        ascii_expected: also single out characters outside ASCII, as in a changed word of a text
            that was ASCII.
    """

    def kind(char: str) -> Kind:
        if is_hidden(char):
            return "hidden"
        return "foreign" if ascii_expected and not char.isascii() else "plain"

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
