"""Word lists of the attacks, for the commands that defend against them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robust_prefix.synonyms import SynonymClusters
from robust_prefix.tasks import Task

if TYPE_CHECKING:
    from robust_prefix.runs import Run


def clusters_for(
    task: Task, data_dir: Path | None, sources: Sequence[str] | None = None, rare: int = 0
) -> SynonymClusters:
    """Synonym clusters from a task's training texts; see ``fit_synonyms``.

    Raises:
        ConfigError: a source is unknown.
        ResourceError: a word list is missing.
    """
    from attacks.lexicon import SOURCES
    from robust_prefix.data import load_split, rows_as_fields
    from robust_prefix.synonyms import fit_synonyms

    sources = list(sources or SOURCES)
    substitutes = substitutes_from(data_dir, sources)
    texts = rows_as_fields(task, load_split(task, "train"))
    return fit_synonyms(texts, substitutes, rare, sources=sources)


def substitutes_from(
    data_dir: Path | None, sources: Sequence[str] | None = None
) -> Callable[[str], Sequence[str]]:
    """The synonyms of a lower-case word in word lists, all of them where none is named.

    Raises:
        ConfigError: a source is unknown.
        ResourceError: a word list is missing.
    """
    from attacks.lexicon import SOURCES, synonyms

    return synonyms(data_dir, sources or SOURCES)


_FITTED = ("table", "limit", "vocabulary", "threshold")
"""Settings that say what was fitted."""


def renewed(run: Run, name: str) -> str:
    """The run's default defence; where the one called ``name`` is part of it, with what the run has
    fitted for it now."""
    from robust_prefix.defenses import build_defense
    from robust_prefix.specs import Spec, parse_composition

    parts = parse_composition(run.defense)
    if all(part.name != name for part in parts):
        return run.defense
    anew = (
        str(Spec(name, {k: v for k, v in part.settings.items() if k not in _FITTED}))
        if part.name == name
        else str(part)
        for part in parts
    )
    return build_defense("+".join(anew), run.fitted).spec
