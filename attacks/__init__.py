"""Attacks on text classifiers, most of them composed of TextAttack's parts.

Importing this package loads no TextAttack; building an attack does.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attacks.base import Recipe
from attacks.recipes import RECIPES
from attacks.recorded import Recorded, recorded_path, recorded_spec
from attacks.resources import INSTALL_COMMAND, get_command, is_available
from robust_prefix.errors import unknown_name
from robust_prefix.evaluation.protocols import Attack, Knowledge
from robust_prefix.specs import build_config, parse_spec

__all__ = ["AttackInfo", "build_attack", "canonical_spec", "list_attacks"]


@dataclass(frozen=True)
class AttackInfo:
    """One line of ``robust-prefix list attacks``."""

    name: str
    paper: str
    knowledge: Knowledge
    edits: str
    deviation: str  # from the paper; empty where there is none
    needs: tuple[str, ...]
    missing: tuple[str, ...]  # packages and resources
    command: str | None  # gets what is missing; None where nothing is

    @property
    def runnable(self) -> bool:
        """Whether ``build_attack`` would succeed here."""
        return not self.missing


def build_attack(spec: str, columns: tuple[str, ...], data_dir: str | Path | None = None) -> Attack:
    """An attack by its name and settings, for texts with the given columns.

    Args:
        spec: ``pwws``, ``pwws(max_queries=500)``, or ``file:PATH`` for recorded adversaries, see
            ``attacks.recorded``.
        columns: names of the task's text columns, in order.
        data_dir: the data folder, whose ``nltk_data/`` is looked into first.

    Raises:
        ConfigError: the name or a setting is unknown or out of range.
        ResourceError: a package or a resource is missing; the message says how to get it.
        InputError: the file of recorded adversaries does not fit.
    """
    path = recorded_path(spec)
    if path is not None:
        return Recorded(path, columns)
    recipe, config = _recipe(spec)
    return recipe(columns, config, data_dir)


def canonical_spec(spec: str) -> str:
    """The name with every setting, whether or not what the attack needs is there.

    Raises:
        ConfigError: the name or a setting is unknown or out of range.
        ResourceError: the file of ``file:PATH`` is not there.
    """
    path = recorded_path(spec)
    if path is not None:
        return recorded_spec(path)
    recipe, config = _recipe(spec)
    return recipe.spec_of(config)


def _recipe(spec: str) -> tuple[type[Recipe[Any]], Any]:
    parsed = parse_spec(spec)
    if parsed.name not in RECIPES:
        raise unknown_name("attack", parsed.name, RECIPES)
    recipe = RECIPES[parsed.name]
    return recipe, build_config(recipe.config_class, parsed.settings, recipe.name)


def list_attacks(data_dir: str | Path | None = None) -> list[AttackInfo]:
    """All attacks in order of name, each with what it lacks here. Writes nothing."""
    return [_info(name, data_dir) for name in sorted(RECIPES)]


def _info(name: str, data_dir: str | Path | None) -> AttackInfo:
    recipe = RECIPES[name]
    packages = [p for p in recipe.packages if importlib.util.find_spec(p) is None]
    # Which resources there are can only be judged with the packages that read them.
    resources = [] if packages else [n for n in recipe.needs if not is_available(n, data_dir)]
    commands = [INSTALL_COMMAND] * bool(packages) + [get_command(n) for n in resources]
    return AttackInfo(
        name,
        recipe.paper,
        recipe.knowledge,
        recipe.edits,
        recipe.deviation,
        recipe.needs,
        missing=(*packages, *resources),
        command=" && ".join(commands) or None,
    )
