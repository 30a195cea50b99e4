"""Records as tables for other programs: CSV and Parquet, one row a record, no time and no path."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from robust_prefix.evaluation.quality import Qualities, Quality, pair_key
from robust_prefix.evaluation.records import Record
from robust_prefix.tasks import Fields

# Left out: it differs between equal runs.
_VOLATILE = ("seconds",)
_RECORD = tuple(f.name for f in dataclasses.fields(Record) if f.name not in _VOLATILE)
_QUALITY = tuple(f.name for f in dataclasses.fields(Quality))
COLUMNS = (*_RECORD, *_QUALITY)
"""Those of a record, then those of its pair of texts; the last are empty without an adversary."""

_TYPES = {
    "dynamic": pa.bool_(),
    **dict.fromkeys(("example", "seed", "label", "queries", "model_queries"), pa.int64()),
    **dict.fromkeys(("prediction_original", "prediction_adversarial"), pa.int64()),
    **dict.fromkeys(("words", "words_changed"), pa.int64()),
    **dict.fromkeys(("margin_original", "margin_adversarial"), pa.float64()),
    **dict.fromkeys(("forward_passes", "backward_passes"), pa.float64()),
    **dict.fromkeys(("prediction_forward_passes", "prediction_backward_passes"), pa.float64()),
    **dict.fromkeys(("similarity", "perplexity_original", "perplexity_adversarial"), pa.float64()),
    **dict.fromkeys(("original", "adversarial"), pa.list_(pa.string())),
}


def records_csv(records: Iterable[Record], qualities: Qualities | None = None) -> str:
    """Records as CSV with a header line; texts are JSON lists of their columns, on one line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for record in records:
        writer.writerow(map(_csv_value, _values(record, qualities or {})))
    return text.getvalue()


def write_parquet(
    path: Path, records: Iterable[Record], qualities: Qualities | None = None
) -> None:
    """Write records as Parquet; texts are lists of strings. Equal records give equal bytes.

    Raises:
        OSError: the system refused to write.
    """
    rows = [
        dict(zip(COLUMNS, map(_arrow_value, _values(record, qualities or {})), strict=True))
        for record in records
    ]
    schema = pa.schema([(name, _TYPES.get(name, pa.string())) for name in COLUMNS])
    # Everything that may come to differ between versions of pyarrow is said here.
    parquet.write_table(
        pa.Table.from_pylist(rows, schema),
        path,
        version="2.6",
        data_page_version="1.0",
        compression="zstd",
        compression_level=3,
        use_dictionary=True,
        row_group_size=1 << 16,
        store_schema=False,
    )


def _values(record: Record, qualities: Qualities) -> list[Any]:
    # of a traceback only what happened: the lines above have paths and are in the store
    values = [record.note if name == "message" else getattr(record, name) for name in _RECORD]
    quality = qualities.get(pair_key(record))
    return values + [None if quality is None else getattr(quality, name) for name in _QUALITY]


def _csv_value(value: str | float | bool | Fields | None) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return _utf8(json.dumps(value, ensure_ascii=False))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def _arrow_value(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_utf8(text) for text in value]
    return _utf8(value) if isinstance(value, str) else value


def _utf8(text: str) -> str:
    """``text`` with lone surrogates, which UTF-8 cannot hold, written as their JSON escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
