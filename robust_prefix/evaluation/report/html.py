"""Renders the report: a page that needs nothing but itself and trusts no text it shows.

Every text goes through jinja2's autoescape. A content security policy forbids whatever the page
does not bring along: its one style sheet and its one script are named there by their hashes, so
markup that slipped through would still be inert. Equal runs give equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from robust_prefix.errors import ResourceError
from robust_prefix.evaluation.diff import word_diff
from robust_prefix.evaluation.reading import explain, interval, percent, read
from robust_prefix.evaluation.records import OUTCOMES, Record
from robust_prefix.evaluation.summary import Summary, short_name
from robust_prefix.evaluation.visible import Chunk, chunks

if TYPE_CHECKING:
    from robust_prefix.evaluation.outputs import Run

OUTCOME_WORDS = {
    "succeeded": "fooled",
    "failed": "held",
    "skipped": "wrong before",
    "error": "error",
}


@dataclass(frozen=True)
class Part:
    """A stretch of a shown text."""

    changed: bool
    chunks: list[Chunk]


@dataclass(frozen=True)
class Column:
    """One text column of one example, before and after."""

    name: str
    original: list[Part]
    adversarial: list[Part]


def render_report(runs: Sequence[Run]) -> str:
    """The page for ``runs``, as HTML.

    Raises:
        ResourceError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise ResourceError(
            "expected jinja2 for the HTML report, got no such package; "
            'run pip install "robust-prefix[attacks]"'
        ) from error
    here = importlib.resources.files(__package__)
    style = here.joinpath("report.css").read_text(encoding="utf-8")
    script = here.joinpath("report.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    template = environment.from_string(
        here.joinpath("report.html.j2").read_text(encoding="utf-8")
    )
    page = template.render(
        runs=runs,
        style=style,
        style_hash=_csp_hash(style),
        script=script,
        script_hash=_csp_hash(script),
        outcomes=OUTCOMES,
        outcome_words=OUTCOME_WORDS,
        percent=percent,
        interval=interval,
        passes=passes,
        name=short_name,
        read=read,
        flags=flags,
        columns=columns,
        chunks=chunks,
        last_line=last_line,
    )
    # a lone surrogate in a name has no UTF-8; texts have been through chunks() already
    return page.encode("utf-8", "backslashreplace").decode("utf-8")
