"""What a prefix is trained on: clean text, or clean text and what an adversary makes of it."""

from __future__ import annotations

from typing import Any

from robust_prefix.errors import ConfigError, unknown_name
from robust_prefix.objectives.base import (
    Adversary,
    InTurn,
    Minibatch,
    PrefixObjective,
    Prompts,
    TextReader,
)
from robust_prefix.objectives.embedding import PGD, FreeLB
from robust_prefix.objectives.masking import Masking
from robust_prefix.objectives.reading import ReadingPrompter, Rewriter
from robust_prefix.objectives.substitution import SubstitutionAdversary
from robust_prefix.objectives.triggers import TriggerAdversary
from robust_prefix.prefixes.model import Prompter
from robust_prefix.specs import Spec, build_config, parse_composition
from robust_prefix.synonyms import Substitutes

ADVERSARIES: dict[str, type[Adversary[Any]]] = {
    adversary.name: adversary
    for adversary in (PGD, FreeLB, SubstitutionAdversary, TriggerAdversary, Masking)
}

__all__ = [
    "ADVERSARIES",
    "Adversary",
    "Minibatch",
    "PrefixObjective",
    "Prompts",
    "ReadingPrompter",
    "Rewriter",
    "TextReader",
    "build_adversary",
    "needs_substitutes",
]


def build_adversary(
    text: str,
    prompter: Prompter,
    substitutes: Substitutes | None = None,
    reader: TextReader | None = None,
) -> InTurn | None:
    """Adversaries from their names and settings, such as ``freelb(radius=0.2)``; none for ``none``.

    Several with ``+`` between them take turns, a minibatch each.

    Args:
        substitutes: the word lists that ``substitution`` draws synonyms from.
        reader: rewrites the texts before the model; what adversaries make up is tried as it reads
            it. ``substitutes`` are to be such words.

    Raises:
        ConfigError: a name or a setting is unknown, or word lists are needed and not given.
    """
    parts = [
        chosen.from_settings(spec.settings, prompter, substitutes, reader)
        for spec, chosen in _classes(text)
    ]
    return InTurn(parts) if parts else None


def needs_substitutes(text: str) -> bool:
    """Whether ``build_adversary`` would need word lists for these adversaries.

    Raises:
        ConfigError: a name or a setting is unknown.
    """
    configs = [
        build_config(chosen.config_type, spec.settings, spec.name)
        for spec, chosen in _classes(text)
    ]
    return any(getattr(config, "edits", "typos") != "typos" for config in configs)


def _classes(text: str) -> list[tuple[Spec, type[Adversary[Any]]]]:
    specs = parse_composition(text)
    for spec in specs:
        if spec.name == "none" and (spec.settings or len(specs) > 1):
            raise ConfigError(f"expected none alone and without settings, got {text!r}")
        if spec.name not in {"none", *ADVERSARIES}:
            raise unknown_name("adversary", spec.name, ["none", *ADVERSARIES])
    return [(spec, ADVERSARIES[spec.name]) for spec in specs if spec.name != "none"]
