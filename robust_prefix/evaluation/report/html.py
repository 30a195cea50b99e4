"""Renders the report: a page that needs nothing but itself and trusts no text it shows.

Every text goes through jinja2's autoescape. A content security policy forbids whatever the page
does not bring along: its one style sheet and its one script are named there by their hashes, so
markup that slipped through would still be inert. Equal runs give equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from robust_prefix.errors import ResourceError
from robust_prefix.evaluation import formats, reading
from robust_prefix.evaluation.matrix import build_matrix
from robust_prefix.evaluation.names import short_name
from robust_prefix.evaluation.records import RECORDED, Manifest, Role
from robust_prefix.evaluation.report import figures
from robust_prefix.evaluation.report.examples import choose_examples
from robust_prefix.evaluation.summary import Summary, SummaryRow
from robust_prefix.evaluation.threat import threat_lines
from robust_prefix.evaluation.visible import chunks

if TYPE_CHECKING:
    from robust_prefix.evaluation.results import Results

_MOST_TILES = 4
_MOST_OPEN = 4  # cells; of more, each is a line that opens
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
        "adaptive": "attacked knowing it",
        "worst": "worst of these",
    },
    "recorded": RECORDED,
    "protocol_notes": {
        "recorded": "adversaries recorded elsewhere",
        "replay": "adversaries crafted on the undefended model",
        "direct": "the attack queries each system itself",
        "adaptive": "the attack also sees the scores that a system hides behind a bound",
        "worst": "held only if held in all of them",
    },
    "standing_words": {
        "better": "better than",
        "same": "no better than",
        "worse": "worse than",
        "no evidence": "no evidence:",
    },
}


def render_report(runs: Sequence[Results], missing: Mapping[str, str] | None = None) -> str:
    """The page for ``runs``, as HTML.

    Args:
        missing: by the name of a cell, why it has no records, or not all.

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
        loader=jinja2.FunctionLoader(_package_text),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {**_functions(formats), **_functions(reading), **_WORDS}
    environment.globals |= {
        "chunks": chunks,
        "curve_panels": _curve_panels,
        "headline_rows": _headline_rows,
        "name": short_name,
        "share": figures.share,
        "signed": _signed,
        "tested": _tested,
        "threat_lines": threat_lines,
    }
    matrix = build_matrix(runs)
    style, script = _package_text("report.css"), _package_text("report.js")
    page = environment.get_template("report.html.j2").render(
        runs=runs,
        matrix=matrix,
        missing=missing or {},
        points=figures.scatter_points(list(_replayed_and_direct(runs, matrix.cells))),
        examples=choose_examples(runs, matrix.cells),
        folded=len(runs) > _MOST_OPEN,
        title=_title(runs),
        style=style,
        style_hash=_csp_hash(style),
        script=script,
        script_hash=_csp_hash(script),
    )
    # a lone surrogate in a name has no UTF-8; texts have been through chunks() already
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def _title(runs: Sequence[Results]) -> str:
    if len(runs) == 1:
        manifest = runs[0].manifest
        return f"{short_name(manifest.attack)} against {_tested(manifest)}, {manifest.task}"
    counts = {
        "attack": len({run.manifest.attack for run in runs}),
        "defence": len({spec for run in runs for spec in run.manifest.defenses}),
    }
    told = [f"{n} {what}{'' if n == 1 else 's'}" for what, n in counts.items() if n]
    return " against ".join(told)


def _tested(manifest: Manifest) -> str:
    """The defences under test in words."""
    names = [short_name(spec) for spec in manifest.defenses]
    if len(names) > 2:
        return f"{len(names)} defences"
    return " and ".join(names) or "the undefended model"


def _headline_rows(summary: Summary) -> Sequence[SummaryRow]:
    """Each system at the strictest protocol; killed early, at whatever it has; none if many, nor
    what is no evidence."""
    rows = summary.at(summary.manifest.protocol) or summary.rows
    if len(rows) > _MOST_TILES:
        return ()
    return [row for row in rows if row.is_evidence]


def _curve_panels(summary: Summary) -> Iterator[figures.CurvePanel]:
    """One for each defence that was attacked itself, by one who knows what it hides where there
    was such an attack; or one for the undefended model alone."""
    searches = [row for row in summary.rows if row.curve is not None]
    strictest = {(row.role, row.defense): row for row in searches}  # adaptive behind direct
    rows = list(strictest.values())
    undefended = [row for row in rows if row.role == "undefended"]
    defended = [row for row in rows if row.role == "defense"]
    for row in defended or undefended:
        beside = [summary.control(row)] if row.role == "defense" else []
        others = undefended if row.role == "defense" else []
        lines: list[tuple[Role, str, figures.QueryCurve]] = [
            (other.role, other.name, other.curve)
            for other in (*others, row, *beside)
            if other is not None and other.curve is not None
        ]
        knows = ", knowing what it hides" if row.protocol == "adaptive" else ""
        yield figures.curve_panel(f"{row.name}{knows}", lines)


def _replayed_and_direct(
    runs: Sequence[Results], cells: Sequence[str]
) -> Iterator[tuple[str, SummaryRow, SummaryRow]]:
    for run, cell in zip(runs, cells, strict=True):
        replayed = {row.defense: row for row in run.summary.rows if row.protocol == "replay"}
        for row in run.summary.rows:
            if row.protocol == "direct" and row.role != "undefended" and row.defense in replayed:
                name = f"{cell}: {row.name}" if len(runs) > 1 else row.name
                yield name, replayed[row.defense], row


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def _functions(module: ModuleType) -> dict[str, Any]:
    """What ``module`` itself defines and offers."""
    return {
        name: function
        for name, function in vars(module).items()
        if getattr(function, "__module__", None) == module.__name__ and not name.startswith("_")
    }


def _package_text(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _csp_hash(content: str) -> str:
    digest = hashlib.sha256(content.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
