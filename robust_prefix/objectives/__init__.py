"""What a prefix is trained on: clean text, or clean text and what an adversary makes of it."""

from __future__ import annotations

from typing import Any

from robust_prefix.errors import unknown_name
from robust_prefix.objectives.base import (
    Adversary,
    Minibatch,
    PrefixObjective,
    Prompts,
    Substitutes,
)
from robust_prefix.objectives.embedding import PGD, FreeLB
from robust_prefix.objectives.substitution import SubstitutionAdversary
from robust_prefix.prefixes.model import Prompter
from robust_prefix.specs import parse_spec

ADVERSARIES: dict[str, type[Adversary[Any]]] = {
    adversary.name: adversary for adversary in (PGD, FreeLB, SubstitutionAdversary)
}

__all__ = [
    "ADVERSARIES",
    "Adversary",
    "Minibatch",
    "PrefixObjective",
    "Prompts",
    "Substitutes",
    "build_adversary",
]


def build_adversary(
    text: str, prompter: Prompter, substitutes: Substitutes | None = None
) -> Adversary[Any] | None:
    """An adversary from its name and settings, such as ``freelb(radius=0.2)``; none for ``none``.

    Args:
        substitutes: the word lists that ``substitution`` draws synonyms from.

    Raises:
        ConfigError: the name or a setting is unknown, or word lists are needed and not given.
    """
    spec = parse_spec(text)
    if spec.name == "none" and not spec.settings:
        return None
    if spec.name not in ADVERSARIES:
        raise unknown_name("adversary", spec.name, ["none", *ADVERSARIES])
    return ADVERSARIES[spec.name].from_settings(spec.settings, prompter, substitutes)
