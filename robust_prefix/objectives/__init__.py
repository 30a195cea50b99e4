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
from robust_prefix.objectives.masking import Masking
from robust_prefix.objectives.substitution import SubstitutionAdversary
from robust_prefix.prefixes.model import Prompter
from robust_prefix.specs import Spec, build_config, parse_spec

ADVERSARIES: dict[str, type[Adversary[Any]]] = {
    adversary.name: adversary for adversary in (PGD, FreeLB, SubstitutionAdversary, Masking)
}

__all__ = [
    "ADVERSARIES",
    "Adversary",
    "Minibatch",
    "PrefixObjective",
    "Prompts",
    "Substitutes",
    "build_adversary",
    "needs_substitutes",
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
    chosen = _class(spec)
    if chosen is None:
        return None
    return chosen.from_settings(spec.settings, prompter, substitutes)


def needs_substitutes(text: str) -> bool:
    """Whether ``build_adversary`` would need word lists for this adversary.

    Raises:
        ConfigError: the name or a setting is unknown.
    """
    spec = parse_spec(text)
    chosen = _class(spec)
    if chosen is None:
        return False
    config = build_config(chosen.config_type, spec.settings, spec.name)
    return getattr(config, "edits", "typos") != "typos"


def _class(spec: Spec) -> type[Adversary[Any]] | None:
    if spec.name == "none" and not spec.settings:
        return None
    if spec.name not in ADVERSARIES:
        raise unknown_name("adversary", spec.name, ["none", *ADVERSARIES])
    return ADVERSARIES[spec.name]
