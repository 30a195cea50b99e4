"""Defences: each takes texts and gives class scores; named ``robust-prefix(steps=10)``."""

from __future__ import annotations

from typing import Any

from robust_prefix.defenses.base import Defense, Fitted, NoDefense
from robust_prefix.defenses.detect import Detect
from robust_prefix.defenses.ensemble import Ensemble
from robust_prefix.defenses.gate import Gate
from robust_prefix.defenses.masked_vote import MaskedVote
from robust_prefix.defenses.normalize import Normalize
from robust_prefix.defenses.projection import Projection
from robust_prefix.defenses.random_prefix import RandomPrefix
from robust_prefix.defenses.robust_prefix import RobustPrefix
from robust_prefix.defenses.synonyms import Synonyms
from robust_prefix.defenses.text import TextDefense
from robust_prefix.defenses.word_scores import WordScoresDefense
from robust_prefix.defenses.wrapping import WrappingDefense, layers
from robust_prefix.errors import ConfigError, unknown_name
from robust_prefix.specs import Spec, parse_composition

DEFENSES: dict[str, type[Defense[Any]]] = {
    defense.name: defense
    for defense in (
        *(NoDefense, RobustPrefix, RandomPrefix, Projection, Ensemble),
        *(Normalize, WordScoresDefense, Synonyms, MaskedVote, Gate, Detect),
    )
}

__all__ = [
    "DEFENSES",
    "Defense",
    "Detect",
    "Ensemble",
    "Fitted",
    "Gate",
    "MaskedVote",
    "NoDefense",
    "Normalize",
    "Projection",
    "RandomPrefix",
    "RobustPrefix",
    "Synonyms",
    "TextDefense",
    "WordScoresDefense",
    "WrappingDefense",
    "build_defense",
    "layers",
]


def build_defense(text: str, fitted: Fitted | None = None) -> Defense[Any]:
    """A defence from its name and settings, such as ``robust-prefix(mode=batch, steps=10)``.

    Several compose with ``+`` from the outside in: ``normalize+robust-prefix`` normalises the text
    and classifies what comes of it behind ``robust-prefix``.

    Args:
        fitted: what the run has; nothing where not given.

    Raises:
        ConfigError: a name or a setting is unknown, or a part that wraps nothing stands before
            another.
        ArtifactError: a part needs subspaces, synonym clusters, members, detectors or word scores
            and none are given.
    """
    fitted = fitted if fitted is not None else Fitted()
    *outer, last = parse_composition(text)
    defense = _class(last).from_settings(last.settings, fitted)
    for part in reversed(outer):
        chosen = _class(part)
        if not issubclass(chosen, WrappingDefense):
            wrappers = [n for n, d in DEFENSES.items() if issubclass(d, WrappingDefense)]
            raise ConfigError(
                f"expected a defence that wraps others ({', '.join(wrappers)}) before a + in "
                f"{text!r}, got {part.name!r}; put it last"
            )
        if any(isinstance(wrapped, chosen) for wrapped in layers(defense)):
            raise ConfigError(f"expected each defence once in {text!r}, got {part.name!r} twice")
        if isinstance(defense, WrappingDefense) and chosen.stage > defense.stage:
            raise ConfigError(
                f"expected {defense.name!r} before {part.name!r} in {text!r}, got them the other "
                "way round; the text as it came is judged first, then characters are read, then "
                "words are scored, then words are read, then copies are made"
            )
        defense = chosen.from_settings(part.settings, fitted, defense)
    return defense


def _class(part: Spec) -> type[Defense[Any]]:
    if part.name not in DEFENSES:
        raise unknown_name("defence", part.name, DEFENSES)
    return DEFENSES[part.name]
