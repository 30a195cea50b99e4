"""What commands read: the lines of stdin."""

from __future__ import annotations

import sys

from robust_prefix.errors import InputError


def read_lines() -> list[str]:
    """The lines of stdin; only a line feed ends one, for a text may hold any other separator.
    A byte order mark is no part of the text.

    Raises:
        InputError: it is not UTF-8, or there is nothing.
    """
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"expected UTF-8 text on stdin, got byte {error.object[error.start]:#x} "
            f"at {error.start}"
        ) from None
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise InputError("expected at least one line of text on stdin, got nothing")
    return lines
