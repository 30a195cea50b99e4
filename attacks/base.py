"""What every attack has: a name, a paper, settings, and resources that it needs."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import BeforeValidator, PositiveInt

from attacks.resources import find_resource, require_package
from attacks.resources.base import Found
from robust_prefix.errors import InputError, unknown_name
from robust_prefix.evaluation.protocols import Attempt, Goal, Knowledge, ThreatModel, Victim
from robust_prefix.specs import Spec
from robust_prefix.tasks import Fields


def _none_from_text(value: Any) -> Any:
    return None if value == "none" else value


def _as_text(value: Any) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """Settings that every recipe has."""

    # Queries an example may cost, cached answers included; none is no limit, as in TextAttack.
    max_queries: Annotated[PositiveInt | None, BeforeValidator(_none_from_text)] = None
    # The columns that may change: "last", "all" or a column's name. Of a pair only the last, the
    # hypothesis, changes by default: to rewrite the premise too is to change what is asked.
    modify: str = "last"


Config = TypeVar("Config", bound=RecipeConfig)


class Recipe(ABC, Generic[Config]):
    """One attack of the literature, ready for texts with the given columns.

    Attributes:
        name: what users type.
        paper: authors, year and address.
        knowledge: what it reads of the victim.
        goal: what its adversaries are to do.
        edits: the limits of what it changes, in one line.
        deviation: how it differs from its paper, in one line; stored with every result.
        packages: of the extra ``attacks``, those it imports.
        needs: resources by their names in ``attacks.resources``.
        config_class: its settings.

    Args:
        columns: names of the text columns, in the order of ``Fields``.
        config: the recipe's settings.
        data_dir: where to look for resources first.

    Raises:
        ConfigError: ``config.modify`` names no column.
        ResourceError: a package or a resource is missing; the message says how to get it.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    knowledge: ClassVar[Knowledge] = "score"
    goal: ClassVar[Goal] = "misclassify"
    edits: ClassVar[str]
    deviation: ClassVar[str] = ""
    packages: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()
    config_class: ClassVar[type[RecipeConfig]]

    def __init__(
        self, columns: tuple[str, ...], config: Config, data_dir: str | Path | None = None
    ) -> None:
        self.columns = columns
        self.config = config
        self._protected = _protected_columns(columns, config.modify, self.name)
        for package in self.packages:
            require_package(package)
        self._resources = {name: find_resource(name, data_dir) for name in self._needed()}

    @property
    def spec(self) -> str:
        """Canonical name with every setting, as ``build_attack`` reads it."""
        return self.spec_of(self.config)

    @classmethod
    def spec_of(cls, config: RecipeConfig) -> str:
        """``spec`` with these settings; needs nothing that the recipe needs."""
        settings = dataclasses.asdict(config)
        return str(Spec(cls.name, {key: _as_text(value) for key, value in settings.items()}))

    @property
    def threat(self) -> ThreatModel:
        """What the attacker may do and see, these settings considered."""
        return ThreatModel(
            knowledge=self.knowledge,
            columns=tuple(name for name in self.columns if name not in self._protected),
            edits=self.edits,
            max_queries=self.config.max_queries,
        )

    @property
    def resources(self) -> dict[str, str]:
        """Where each resource was found and its hash: ``{"wordnet": "data-dir 1a2b..."}``.

        Where several would do, which one comes in between: ``"substitute gt-all-... 1a2b..."``.
        """
        return {
            name: " ".join(filter(None, (found.origin, found.label, found.sha256[:16])))
            for name, found in self._resources.items()
        }

    @abstractmethod
    def perturb(self, victim: Victim, fields: Fields, label: int, seed: int) -> Attempt:
        """Attack one example of class ``label``; the same ``seed`` gives the same attempt.

        The global random generators are as before afterwards. An example that the victim gets
        wrong as it is costs one query and is left alone.

        Raises:
            InputError: ``fields`` does not have the columns of this attack, or the victim's
                answers are no logits.
        """

    def _needed(self) -> tuple[str, ...]:
        """The resources that these settings need: ``needs``, unless a recipe says otherwise."""
        return self.needs

    def _found(self, name: str) -> Found:
        return self._resources[name]

    def _check(self, fields: Fields) -> None:
        """Refuse an example of another task."""
        if len(fields) != len(self.columns):
            raise InputError(
                f"expected {len(self.columns)} texts ({', '.join(self.columns)}), "
                f"got {len(fields)}; build the attack with the task's columns"
            )


def _protected_columns(columns: tuple[str, ...], modify: str, owner: str) -> frozenset[str]:
    """The columns that must not change."""
    choices = {"last": {columns[-1]}, "all": set(columns), **{name: {name} for name in columns}}
    if modify not in choices:
        raise unknown_name(f"modify for {owner}", modify, choices)
    return frozenset(columns) - choices[modify]
