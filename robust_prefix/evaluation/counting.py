"""From records to the rows of a summary, and to the flags that qualify them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robust_prefix.errors import ConfigError
from robust_prefix.evaluation.cells import (
    Cell,
    Cells,
    Protocols,
    group,
    held_against,
    held_on_shared,
)
from robust_prefix.evaluation.costs import count_costs
from robust_prefix.evaluation.curves import query_curve
from robust_prefix.evaluation.flags import clean_flags, control_flags, trust_flags
from robust_prefix.evaluation.names import distinct_names, short_name
from robust_prefix.evaluation.protocols import PROTOCOLS
from robust_prefix.evaluation.quality import Qualities
from robust_prefix.evaluation.records import Manifest, Record, Role
from robust_prefix.evaluation.statistics import (
    Estimate,
    bootstrap_ratio,
    mcnemar,
    pooled_proportion,
    sign_flip,
)
from robust_prefix.evaluation.summary import Summary, SummaryRow
from robust_prefix.specs import Spec, parse_composition

Probes = Mapping[str, Mapping[str, Any]]
"""By defence, what the checks found, see ``checks.probe``."""


def summarize(
    records: Iterable[Record],
    manifest: Manifest,
    probes: Probes | None = None,
    qualities: Qualities | None = None,
) -> Summary:
    """Count ``records``, which belong to the cell of ``manifest``.

    Args:
        probes: what the checks found; nothing is flagged for want of them.
        qualities: of the pairs of texts that were measured.

    Raises:
        ConfigError: there are none.
    """
    found = group(records)
    if not found:
        raise ConfigError("expected records, got a run without any; resume it first")
    systems = list(_systems(found, manifest))
    rows = [
        _row(system, protocol, systems, manifest, probes or {}, qualities or {})
        for system in systems
        for protocol in PROTOCOLS
        if system.at(protocol)
    ]
    return Summary(manifest, tuple(rows))


def pooled_spec(specs: Sequence[str]) -> str:
    """One spec for several of one name that differ in their settings: ``a(x=1, seed=0/1)``."""
    return "+".join(map(_pooled, zip(*map(parse_composition, specs), strict=True)))


def _pooled(parts: Sequence[Spec]) -> str:
    settings = {
        name: "/".join(dict.fromkeys(part.settings[name] for part in parts))
        for name in parts[0].settings
    }
    return str(Spec(parts[0].name, settings))


@dataclass(frozen=True)
class _System:
    """What one row is about: one system, or all the controls of one defence."""

    role: Role
    defense: str
    label: str
    control_of: str | None
    members: tuple[Protocols, ...]

    def at(self, protocol: str) -> list[Cells]:
        """The cells of each member that has any."""
        return [cells for member in self.members if (cells := member.get(protocol))]


def _systems(found: Mapping[tuple[Role, str], Protocols], manifest: Manifest) -> Iterator[_System]:
    """Those with records: the undefended, then each defence before its control."""
    names: dict[Role, list[str]] = {"undefended": [], "defense": [], "control": []}
    for role, defense in found:
        names[role].append(defense)
    for defense in names["undefended"]:
        yield _System("undefended", defense, defense, None, (found["undefended", defense],))
    # in the manifest's order, then whatever it does not name
    tested = distinct_names((*manifest.defenses, *names["defense"]))
    for defense, label in tested.items():
        if defense in names["defense"]:
            yield _System("defense", defense, label, None, (found["defense", defense],))
        controls = [c for c in manifest.controls.get(defense, ()) if c in names["control"]]
        if controls:
            members = tuple(found["control", control] for control in controls)
            spec = pooled_spec(controls)
            name = short_name(spec)
            if name == label:  # the defence itself, dealt out at random
                name = f"{name} at random"
            beside = f"{name} beside {label}" if len(manifest.controls) > 1 else name
            yield _System("control", spec, beside, defense, members)


def _row(
    system: _System,
    protocol: str,
    systems: Sequence[_System],
    manifest: Manifest,
    probes: Probes,
    qualities: Qualities,
) -> SummaryRow:
    members = system.at(protocol)
    cells = [cell for member in members for cell in member.values()]
    outcomes = [cell.outcome for cell in cells]
    records = [record for cell in cells for record in cell.records]
    defended = system.role == "defense"
    undefended = [s for s in systems if defended and s.role == "undefended"]
    control = [s for s in systems if defended and s.control_of == system.defense]
    rivals = control[0].at(protocol) if control else []
    differences = held_against(members[0], rivals) if rivals else []
    row = SummaryRow(
        role=system.role,
        defense=system.defense,
        label=system.label,
        control_of=system.control_of,
        seeds=len(members),
        dynamic=records[0].dynamic,
        protocol=protocol,
        n=len({example for member in members for example in member}),
        succeeded=outcomes.count("succeeded"),
        failed=outcomes.count("failed"),
        skipped=outcomes.count("skipped"),
        errors=outcomes.count("error"),
        held=sum(cell.held for cell in cells),
        unverified=sum(record.unverified for record in records),
        refused_adversaries=sum(r.abstained_adversarial and r.held for r in records),
        abstention_rate=_share(members, lambda cell: cell.abstained),
        clean_accuracy=_share(members, lambda cell: cell.clean),
        robust_accuracy=_share(members, lambda cell: cell.held),
        attack_success_rate=_share(members, lambda cell: cell.outcome == "succeeded", _attacked),
        queries_mean=_queries(members, manifest.seed),
        forward_passes=_mean(record.prediction_forward_passes for record in records),
        backward_passes=_mean(record.prediction_backward_passes for record in records),
        p_value_undefended=_p_value(members[0], undefended[0]) if undefended else None,
        p_value_control=sign_flip(differences, manifest.seed) if differences else None,
        costs=count_costs(records, qualities, manifest.seed),
        curve=query_curve(records) if protocol in ("direct", "adaptive") else None,
        flags=(),
        seconds=math.fsum(record.seconds for record in records),
    )
    flags = [
        *trust_flags(row, system.members, manifest, probes),
        *(clean_flags(members[0], *undefended[0].members[0].values()) if undefended else ()),
        *control_flags(row, sum(differences)),
    ]
    return dataclasses.replace(row, flags=tuple(flags))


def _attacked(cell: Cell) -> bool:
    return cell.outcome in ("succeeded", "failed")


def _by_example(members: Sequence[Cells]) -> list[list[Cell]]:
    """The cells of each example, one a member that has it."""
    found: dict[int, list[Cell]] = {}
    for member in members:
        for example, cell in member.items():
            found.setdefault(example, []).append(cell)
    return list(found.values())


def _share(
    members: Sequence[Cells],
    has: Callable[[Cell], bool],
    counts: Callable[[Cell], bool] = lambda cell: True,
) -> Estimate:
    """Of the cells that count, how many have it."""
    groups = [[cell for cell in cells if counts(cell)] for cells in _by_example(members)]
    successes = [sum(map(has, cells)) for cells in groups]
    return pooled_proportion(successes, [len(cells) for cells in groups])


def _queries(members: Sequence[Cells], seed: int) -> Estimate | None:
    groups = [list(filter(_attacked, cells)) for cells in _by_example(members)]
    sums = [sum(cell.queries for cell in cells) for cells in groups]
    return bootstrap_ratio(sums, [len(cells) for cells in groups], seed)


def _p_value(cells: Cells, undefended: _System) -> float | None:
    """Against the one row of the undefended system, whatever it is called."""
    (others,) = undefended.members[0].values()
    held, other_held = held_on_shared(cells, others)
    return mcnemar(held, other_held) if held else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
