"""``robust-prefix report``: table and page of a finished or an unfinished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robust_prefix.cli.common import JsonOption, command
from robust_prefix.cli.output import show_summary


@command
def report(
    results: Annotated[Path, typer.Argument(help="Folder that attack wrote.")],
    out: Annotated[
        Path | None, typer.Option(help="Where the files go; into the same folder by default.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write results.csv, summary.json and report.html anew from the records of a run."""
    from robust_prefix.evaluation.bench import DATABASE
    from robust_prefix.evaluation.outputs import write_results
    from robust_prefix.evaluation.store import RecordStore

    with RecordStore(results / DATABASE) as store:
        summary = write_results(store, out or results)[0].summary
    show_summary(summary, out or results, json)
