"""Which words an attack changed."""

from __future__ import annotations

import difflib
import re
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
    before, after = _TOKEN.findall(original), _TOKEN.findall(adversarial)
    matcher = difflib.SequenceMatcher(a=before, b=after, autojunk=False)
    left: list[Segment] = []
    right: list[Segment] = []
    for kind, i, j, k, m in matcher.get_opcodes():
        changed = kind != "equal"
        left.extend(_segments(before[i:j], changed))
        right.extend(_segments(after[k:m], changed))
    return left, right


def _segments(tokens: list[str], changed: bool) -> list[Segment]:
    if not changed:
        return [Segment("".join(tokens), False)] if tokens else []
    # one space between two changed words is no change of its own
    return [Segment(token, token != " ") for token in tokens]
