"""The files an evaluation leaves: equal runs leave equal bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robust_prefix import files
from robust_prefix.errors import ConfigError
from robust_prefix.evaluation.compare import Comparison, compare
from robust_prefix.evaluation.markdown import comparison_markdown, render_markdown
from robust_prefix.evaluation.results import Results, missing_cells
from robust_prefix.evaluation.store import RecordStore


def check_folder(out_dir: str | Path, database: str) -> None:
    """That results of another command would not be written over.

    Raises:
        ConfigError: ``out_dir`` has results, and no ``database`` that they could be of.
    """
    there = Path(out_dir) / "summary.json"
    if there.exists() and not (Path(out_dir) / database).exists():
        raise ConfigError(
            f"expected a new folder, or one of the same attack, got {out_dir} with results of "
            "another command; give another --out"
        )


def check_report_folder(out_dir: str | Path, database: str) -> None:
    """That nothing but a report would be written over.

    Raises:
        ConfigError: ``out_dir`` has a ``database``, or results of another command.
        ArtifactError: what it has cannot be read.
    """
    if (Path(out_dir) / database).exists():
        raise ConfigError(
            f"expected a folder without results of its own as --out, got {out_dir}; give another"
        )
    there = Path(out_dir) / "summary.json"
    if there.exists() and not {"rows", "runs"} & set(files.read_json(there)):
        raise ConfigError(
            f"expected a new folder, or one of a report, got {out_dir} with results of another "
            "command; give another --out"
        )


def write_results(
    stores: RecordStore | Sequence[RecordStore], out_dir: str | Path
) -> list[Results]:
    """Write what the records of one store or of several come to.

    ``results.csv`` and ``results.parquet`` have a row for each record; ``summary.json``,
    ``report.md`` and ``report.html`` are about all cells. ``summary.json`` of one cell is its
    headline with ``manifest`` and ``rows``; of several it has these under ``runs``, and beside
    them under ``missing`` what could not be run. Every file is replaced whole or not at all.

    Raises:
        ConfigError: there are no records yet.
        ResourceError: the report needs a package that is not installed; the other files are there.
        StorageError: a file could not be written.
    """
    opened = [stores] if isinstance(stores, RecordStore) else stores
    runs = [results for store in opened for results in Results.read(store)]
    missing = {name: why for store in opened for name, why in missing_cells(store).items()}
    out_dir = Path(out_dir)
    write_tables(runs, out_dir)
    files.write_json(out_dir / "summary.json", summary_dict(runs, missing))
    files.write_text(out_dir / "report.md", render_markdown(runs, missing))
    from robust_prefix.evaluation.report import render_report  # jinja2 is an extra

    files.write_text(out_dir / "report.html", render_report(runs, missing))
    return runs


def write_comparison(
    first: Sequence[Results], second: Sequence[Results], out_dir: str | Path
) -> Comparison:
    """Write ``comparison.json`` and ``comparison.md`` of two evaluations.

    Raises:
        ConfigError: they share nothing.
        StorageError: a file could not be written.
    """
    found = compare(first, second)
    files.write_json(Path(out_dir) / "comparison.json", found.to_dict())
    files.write_text(Path(out_dir) / "comparison.md", comparison_markdown(found))
    return found


def write_tables(runs: Sequence[Results], out_dir: Path) -> None:
    """Write ``results.csv`` and ``results.parquet``.

    Raises:
        StorageError: a file could not be written.
    """
    from robust_prefix.evaluation.tabular import records_csv, write_parquet

    records = [record for run in runs for record in run.records]
    qualities = {key: quality for run in runs for key, quality in run.qualities.items()}
    files.write_text(out_dir / "results.csv", records_csv(records, qualities))
    with files.atomic_path(out_dir / "results.parquet") as path:
        write_parquet(path, records, qualities)


def summary_dict(runs: Sequence[Results], missing: Mapping[str, Any]) -> dict[str, Any]:
    """What ``summary.json`` holds.

    Args:
        missing: by the name of a cell, why there are no records of it, or not all.
    """
    summaries = [run.summary.to_dict() for run in runs]
    if len(summaries) == 1 and not missing:
        return summaries[0]
    return {"runs": summaries, "missing": dict(missing)}
