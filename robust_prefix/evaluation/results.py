"""A run's records read back from its database."""

from __future__ import annotations

from dataclasses import dataclass

from robust_prefix.evaluation.records import Manifest, Record
from robust_prefix.evaluation.store import RecordStore
from robust_prefix.evaluation.summary import Summary, summarize


@dataclass(frozen=True)
class Results:
    """A run read back: what it was, its records in order, and their summary."""

    manifest: Manifest
    records: tuple[Record, ...]
    summary: Summary

    @classmethod
    def read(cls, store: RecordStore) -> Results:
        """The run in ``store``.

        Raises:
            ConfigError: it has no records yet.
        """
        records = tuple(store.records())
        return cls(store.manifest, records, summarize(records, store.manifest))
