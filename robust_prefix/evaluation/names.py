"""Short names for specs that are too long to be read in a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from robust_prefix.errors import ConfigError
from robust_prefix.specs import Spec, parse_composition, without_settings


def short_name(spec: str) -> str:
    """A spec without its settings: ``a(x=1)+b`` is ``a+b``."""
    return without_settings(spec)


def distinct_names(specs: Iterable[str]) -> dict[str, str]:
    """Names by spec that tell the specs apart: of the settings only those in which they differ.

    ``a(x=1, y=1)``, ``a(x=2, y=1)`` and ``b(x=1)`` are ``a(x=1)``, ``a(x=2)`` and ``b``.
    """
    groups: dict[str, list[str]] = {}
    for spec in dict.fromkeys(specs):
        groups.setdefault(short_name(spec), []).append(spec)
    names: dict[str, str] = {}
    for short, members in groups.items():
        names |= {members[0]: short} if len(members) == 1 else _told_apart(members)
    return names


def _told_apart(specs: Sequence[str]) -> dict[str, str]:
    try:
        parsed = [parse_composition(spec) for spec in specs]
    except ConfigError:  # the name of something that is no spec, such as a file's
        return {spec: spec for spec in specs}
    found = {}
    for spec, parts in zip(specs, parsed, strict=True):
        kept = [
            Spec(part.name, {k: v for k, v in part.settings.items() if _differs(parsed, place, k)})
            for place, part in enumerate(parts)
        ]
        found[spec] = "+".join(map(str, kept))
    return found


def _differs(compositions: Sequence[Sequence[Spec]], place: int, setting: str) -> bool:
    return len({parts[place].settings.get(setting) for parts in compositions}) > 1
