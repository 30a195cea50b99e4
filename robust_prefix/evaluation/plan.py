"""A matrix of cells from a TOML file: runs x attacks x seeds, under defences and protocols.

::

    runs = ["zoo:sst2-smollm2-135m", "runs/sst2-adversarial"]
    attacks = ["pwws", "textfooler(max_queries=500)", "file:adversaries.csv"]
    defenses = ["robust-prefix", "projection"]
    protocols = ["replay", "direct", "adaptive"]
    seeds = [0, 1]
    num_examples = 100
    control_seeds = 5

A run directory or ``zoo:NAME`` brings its task, model and prefix. Everything but ``runs`` and
``attacks`` may be left out. Paths are relative to the folder the command is called in.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass

from robust_prefix.defenses import build_defense
from robust_prefix.errors import ConfigError, ResourceError
from robust_prefix.evaluation.protocols import PROTOCOLS, ProtocolName
from robust_prefix.evaluation.records import UNDEFENDED, cell_name
from robust_prefix.runs import Run
from robust_prefix.specs import build_config

# Lists, for the messages to say what TOML calls them.
Names = Annotated[list[str], Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32, strict=True)]


@checked_dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Plan:
    """What a matrix is made of.

    Attributes:
        runs: run directories or ``zoo:NAME``.
        attacks: names with settings, or ``file:PATH`` for recorded adversaries.
        defenses: names with settings; ``default`` is the run's own. The undefended classifier is
            in every cell unasked.
        protocols: ``replay``, ``direct``, ``adaptive``, ``worst``; the first ones give the last.
        seeds: one cell each.
        num_examples: texts a cell, drawn from the test split.
        control_seeds: random controls beside each defence that has any.
    """

    runs: Names
    attacks: Names
    defenses: list[str] = field(default_factory=lambda: ["default"])
    protocols: Annotated[list[ProtocolName], Field(min_length=1)] = field(
        default_factory=lambda: ["replay", "direct", "adaptive"]
    )
    seeds: Annotated[list[Seed], Field(min_length=1)] = field(default_factory=lambda: [0])
    num_examples: Annotated[int, Field(ge=1, strict=True)] = 100
    control_seeds: Annotated[int, Field(ge=0, strict=True)] = 5

    @classmethod
    def read(cls, path: str | Path) -> Plan:
        """The plan in a TOML file.

        Raises:
            ResourceError: there is no such file.
            ConfigError: it is no TOML, or has a key or a value that a plan has not.
        """
        path = Path(path)
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ResourceError(f"expected a matrix in TOML at {path}, got no file there") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"expected TOML in {path}, got {error}") from None
        for name in ("runs", "attacks"):
            if name not in values and not set(values) - _NAMES:
                raise ConfigError(f"expected {name} = [...] in {path}, got {list(values)}")
        try:
            return build_config(cls, values, "a matrix")
        except ConfigError as error:
            raise ConfigError(f"{error} (in {path})") from None

    def cells(
        self, check_attack: Callable[[str], str], data_dir: str | Path | None = None
    ) -> list[CellPlan]:
        """The cells in order: run by run, in each attack by attack, then seed by seed.

        Nothing is run and no model is loaded; names, settings and run directories are looked at.

        Args:
            check_attack: the canonical spec of an attack, as far as it is known without what the
                attack needs.

        Raises:
            ConfigError: an attack or a defence is unknown, has a setting that it has not, or
                stands there twice in other words; the very same words count once.
            ArtifactError: a run is missing or damaged, or lacks what a defence needs.
        """
        attacks = {attack: check_attack(attack) for attack in self.attacks}
        cells = []
        for name in self.runs:
            run = Run.load(name, data_dir)
            specs = (run.defense if spec == "default" else spec for spec in self.defenses)
            built = dict.fromkeys(build_defense(spec, run.fitted).spec for spec in specs)
            cells += [
                CellPlan(
                    run=name,
                    model=run.prefix.base_model,
                    attack=attack,
                    name=cell_name(
                        run.task.name, run.prefix.base_model, run.prefix.fingerprint, spec, seed
                    ),
                    defenses=tuple(spec for spec in dict.fromkeys(built) if spec != UNDEFENDED),
                    protocols=tuple(p for p in PROTOCOLS if p in self.protocols),
                    seed=seed,
                    num_examples=self.num_examples,
                    control_seeds=self.control_seeds,
                )
                for attack, spec in attacks.items()
                for seed in self.seeds
            ]
        _check_once([cell.name for cell in cells])
        return cells


_NAMES = {entry.name for entry in dataclasses.fields(Plan)}


@dataclass(frozen=True)
class CellPlan:
    """One cell of a matrix, as it was asked for.

    Attributes:
        run: run directory or ``zoo:NAME``.
        model: name of its frozen model.
        attack: as the user wrote it.
        name: see ``Manifest.name``.
        defenses: canonical specs, without ``none``.
        protocols: in their usual order.
        seed: of the cell.
        num_examples: how many examples to draw.
        control_seeds: how many controls beside each defence that has any.
    """

    run: str
    model: str
    attack: str
    name: str
    defenses: tuple[str, ...]
    protocols: tuple[str, ...]
    seed: int
    num_examples: int
    control_seeds: int


def _check_once(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"expected each cell once, got {name!r} {names.count(name)} times; "
                "name each run, attack and seed once"
            )
