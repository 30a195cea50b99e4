"""Two evaluations side by side: what both ran, which held more often, and whether by chance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from robust_prefix.errors import ConfigError
from robust_prefix.evaluation.cells import Cell, Cells, group
from robust_prefix.evaluation.names import distinct_names
from robust_prefix.evaluation.protocols import PROTOCOLS
from robust_prefix.evaluation.records import Manifest, Role
from robust_prefix.evaluation.statistics import Estimate, sign_flip
from robust_prefix.evaluation.summary import SummaryRow
from robust_prefix.tasks import Fields

if TYPE_CHECKING:
    from robust_prefix.evaluation.results import Results


@dataclass(frozen=True)
class Flip:
    """An example that held in one evaluation and not in the other.

    Attributes:
        example: its row in the test split.
        held_first: whether it held in the first; in the second it is the other way about.
        original: its text.
        adversarial: what it was fooled by; None where it was wrong before or crashed.
    """

    example: int
    held_first: bool
    original: Fields
    adversarial: Fields | None


@dataclass(frozen=True)
class ComparedRow:
    """One system under one protocol in both evaluations.

    Attributes:
        task, attack, role, defense, protocol: what was run; attack and defence as specs.
        seeds: the seed of the cell in each evaluation.
        first, second: robust accuracy in each.
        models, prefixes: of the cell in each evaluation.
        shared: how many examples both have; 0 where their test data differ.
        shared_difference: robust accuracy on these in the second less that in the first.
        p_value: of the paired test on these, McNemar's exact for systems of one seed.
        flips: those of them whose outcome differs; none are listed for pooled controls.
        pooled: of controls of several seeds, an example may hold under some and not under others.
    """

    task: str
    attack: str
    role: Role
    defense: str
    protocol: str
    seeds: tuple[int, int]
    models: tuple[str, str]
    prefixes: tuple[str, str]
    first: Estimate
    second: Estimate
    shared: int
    shared_difference: float | None
    p_value: float | None
    flips: tuple[Flip, ...]
    pooled: bool = False

    @property
    def won_and_lost(self) -> tuple[int, int] | None:
        """How many held in the second alone, and how many in the first; None where pooled."""
        if self.pooled:
            return None
        lost = sum(flip.held_first for flip in self.flips)
        return len(self.flips) - lost, lost

    @property
    def difference(self) -> float | None:
        """Robust accuracy in the second less that in the first, on the examples that both have;
        on all where they share none."""
        if self.shared_difference is not None:
            return self.shared_difference
        if self.first.value is None or self.second.value is None:
            return None
        return self.second.value - self.first.value

    def to_dict(self) -> dict[str, Any]:
        """JSON values, rounded."""
        won, lost = self.won_and_lost or (None, None)
        return {
            "task": self.task,
            "attack": self.attack,
            "role": self.role,
            "defense": self.defense,
            "protocol": self.protocol,
            "seeds": list(self.seeds),
            "models": list(self.models),
            "prefixes": list(self.prefixes),
            **_estimate("first", self.first),
            **_estimate("second", self.second),
            "difference": None if self.difference is None else round(self.difference, 6),
            "shared_examples": self.shared,
            "p_value": None if self.p_value is None else round(self.p_value, 6),
            "only_first_held": lost,
            "only_second_held": won,
            "flips": [
                {
                    "example": flip.example,
                    "held": "first" if flip.held_first else "second",
                    "original": list(flip.original),
                    "adversarial": flip.adversarial and list(flip.adversarial),
                }
                for flip in self.flips
            ],
        }


@dataclass(frozen=True)
class Comparison:
    """Everything that two evaluations share.

    Attributes:
        rows: in the order of the first evaluation.
        only_first, only_second: what just one of them has, a line a cell or a system.
    """

    rows: tuple[ComparedRow, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]

    def cell_name(self, row: ComparedRow) -> str:
        """A row's attack, as far as it differs from the others', with seeds, models and prefixes
        where there are several."""
        parts = [distinct_names(each.attack for each in self.rows)[row.attack]]
        for name in ("seed", "model", "prefix"):
            plural = "prefixes" if name == "prefix" else f"{name}s"
            mine = getattr(row, plural)
            if len({getattr(each, plural) for each in self.rows}) > 1:
                parts.append(f"{name} {' and '.join(dict.fromkeys(map(str, mine)))}")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, rounded, the same for equal evaluations."""
        return {
            "rows": [row.to_dict() for row in self.rows],
            "only_first": list(self.only_first),
            "only_second": list(self.only_second),
        }


def compare(first: Sequence[Results], second: Sequence[Results]) -> Comparison:
    """Compare what two evaluations share: task, attack, defence and protocol.

    Seed, model and prefix may differ, since they may be what is compared; where an evaluation has
    several of them, those that agree are set side by side.

    Raises:
        ConfigError: they share nothing.
    """
    pairs = _pairs(first, second)
    rows: list[ComparedRow] = []
    for one, other in pairs:
        others = {_row_key(other, row): row for row in other.summary.rows}
        for row in one.summary.rows:
            rival = others.get(_row_key(one, row))
            if rival is not None:
                rows.append(_compared(one, row, other, rival))
    if not rows:
        raise ConfigError(
            "expected two evaluations that share task, attack, defence and protocol, got "
            f"{_told(first)} and {_told(second)}; compare runs of the same attack on one task"
        )
    others_of = {id(one): other for one, other in pairs}
    ones_of = {id(other): one for one, other in pairs}
    return Comparison(tuple(rows), tuple(_left(first, others_of)), tuple(_left(second, ones_of)))


def _pairs(first: Sequence[Results], second: Sequence[Results]) -> list[tuple[Results, Results]]:
    """Cells of one task and attack; told apart by as little else as needed."""
    keys: list[Callable[[Manifest], tuple[Any, ...]]] = [
        lambda m: (m.task, m.attack),
        lambda m: (m.task, m.attack, m.seed),
        lambda m: (m.task, m.attack, m.seed, m.model),
        lambda m: (m.task, m.attack, m.seed, m.model, m.prefix),
    ]
    for key in keys:
        ours = {key(run.manifest): run for run in first}
        theirs = {key(run.manifest): run for run in second}
        if len(ours) == len(first) and len(theirs) == len(second):
            break
    return [(run, theirs[name]) for name, run in ours.items() if name in theirs]


def _row_key(run: Results, row: SummaryRow) -> tuple[str, ...]:
    # a control is as large as what it stands beside, so its own settings differ between runs
    system = (row.role, row.control_of or row.defense)
    # the undefended system has one row, which stands for every protocol
    return system if row.role == "undefended" else (*system, _protocol(run, row))


def _protocol(run: Results, row: SummaryRow) -> str:
    """A row's protocol; ``worst`` with what it counts, for it may be the worst of two or three."""
    if row.protocol != "worst":
        return row.protocol
    cells = (cell for cells in _members(run, row) for cell in cells.values())
    counted = {record.protocol for cell in cells for record in cell.records}
    return f"worst of {' and '.join(sorted(counted, key=PROTOCOLS.index))}"


def _compared(one: Results, row: SummaryRow, other: Results, rival: SummaryRow) -> ComparedRow:
    members, rivals = _members(one, row), _members(other, rival)
    shared: list[int] = []
    if one.manifest.test_fingerprint == other.manifest.test_fingerprint:
        shared = [e for e in members[0] if all(e in cells for cells in (*members, *rivals))]
    differences = [
        len(members) * sum(cells[example].held for cells in rivals)
        - len(rivals) * sum(cells[example].held for cells in members)
        for example in shared
    ]
    single = len(members) == len(rivals) == 1
    return ComparedRow(
        task=one.manifest.task,
        attack=one.manifest.attack,
        role=row.role,
        defense=row.defense,
        protocol=row.protocol,
        seeds=(one.manifest.seed, other.manifest.seed),
        models=(one.manifest.model, other.manifest.model),
        prefixes=(one.manifest.prefix, other.manifest.prefix),
        first=row.robust_accuracy,
        second=rival.robust_accuracy,
        shared=len(shared),
        shared_difference=(
            sum(differences) / (len(members) * len(rivals) * len(shared)) if shared else None
        ),
        p_value=sign_flip(differences, one.manifest.seed) if shared else None,
        flips=tuple(_flips(members[0], rivals[0], shared)) if single else (),
        pooled=not single,
    )


def _members(run: Results, row: SummaryRow) -> list[Cells]:
    """The cells behind a row; of a control, those of each of its seeds."""
    specs = (row.defense,) if row.control_of is None else run.manifest.controls[row.control_of]
    found = group(run.records)
    return [
        found[row.role, spec][row.protocol]
        for spec in specs
        if row.protocol in found.get((row.role, spec), {})
    ]


def _flips(first: Cells, second: Cells, shared: Sequence[int]) -> Iterator[Flip]:
    for example in shared:
        held = first[example].held
        if held != second[example].held:
            lost = second[example] if held else first[example]
            yield Flip(example, held, lost.records[0].original, _adversary(lost))


def _adversary(cell: Cell) -> Fields | None:
    """What it was fooled by, or the claim that was not verified."""
    return next((r.adversarial for r in cell.records if not r.held and r.adversarial), None)


def _left(runs: Sequence[Results], rivals: Mapping[int, Results]) -> Iterator[str]:
    """What of ``runs`` has nothing beside it, given by identity what each is compared with."""
    for run in runs:
        manifest, rival = run.manifest, rivals.get(id(run))
        cell = f"{manifest.attack} on {manifest.task}"
        if rival is None:
            yield f"{cell}, seed {manifest.seed}"
            continue
        shared = {_row_key(rival, row) for row in rival.summary.rows}
        protocols: dict[str, list[str]] = {}
        for row in run.summary.rows:
            if row.role != "control" and _row_key(run, row) not in shared:
                protocols.setdefault(row.defense, []).append(_protocol(run, row))
        for defense, names in protocols.items():
            yield f"{cell}, {defense}: {', '.join(names)}"


def _told(runs: Sequence[Results]) -> str:
    names = dict.fromkeys(f"{run.manifest.attack} on {run.manifest.task}" for run in runs)
    return ", ".join(names)


def _estimate(name: str, estimate: Estimate) -> dict[str, Any]:
    value = None if estimate.value is None else round(estimate.value, 6)
    return {name: value, f"{name}_interval": [round(bound, 6) for bound in estimate.interval]}
