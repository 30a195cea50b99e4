"""Which words an attack changed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(r"\s+|\S+")


@dataclass(frozen=True)
class Segment:
    """A stretch of text that was changed, or was not."""

    text: str
    changed: bool


def word_diff(original: str, adversarial: str) -> tuple[list[Segment], list[Segment]]:
    """Both texts cut into changed and unchanged segments.

    Joining the segments of a side gives that text back, whatever characters it has.

    Returns:
        The segments of ``original`` and those of ``adversarial``.
    """
    left: list[Segment] = []
    right: list[Segment] = []
    for changed, before, after in _blocks(original, adversarial):
        left.extend(_segments(before, changed))
        right.extend(_segments(after, changed))
    return left, right


def words_changed(original: str, adversarial: str) -> int:
    """How many words the diff of ``word_diff`` replaces, removes or inserts.

    A word replaced by two counts as two, and so does one that takes the place of two.
    """
    return sum(
        max(count_words("".join(before)), count_words("".join(after)))
        for changed, before, after in _blocks(original, adversarial)
        if changed
    )


def count_words(text: str) -> int:
    """How many words ``text`` has: stretches without white space."""
    return sum(not token.isspace() for token in _TOKEN.findall(text))


def _blocks(original: str, adversarial: str) -> Iterator[tuple[bool, list[str], list[str]]]:
    """Whether it changed, and the tokens of both sides, of each stretch in order."""
    before, after = _TOKEN.findall(original), _TOKEN.findall(adversarial)
    matcher = difflib.SequenceMatcher(a=before, b=after, autojunk=False)
    for kind, i, j, k, m in matcher.get_opcodes():
        yield kind != "equal", before[i:j], after[k:m]


def _segments(tokens: list[str], changed: bool) -> list[Segment]:
    if not changed:
        return [Segment("".join(tokens), False)] if tokens else []
    # one space between two changed words is no change of its own
    return [Segment(token, token != " ") for token in tokens]
