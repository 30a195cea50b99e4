"""Defences: each takes texts and gives class scores; named ``robust-prefix(steps=10)``."""

from __future__ import annotations

from typing import Any

from robust_prefix.defenses.base import Defense, NoDefense
from robust_prefix.defenses.projection import Projection
from robust_prefix.defenses.random_prefix import RandomPrefix
from robust_prefix.defenses.robust_prefix import RobustPrefix
from robust_prefix.errors import ConfigError, unknown_name
from robust_prefix.specs import parse_composition
from robust_prefix.subspaces import Subspaces

DEFENSES: dict[str, type[Defense[Any]]] = {
    defense.name: defense for defense in (NoDefense, RobustPrefix, RandomPrefix, Projection)
}

__all__ = [
    "DEFENSES",
    "Defense",
    "NoDefense",
    "Projection",
    "RandomPrefix",
    "RobustPrefix",
    "build_defense",
]


def build_defense(text: str, subspaces: Subspaces | None = None) -> Defense[Any]:
    """A defence from its name and settings, such as ``robust-prefix(mode=batch, steps=10)``.

    Raises:
        ConfigError: the name or a setting is unknown.
        ArtifactError: it needs subspaces and none are given.
    """
    parts = parse_composition(text)
    if len(parts) != 1:
        raise ConfigError(
            f"expected one defence, got {text!r}; none of {', '.join(sorted(DEFENSES))} "
            "wraps another"
        )
    if parts[0].name not in DEFENSES:
        raise unknown_name("defence", parts[0].name, DEFENSES)
    return DEFENSES[parts[0].name].from_settings(parts[0].settings, subspaces)
