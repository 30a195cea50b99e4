"""What a worker process of a benchmark has loaded, and the jobs it does with that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from robust_prefix.backbones import Backbone, load_backbone
from robust_prefix.classifier import PrefixClassifier
from robust_prefix.errors import ConfigError
from robust_prefix.evaluation.bench import Bench
from robust_prefix.evaluation.once import fit, fitted, probe
from robust_prefix.evaluation.plan import CellPlan
from robust_prefix.evaluation.protocols import Attack, UniversalAttack
from robust_prefix.evaluation.quality import (
    Encoder,
    Pair,
    Quality,
    Scorers,
    as_language_model,
    measure,
)
from robust_prefix.evaluation.records import Key, Manifest, Record, RowProtocol, require_same
from robust_prefix.evaluation.runner import Started, attack_example, check_cell
from robust_prefix.evaluation.sampling import attacked_rows
from robust_prefix.evaluation.trial import System

BuildAttack = Callable[[str, tuple[str, ...], str | Path | None], Attack]
"""Spec, columns, data folder."""


class Workbench:
    """One frozen model, one attack and one cell at a time; the next of a kind replaces the last.

    Jobs come cell by cell, so little is loaded twice, and no more memory is taken than for one.
    Everything runs on one thread: with more the last bits of a result depend on their number.

    Args:
        build_attack: makes an attack from its name and settings.
        device: ``cpu`` or ``cuda``.
        dtype: ``float32`` or ``bfloat16``; one for all workers, so not ``auto``.
        data_dir: the data folder.
        encoder: loads what the similarity of adversaries is measured with; none without it.
    """

    def __init__(
        self,
        build_attack: BuildAttack,
        device: str,
        dtype: str,
        data_dir: str | Path | None = None,
        encoder: Callable[[], Encoder] | None = None,
    ) -> None:
        torch.set_num_threads(1)
        self._build_attack = build_attack
        self._device = device
        self._dtype = dtype
        self._data_dir = data_dir
        self._encoder = encoder
        self._backbone: tuple[str, Backbone] | None = None
        self._attack: tuple[tuple[str, tuple[str, ...]], Attack] | None = None
        self._bench: tuple[CellPlan, Bench] | None = None

    def resume(self, cell: CellPlan, manifest: Manifest) -> Bench:
        """The cell as it was prepared, by whatever process.

        Raises:
            ConfigError: it has come to differ from ``manifest``.
            ResourceError: something that it needs is not there any more.
        """
        bench = self.bench(cell, manifest.controls)
        require_same([manifest], [bench.manifest], "this run")
        return bench

    def bench(self, cell: CellPlan, controls: Mapping[str, tuple[str, ...]] | None = None) -> Bench:
        """The cell, ready to run.

        Args:
            controls: what an earlier call measured, see ``Manifest.controls``.

        Raises:
            ConfigError: a setting does not fit the run.
            ResourceError: something that the cell needs is not there.
        """
        if self._bench is not None and self._bench[0] == cell:
            return self._bench[1]
        self._bench = None
        classifier = PrefixClassifier.from_pretrained(
            cell.run, "none", backbone=self._model(cell), data_dir=self._data_dir
        )
        attack = self._attack_on(cell.attack, classifier.task.columns)
        made = Bench.prepare(
            classifier,
            attack,
            attacked_rows(classifier.task, attack),
            defenses=[classifier.build_defense(spec) for spec in cell.defenses],
            protocols=cell.protocols,
            num_examples=cell.num_examples,
            seed=cell.seed,
            control_seeds=cell.control_seeds,
            controls=controls,
        )
        check_cell(made.manifest, made.systems, made.attack, made.examples)
        self._bench = (cell, made)
        return made

    def scorers(self, cell: CellPlan) -> Scorers:
        """What adversaries of a cell are scored with.

        Raises:
            ResourceError: it is not there any more.
        """
        encoder = None if self._encoder is None else self._encoder()
        return Scorers(as_language_model(self._model(cell)), encoder)

    def _model(self, cell: CellPlan) -> Backbone:
        if self._backbone is None or self._backbone[0] != cell.model:
            self._backbone = None  # the memory of one before the other
            loaded = load_backbone(cell.model, device=self._device, dtype=self._dtype)
            self._backbone = (cell.model, loaded)
        return self._backbone[1]

    def _attack_on(self, spec: str, columns: tuple[str, ...]) -> Attack:
        if self._attack is None or self._attack[0] != (spec, columns):
            self._attack = None
            self._attack = ((spec, columns), self._build_attack(spec, columns, self._data_dir))
        return self._attack[1]


@dataclass(frozen=True)
class Prepared:
    """What the parent has to know of a cell.

    Attributes:
        examples: their indices in the order they are attacked.
        universal: whether the attack looks for one change for all texts first.
    """

    manifest: Manifest
    examples: tuple[int, ...]
    universal: bool


@dataclass(frozen=True, eq=False)
class Prepare:
    """Load what a cell needs and say what it comes to.

    Attributes:
        stored: what an earlier run of this cell came to.
    """

    cell: CellPlan
    stored: Manifest | None

    def __call__(self, workbench: Workbench) -> Iterator[Prepared]:
        """Tell it once."""
        bench = workbench.bench(self.cell, self._measured())
        indices = tuple(example.index for example in bench.examples)
        yield Prepared(bench.manifest, indices, isinstance(bench.attack, UniversalAttack))

    def _measured(self) -> Mapping[str, tuple[str, ...]] | None:
        """The stored controls, unless what they were measured for has changed since."""
        if self.stored is None or self.stored.defenses != self.cell.defenses:
            return None
        numbers = set(map(len, self.stored.controls.values()))
        return self.stored.controls if numbers == {self.cell.control_seeds} else None


@dataclass(frozen=True, eq=False)
class Probe:
    """Check a system."""

    cell: CellPlan
    manifest: Manifest
    defense: str

    def __call__(self, workbench: Workbench) -> Iterator[dict[str, Any]]:
        """Tell what was found, see ``checks.probe``."""
        bench = workbench.resume(self.cell, self.manifest)
        system = _system(bench, self.defense)
        yield probe(system, bench.examples, bench.others(), self.manifest)


@dataclass(frozen=True, eq=False)
class Fit:
    """Look for one change for all texts."""

    cell: CellPlan
    manifest: Manifest
    defense: str
    protocol: RowProtocol

    def __call__(self, workbench: Workbench) -> Iterator[dict[str, Any]]:
        """Tell what was found, see ``once.fit``."""
        bench = workbench.resume(self.cell, self.manifest)
        if not isinstance(bench.attack, UniversalAttack):
            raise ConfigError(f"expected an attack that can be fitted, got {bench.attack.name}")
        system = _system(bench, self.defense)
        yield fit(system, bench.attack, bench.training(), self.manifest, self.protocol)


@dataclass(frozen=True, eq=False)
class AttackExample:
    """Make what is not there yet of one example's records.

    Attributes:
        known: the records that are there.
        states: by defence and protocol, what ``Fit`` told.
        leave_out: the keys of records that cannot be made.
    """

    cell: CellPlan
    manifest: Manifest
    example: int
    known: tuple[Record, ...]
    states: Mapping[tuple[str, str], Mapping[str, Any]]
    leave_out: frozenset[Key]

    def __call__(self, workbench: Workbench) -> Iterator[Started | Record]:
        """Tell of each record when it starts and when it is done."""
        bench = workbench.resume(self.cell, self.manifest)
        attack = bench.attack
        perturbs = (
            {where: fitted(attack, state) for where, state in self.states.items()}
            if isinstance(attack, UniversalAttack)
            else {}
        )
        (example,) = (e for e in bench.examples if e.index == self.example)
        known = {record.key: record for record in self.known}
        yield from attack_example(
            bench.systems, attack, example, bench.manifest, known.get, perturbs, self.leave_out
        )


@dataclass(frozen=True, eq=False)
class Measure:
    """Score adversaries.

    Attributes:
        pairs: see ``quality.unmeasured``.
    """

    cell: CellPlan
    pairs: Mapping[str, Pair]

    def __call__(self, workbench: Workbench) -> Iterator[tuple[str, Quality]]:
        """Tell of each pair its key and its score."""
        scorers = workbench.scorers(self.cell)
        for key, pair in self.pairs.items():
            yield key, measure(*pair, scorers)


def _system(bench: Bench, defense: str) -> System:
    return next(system for system in bench.systems if system.defense == defense)
