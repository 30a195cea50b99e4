"""The files a run leaves: equal runs leave equal bytes."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from robust_prefix import files
from robust_prefix.evaluation.records import Record
from robust_prefix.evaluation.results import Results
from robust_prefix.evaluation.store import RecordStore

# Not in the CSV: it differs between equal runs.
_VOLATILE = ("seconds",)
CSV_COLUMNS = tuple(f.name for f in dataclasses.fields(Record) if f.name not in _VOLATILE)


def write_results(
    stores: RecordStore | Sequence[RecordStore], out_dir: str | Path
) -> list[Results]:
    """Write ``results.csv``, ``summary.json`` and ``report.html`` of one run or of several.

    ``summary.json`` of one run is its headline with ``manifest`` and ``rows``; of several it has
    these under ``runs``. Every file is replaced whole or not at all.

    Raises:
        ConfigError: a run has no records yet.
        ResourceError: the report needs a package that is not installed; the other files are there.
        StorageError: a file could not be written.
    """
    runs = [Results.read(s) for s in ([stores] if isinstance(stores, RecordStore) else stores)]
    out_dir = Path(out_dir)
    files.write_text(out_dir / "results.csv", records_csv(r for run in runs for r in run.records))
    summaries = [run.summary.to_dict() for run in runs]
    found = summaries[0] if len(summaries) == 1 else {"runs": summaries}
    files.write_json(out_dir / "summary.json", found)
    from robust_prefix.evaluation.report import render_report  # jinja2 is an extra

    files.write_text(out_dir / "report.html", render_report(runs))
    return runs


def records_csv(records: Iterable[Record]) -> str:
    """Records as CSV with a header line; texts are JSON lists of their columns, on one line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for record in records:
        writer.writerow([_cell(record, name) for name in CSV_COLUMNS])
    return text.getvalue()


def _cell(record: Record, name: str) -> str:
    # of a traceback only what happened: the lines above have paths and are in the store
    value = record.note if name == "message" else getattr(record, name)
    if value is None:
        return ""
    if isinstance(value, tuple):
        # backslashreplace writes a lone surrogate as its JSON escape
        shown = json.dumps(value, ensure_ascii=False)
        return shown.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6f}" if isinstance(value, float) else str(value)
