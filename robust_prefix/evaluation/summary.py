"""From records to accuracies, each with its interval, and to the flags that qualify them."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robust_prefix.errors import ConfigError, unknown_name
from robust_prefix.evaluation.cells import Cells, Protocols, group, held_on_shared
from robust_prefix.evaluation.flags import control_flags, trust_flags
from robust_prefix.evaluation.protocols import PROTOCOLS
from robust_prefix.evaluation.records import Manifest, Record, Role
from robust_prefix.evaluation.statistics import Estimate, bootstrap_mean, mcnemar, wilson


@dataclass(frozen=True)
class SummaryRow:
    """One system under one protocol.

    Attributes:
        role: what the system is in the run for.
        defense: canonical spec.
        dynamic: whether it optimises at inference.
        protocol: ``replay``, ``direct`` or ``worst``; an undefended system has only ``direct``,
            which stands for all three.
        n: examples counted.
        succeeded, failed, skipped, errors: their outcomes, adding up to ``n``.
        unverified: failed ones among them for which the attack had claimed success.
        clean_accuracy: share of the ``n`` originals that are classified right.
        robust_accuracy: share of the ``n`` that are right and held; skipped and errors did not.
        attack_success_rate: succeeded / (succeeded + failed).
        queries_mean: mean of the attack's own count over attacked examples, with a bootstrap
            interval; 0 for a replay, which asks this system nothing.
        forward_passes, backward_passes: per prediction, in full passes; None without predictions.
        p_value_undefended: McNemar's exact p-value against the undefended system.
        p_value_control: the same against the control at the same protocol.
        flags: what a reader has to know before believing the numbers.
        seconds: wall-clock time; differs between equal runs and so is in no output.
    """

    role: Role
    defense: str
    dynamic: bool
    protocol: str
    n: int
    succeeded: int
    failed: int
    skipped: int
    errors: int
    unverified: int
    clean_accuracy: Estimate
    robust_accuracy: Estimate
    attack_success_rate: Estimate
    queries_mean: Estimate | None
    forward_passes: float | None
    backward_passes: float | None
    p_value_undefended: float | None
    p_value_control: float | None
    flags: tuple[str, ...]
    seconds: float

    @property
    def name(self) -> str:
        """The defence without its settings, or ``undefended``."""
        return "undefended" if self.role == "undefended" else short_name(self.defense)

    def to_dict(self) -> dict[str, Any]:
        """The row as plain JSON values, rounded, the same for equal runs."""
        row = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "seconds"
        }
        flat: dict[str, Any] = {}
        for name, value in row.items():
            if isinstance(value, Estimate) or name == "queries_mean":
                flat[name] = None if value is None else _rounded(value.value)
                flat[f"{name}_interval"] = value and [_rounded(bound) for bound in value.interval]
            elif isinstance(value, float):
                flat[name] = _rounded(value)
            else:
                flat[name] = list(value) if isinstance(value, tuple) else value
        return flat


@dataclass(frozen=True)
class Summary:
    """A run in numbers."""

    manifest: Manifest
    rows: tuple[SummaryRow, ...]

    @property
    def protocols(self) -> tuple[str, ...]:
        """Those with rows of their own, in the usual order; ``direct`` if nothing is defended."""
        found = {row.protocol for row in self.rows if row.role != "undefended"} or {"direct"}
        return tuple(name for name in PROTOCOLS if name in found)

    def at(self, protocol: str) -> tuple[SummaryRow, ...]:
        """The rows to be compared at ``protocol``: undefended first, then defences, controls."""
        return tuple(
            row for row in self.rows if row.role == "undefended" or row.protocol == protocol
        )

    def row(self, defense: str, protocol: str) -> SummaryRow:
        """The row of one defence, given as its canonical spec.

        Raises:
            ConfigError: the run has no such row.
        """
        rows = [row for row in self.rows if row.defense == defense]
        if not rows:
            known = {row.defense for row in self.rows}
            raise unknown_name("defence of this run", defense, known)
        for row in rows:
            if row.protocol == protocol or row.role == "undefended":
                return row
        known = {row.protocol for row in rows}
        raise ConfigError(
            f"expected a protocol that {defense!r} was evaluated under "
            f"({', '.join(sorted(known))}), got {protocol!r}"
        )

    def role(self, role: Role, protocol: str) -> SummaryRow | None:
        """The first row of ``role`` at ``protocol``, if there is one."""
        return next((row for row in self.at(protocol) if row.role == role), None)

    @property
    def flags(self) -> tuple[str, ...]:
        """Every row's flags, each with the row it is about."""
        return tuple(
            f"{row.name}, {row.protocol}: {flag}" for row in self.rows for flag in row.flags
        )

    @property
    def seconds(self) -> float:
        """Wall-clock time of all records."""
        return sum(row.seconds for row in self.rows if row.protocol != "worst")

    def to_dict(self) -> dict[str, Any]:
        """The headline of the defence under test, the manifest and every row.

        A run stopped before the first record of that defence has no headline, only a flag.
        """
        try:
            front = headline(self, self.manifest.defense, self.manifest.protocol)
        except ConfigError:
            front = {"flags": [f"incomplete: nothing yet about {self.manifest.defense}"]}
        return {
            **front,
            "manifest": dataclasses.asdict(self.manifest),
            "rows": [row.to_dict() for row in self.rows],
        }


def short_name(spec: str) -> str:
    """A spec without its settings: ``a(x=1)+b`` is ``a+b``."""
    return re.sub(r"\([^()]*\)", "", spec)


def summarize(records: Iterable[Record], manifest: Manifest) -> Summary:
    """Count ``records``, which belong to the run of ``manifest``.

    Raises:
        ConfigError: there are none.
    """
    systems = group(records)
    if not systems:
        raise ConfigError("expected records, got a run without any; resume it first")
    baselines: dict[str, Protocols] = {}
    for (role, _), protocols in systems.items():
        baselines.setdefault(role, protocols)
    rows = [
        _row(role, defense, protocol, protocols, baselines, manifest)
        for (role, defense), protocols in systems.items()
        for protocol in PROTOCOLS
        if protocols.get(protocol)
    ]
    return Summary(manifest, tuple(rows))


def headline(summary: Summary, defense: str, protocol: str) -> dict[str, Any]:
    """What ``--json`` prints: one flat mapping about one defence at one protocol.

    Raises:
        ConfigError: the run has no such row.
    """
    row = summary.row(defense, protocol)
    manifest = summary.manifest
    undefended = summary.role("undefended", protocol)
    control = summary.role("control", protocol)
    return {
        "task": manifest.task,
        "model": manifest.model,
        "prefix": manifest.prefix,
        "attack": manifest.attack,
        "seed": manifest.seed,
        **row.to_dict(),
        "protocol": protocol,
        "undefended_robust_accuracy": undefended and _rounded(undefended.robust_accuracy.value),
        "control": control and control.defense,
        "control_robust_accuracy": control and _rounded(control.robust_accuracy.value),
    }


def _row(
    role: Role,
    defense: str,
    protocol: str,
    protocols: Protocols,
    baselines: Mapping[str, Protocols],
    manifest: Manifest,
) -> SummaryRow:
    cells = protocols[protocol]
    outcomes = [cell.outcome for cell in cells.values()]
    records = [record for cell in cells.values() for record in cell.records]
    n, succeeded, failed = len(cells), outcomes.count("succeeded"), outcomes.count("failed")
    queries = [c.queries for c in cells.values() if c.outcome in ("succeeded", "failed")]
    predictions = sum(record.model_queries for record in records)
    defended = role == "defense"
    undefended = baselines.get("undefended", {}).get("direct", {}) if defended else {}
    control = baselines.get("control", {}).get(protocol, {}) if defended else {}
    row = SummaryRow(
        role=role,
        defense=defense,
        dynamic=records[0].dynamic,
        protocol=protocol,
        n=n,
        succeeded=succeeded,
        failed=failed,
        skipped=outcomes.count("skipped"),
        errors=outcomes.count("error"),
        unverified=sum(record.unverified for record in records),
        clean_accuracy=wilson(sum(cell.clean for cell in cells.values()), n),
        robust_accuracy=wilson(sum(cell.held for cell in cells.values()), n),
        attack_success_rate=wilson(succeeded, succeeded + failed),
        queries_mean=bootstrap_mean(queries, seed=manifest.seed),
        forward_passes=_per(records, "forward_passes", predictions),
        backward_passes=_per(records, "backward_passes", predictions),
        p_value_undefended=_p_value(cells, undefended),
        p_value_control=_p_value(cells, control),
        flags=(),
        seconds=math.fsum(record.seconds for record in records),
    )
    flags = [*trust_flags(row, protocols, manifest), *control_flags(row, cells, control)]
    return dataclasses.replace(row, flags=tuple(flags))


def _p_value(cells: Cells, others: Cells) -> float | None:
    held, other_held = held_on_shared(cells, others)
    return mcnemar(held, other_held) if held else None


def _per(records: Sequence[Record], name: str, predictions: int) -> float | None:
    return math.fsum(getattr(r, name) for r in records) / predictions if predictions else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
