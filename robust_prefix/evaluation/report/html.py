"""Renders the report: a page that needs nothing but itself and trusts no text it shows.

Every text goes through jinja2's autoescape. A content security policy forbids whatever the page
does not bring along: its one style sheet and its one script are named there by their hashes, so
markup that slipped through would still be inert. Equal runs give equal bytes.
"""

from __future__ import annotations

import base64
import collections
import hashlib
import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from robust_prefix.errors import ResourceError
from robust_prefix.evaluation import reading
from robust_prefix.evaluation.diff import Segment, word_diff
from robust_prefix.evaluation.records import OUTCOMES, Record
from robust_prefix.evaluation.summary import Summary, SummaryRow, short_name
from robust_prefix.evaluation.visible import Chunk, chunks, scripts

if TYPE_CHECKING:
    from robust_prefix.evaluation.results import Results

_WORDS = {
    "outcome_words": {
        "succeeded": "fooled",
        "failed": "held",
        "skipped": "wrong before",
        "error": "error",
    },
    "protocol_words": {
        "replay": "shown replayed texts",
        "direct": "attacked itself",
        "worst": "worst of both",
    },
    "protocol_notes": {
        "replay": "adversaries crafted on the undefended model",
        "direct": "the attack queries each system itself",
        "worst": "held only if held in both",
    },
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


@dataclass(frozen=True)
class SystemOption:
    """One entry of the filter by system."""

    value: str
    words: str
    chosen: bool


def render_report(runs: Sequence[Results]) -> str:
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
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    style, script = _package_text("report.css"), _package_text("report.js")
    page = environment.from_string(_package_text("report.html.j2")).render(
        runs=runs,
        title=_title(runs),
        style=style,
        style_hash=_csp_hash(style),
        script=script,
        script_hash=_csp_hash(script),
        outcomes=OUTCOMES,
        counts=collections.Counter(record.outcome for run in runs for record in run.records),
        systems=_system_options(runs),
        system_value=_system_value,
        headline_rows=_headline_rows,
        share=_share,
        columns=_columns,
        absent=_absent,
        signed=_signed,
        chunks=chunks,
        name=short_name,
        percent=reading.percent,
        interval=reading.interval,
        passes=reading.passes,
        queries=reading.queries,
        verdict=reading.verdict,
        read=reading.read,
        flag_notes=reading.flag_notes,
        **_WORDS,
    )
    # a lone surrogate in a name has no UTF-8; texts have been through chunks() already
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def _title(runs: Sequence[Results]) -> str:
    if len(runs) != 1:
        return f"{len(runs)} attacks"
    manifest = runs[0].manifest
    return f"{short_name(manifest.attack)} against {short_name(manifest.defense)}, {manifest.task}"


def _headline_rows(summary: Summary) -> Sequence[SummaryRow]:
    """Each system at the protocol the run was made for; killed early, at whatever it has."""
    return summary.at(summary.manifest.protocol) or summary.rows


def _system_value(number: int, record: Record) -> str:
    return f"{number} {record.protocol} {record.defense}"


def _system_options(runs: Sequence[Results]) -> list[SystemOption]:
    """Each system and protocol that has records; the first defence is shown at first."""
    found: dict[str, tuple[str, Record]] = {}
    for number, run in enumerate(runs, start=1):
        for record in run.records:
            system = "undefended" if record.role == "undefended" else short_name(record.defense)
            words = f"{system}, {record.protocol}"
            if len(runs) > 1:
                words = f"{number}. {short_name(record.attack)}: {words}"
            found.setdefault(_system_value(number, record), (words, record))
    defended = [value for value, (_, record) in found.items() if record.role == "defense"]
    first = next((value for value in defended if " direct " in value), *defended[:1] or [""])
    return [SystemOption(value, words, value == first) for value, (words, _) in found.items()]


def _columns(record: Record, names: Sequence[str]) -> list[Column]:
    """The texts of a record, column by column, ready to be shown."""
    changed = record.original if record.adversarial is None else record.adversarial
    found = []
    for name, original, adversarial in zip(names, record.original, changed, strict=True):
        before, after = word_diff(original, adversarial)
        # a letter of a script that the original has not is most likely a look-alike
        found.append(Column(name, _parts(before), _parts(after, scripts(original))))
    return found


def _parts(segments: list[Segment], expected: frozenset[str] | None = None) -> list[Part]:
    return [Part(segment.changed, chunks(segment.text, expected)) for segment in segments]


def _absent(record: Record) -> str:
    """Why a record has no adversary."""
    if record.outcome == "skipped":
        return "Not attacked: the original is misclassified already."
    if record.outcome == "error":
        return "No result."
    if record.protocol == "replay":
        return "Nothing to replay: the undefended model was not fooled."
    return "The attack found none."


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def _share(value: float | None) -> str:
    """A proportion as a coordinate in percent, with fixed digits."""
    return f"{100 * (value or 0):.2f}"


def _package_text(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _csp_hash(content: str) -> str:
    digest = hashlib.sha256(content.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
