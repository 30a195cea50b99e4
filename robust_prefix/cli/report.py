"""``robust-prefix report``: tables and page of a finished or an unfinished run, or of two."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robust_prefix.cli.common import JsonOption, command
from robust_prefix.cli.output import show_comparison, show_results


@command
def report(
    results: Annotated[Path, typer.Argument(help="Folder that attack or benchmark wrote.")],
    against: Annotated[
        Path | None,
        typer.Option(help="Another such folder: compare what both ran, write comparison.md."),
    ] = None,
    examples: Annotated[
        int, typer.Option(min=0, help="How many adversaries of each attack to print.")
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Where the files go; into the same folder by default.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write tables, summary and page anew from the records of a run; or compare two runs."""
    from robust_prefix.errors import ConfigError
    from robust_prefix.evaluation.bench import DATABASE
    from robust_prefix.evaluation.outputs import (
        check_report_folder,
        write_comparison,
        write_results,
    )
    from robust_prefix.evaluation.results import Results, missing_cells
    from robust_prefix.evaluation.store import RecordStore

    if against is not None and examples:
        raise ConfigError(
            "expected --examples or --against, got both; comparison.md has the texts that differ"
        )
    folder = out or results
    if folder.resolve() != results.resolve():
        check_report_folder(folder, DATABASE)
    with RecordStore(results / DATABASE) as store:
        if against is None:
            runs, missing = write_results(store, folder), missing_cells(store)
        else:
            runs = Results.read(store)
    if against is None:
        show_results(runs, missing, folder, json, examples)
        return
    with RecordStore(against / DATABASE) as store:
        others = Results.read(store)
    show_comparison(write_comparison(runs, others, folder), folder, json)
