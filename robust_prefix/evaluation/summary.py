"""A cell in numbers: one row for each system and protocol, each share with its interval."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from robust_prefix.errors import ConfigError, unknown_name
from robust_prefix.evaluation.costs import ESTIMATES, Costs
from robust_prefix.evaluation.curves import QueryCurve
from robust_prefix.evaluation.names import short_name as short_name
from robust_prefix.evaluation.protocols import PROTOCOLS
from robust_prefix.evaluation.records import Manifest, Role
from robust_prefix.evaluation.statistics import Estimate

# Estimates that may be None; each has its interval beside it all the same.
_ESTIMATES = ("queries_mean", *ESTIMATES)

_UNDER_ATTACK = ("robust_accuracy", "attack_success_rate")
_UNWRITTEN = ("label", "seconds")


@dataclass(frozen=True)
class SummaryRow:
    """One system under one protocol; of a control, all its seeds in one row.

    Attributes:
        role: what the system is in the run for.
        defense: canonical spec; of a control with several seeds their common one.
        label: its short name, with whatever settings tell it from the others of its cell.
        control_of: the defence that a control stands beside, its canonical spec.
        seeds: how many controls are pooled in the row; 1 for anything else.
        dynamic: whether it optimises at inference.
        protocol: ``replay``, ``direct``, ``adaptive`` or ``worst``; an undefended system
            has only one row, which stands for all of them.
        n: examples counted.
        succeeded, failed, skipped, errors: their outcomes, adding up to ``n`` times ``seeds``.
        held: failed ones among them that held whenever the system was asked, so that no adversary
            was claimed and not confirmed.
        unverified: adversaries that the attack claimed and that did not fool the system again.
        refused_adversaries: adversaries that it was shown, refused to answer, and so held.
        abstention_rate: share of the ``n`` originals that the system refused to answer.
        clean_accuracy: share of the ``n`` originals that are classified right, the mean over
            seeds, what is refused being wrong; with the interval of ``pooled_proportion``, which
            is Wilson's for one seed.
        robust_accuracy: share of the ``n`` that are right and held; skipped and errors did not.
        attack_success_rate: succeeded / (succeeded + failed).
        queries_mean: mean of the attack's own count over attacked examples, with a bootstrap
            interval; 0 for a replay, which asks this system nothing.
        forward_passes, backward_passes: per prediction, in full passes; None without predictions.
        p_value_undefended: McNemar's exact p-value against the undefended system.
        p_value_control: of the sign-flip test against the control at the same protocol, its seeds
            averaged; for one seed the same as McNemar's.
        costs: of attacker, reader and defender.
        curve: robust accuracy by queries allowed; of a ``direct`` or ``adaptive`` row alone.
        flags: what a reader has to know before believing the numbers.
        seconds: wall-clock time; differs between equal runs and so is in no output.
    """

    role: Role
    defense: str
    label: str
    control_of: str | None
    seeds: int
    dynamic: bool
    protocol: str
    n: int
    succeeded: int
    failed: int
    skipped: int
    errors: int
    held: int
    unverified: int
    refused_adversaries: int
    abstention_rate: Estimate
    clean_accuracy: Estimate
    robust_accuracy: Estimate
    attack_success_rate: Estimate
    queries_mean: Estimate | None
    forward_passes: float | None
    backward_passes: float | None
    p_value_undefended: float | None
    p_value_control: float | None
    costs: Costs
    curve: QueryCurve | None
    flags: tuple[str, ...]
    seconds: float

    @property
    def is_evidence(self) -> bool:
        """Whether it says anything of robustness: replayed texts do not of what adapts itself to
        each text."""
        return not (self.dynamic and self.protocol == "replay")

    @property
    def name(self) -> str:
        """The defence as a table calls it, or ``undefended``."""
        return "undefended" if self.role == "undefended" else self.label

    def to_dict(self) -> dict[str, Any]:
        """The row as plain JSON values, rounded, the same for equal runs."""
        flat: dict[str, Any] = {}
        for name, value in self._values():
            if isinstance(value, Estimate) or name in _ESTIMATES:
                flat[name] = None if value is None else _rounded(value.value)
                flat[f"{name}_interval"] = value and [_rounded(bound) for bound in value.interval]
            elif isinstance(value, QueryCurve):
                flat[name] = value.to_dict()
            elif isinstance(value, float):
                flat[name] = _rounded(value)
            else:
                flat[name] = list(value) if isinstance(value, tuple) else value
        return flat

    def _values(self) -> Iterator[tuple[str, Any]]:
        """What ``to_dict`` writes, under its names there."""
        for field in dataclasses.fields(self):
            if field.name == "costs":
                yield from self.costs.items()
            elif field.name not in _UNWRITTEN:
                yield field.name, getattr(self, field.name)


@dataclass(frozen=True)
class Summary:
    """A run in numbers."""

    manifest: Manifest
    rows: tuple[SummaryRow, ...]

    @property
    def protocols(self) -> tuple[str, ...]:
        """Those with rows of their own, in the usual order; the undefended one's if nothing is
        defended."""
        rows = [row for row in self.rows if row.role != "undefended"] or self.rows
        found = {row.protocol for row in rows}
        return tuple(name for name in PROTOCOLS if name in found)

    def at(self, protocol: str) -> tuple[SummaryRow, ...]:
        """The rows to be compared: undefended first, then each defence before its control."""
        return tuple(row for row in self.rows if self._stands_at(row, protocol))

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
            if self._stands_at(row, protocol):
                return row
        known = {row.protocol for row in rows}
        raise ConfigError(
            f"expected a protocol that {defense!r} was evaluated under "
            f"({', '.join(sorted(known))}), got {protocol!r}"
        )

    def _stands_at(self, row: SummaryRow, protocol: str) -> bool:
        """Whether it is the row of its system there: the undefended one has one for all protocols,
        and what hides nothing is attacked adaptively where it is attacked directly, which is the
        worst then, too, where nothing is replayed."""
        if row.role == "undefended" or row.protocol == protocol:
            return True
        if row.protocol != "direct" or self.manifest.hides(row.defense, row.control_of):
            return False
        alone = "replay" not in self.manifest.rows_of(row.defense)
        return protocol == "adaptive" or (protocol == "worst" and alone)

    def control(self, row: SummaryRow) -> SummaryRow | None:
        """The control beside the defence of ``row`` at its protocol, if there is one."""
        return next(
            (r for r in self.at(row.protocol) if r.control_of == row.defense),
            None,
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

    @property
    def headline(self) -> dict[str, Any]:
        """``headline`` of the first defence under test at the strictest protocol.

        A run stopped before the first record of that defence has none, only a flag; nor has one in
        which the protocol could not be carried out.
        """
        tested, protocol = self.manifest.tested, self.manifest.protocol
        try:
            return headline(self, tested, protocol)
        except ConfigError:
            done = [row for row in self.rows if row.defense == tested]
            if done and all(row.n == self.manifest.n for row in done):
                return {"flags": [f"not evaluated under {protocol}: {tested}"]}
            return {"flags": [f"incomplete: nothing yet about {tested}"]}

    def to_dict(self) -> dict[str, Any]:
        """The headline, the manifest and every row."""
        return {
            **self.headline,
            "manifest": dataclasses.asdict(self.manifest),
            "rows": [row.to_dict() for row in self.rows],
        }


def headline(summary: Summary, defense: str, protocol: str) -> dict[str, Any]:
    """What ``--json`` prints: one flat mapping about one defence at one protocol.

    Of a defence that optimises at inference a replay shows nothing: no robust accuracy is given.

    Raises:
        ConfigError: the run has no such row.
    """
    row = summary.row(defense, protocol)
    manifest = summary.manifest
    undefended = summary.role("undefended", protocol)
    control = summary.control(row)
    given = {name: value for name, value in row.to_dict().items() if name != "curve"}
    if not row.is_evidence:
        given |= {name: None for name in given if name.startswith(_UNDER_ATTACK)}
    return {
        "task": manifest.task,
        "model": manifest.model,
        "prefix": manifest.prefix,
        "attack": manifest.attack,
        "seed": manifest.seed,
        **given,
        "protocol": protocol,
        "undefended_robust_accuracy": undefended and _rounded(undefended.robust_accuracy.value),
        "control": control and control.defense,
        "control_robust_accuracy": control and _rounded(control.robust_accuracy.value),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
