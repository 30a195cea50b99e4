"""What was recorded, read back from its database."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from robust_prefix.errors import ConfigError, ResourceError
from robust_prefix.evaluation.counting import summarize
from robust_prefix.evaluation.matrix_flags import matrix_flags
from robust_prefix.evaluation.quality import Qualities, Quality, pair_key, read_qualities
from robust_prefix.evaluation.records import Manifest, Record
from robust_prefix.evaluation.store import RecordStore
from robust_prefix.evaluation.summary import Summary, SummaryRow


@dataclass(frozen=True)
class Results:
    """A cell read back.

    Attributes:
        manifest: what it was.
        records: in order.
        summary: what they come to.
        qualities: of those of their pairs of texts that were measured.
        states: by defence and protocol, what a universal attack found and what that cost, see
            ``once.fit``.
    """

    manifest: Manifest
    records: tuple[Record, ...]
    summary: Summary
    qualities: Qualities = field(default_factory=dict)
    states: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)

    def quality(self, record: Record) -> Quality | None:
        """That of the pair of texts of ``record``, where it was measured."""
        return self.qualities.get(pair_key(record))

    @classmethod
    def read(cls, store: RecordStore) -> list[Results]:
        """The cells in ``store`` that have records, in order.

        Raises:
            ConfigError: none has any yet.
            ResourceError: none can have any here; the reason that was noted first.
        """
        found = []
        probes = store.items("probe")
        qualities = read_qualities(store)
        for manifest in store.manifests:
            records = tuple(store.records(manifest))
            if records:
                known = {name: probes.get(manifest.probe_key(name)) for name in manifest.systems}
                given = {name: probe for name, probe in known.items() if probe}
                summary = summarize(records, manifest, given, qualities)
                mine = {key: qualities[key] for key in map(pair_key, records) if key in qualities}
                states = stored_states(store, manifest)
                found.append(cls(manifest, records, summary, mine, states))
        if not found:
            if missing := store.items("missing"):
                raise ResourceError(next(iter(missing.values())))
            raise ConfigError(
                f"expected records in {store.path}, got a run without any; resume it first"
            )
        return list(_doubted(found))


def missing_cells(store: RecordStore) -> dict[str, str]:
    """What ``Results.read`` cannot tell of, by the name of the cell, or of a part of one.

    Returns:
        Why there are no records: something has to be installed, or the run has not come that far.
    """
    found: dict[str, str] = dict(store.items("missing"))
    for manifest in store.manifests:
        if manifest.name not in found and not store.records(manifest):
            found[manifest.name] = "no records yet; the command that made this folder resumes it"
    return found


def _doubted(found: Sequence[Results]) -> Iterator[Results]:
    """The same with the doubts that cells raise about one another."""
    flags = {(each.cell, each.defense, each.protocol): each.flag for each in matrix_flags(found)}
    for run in found:
        rows = tuple(
            dataclasses.replace(row, flags=(*row.flags, *_raised(run, row, flags)))
            for row in run.summary.rows
        )
        yield dataclasses.replace(run, summary=Summary(run.manifest, rows))


def _raised(
    run: Results, row: SummaryRow, flags: Mapping[tuple[str, str, str], str]
) -> Iterable[str]:
    """The doubts about a row, or about any of the seeds of a control; each once."""
    specs = (row.defense, *run.manifest.controls.get(row.control_of or "", ()))
    keys = ((run.manifest.name, spec, row.protocol) for spec in specs)
    return dict.fromkeys(flags[key] for key in keys if key in flags)


def stored_states(
    store: RecordStore, manifest: Manifest
) -> dict[tuple[str, str], Mapping[str, Any]]:
    """What a universal attack found, by the defence and the protocol it was found against."""
    places = [(spec, row) for spec in manifest.systems for row in manifest.searches(spec)]
    found = {place: store.find("state", manifest.state_key(*place)) for place in places}
    return {place: state for place, state in found.items() if state is not None}
