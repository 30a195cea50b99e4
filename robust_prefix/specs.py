"""Names with settings, as users type them: ``robust-prefix(mode=batch, steps=10)``.

Parsed by a small grammar and never evaluated. Parts joined by ``+`` compose from the outside in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from robust_prefix.errors import ConfigError, unknown_name

Config = TypeVar("Config")

_PART = re.compile(r"\s*(?P<name>[A-Za-z][\w.-]*)\s*(?:\((?P<settings>[^()]*)\))?\s*")


@dataclass(frozen=True)
class Spec:
    """One name and its settings, the values still as text."""

    name: str
    settings: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.settings:
            return self.name
        inner = ", ".join(f"{key}={value}" for key, value in self.settings.items())
        return f"{self.name}({inner})"


def parse_spec(text: str) -> Spec:
    """Parse one ``name`` or ``name(key=value, ...)``.

    Raises:
        ConfigError: the text is not of that form or names a setting twice.
    """
    match = _PART.fullmatch(text)
    if match is None:
        raise ConfigError(f"expected name or name(key=value, ...), got {text!r}")
    settings: dict[str, str] = {}
    inner = match["settings"]
    for item in inner.split(",") if inner and inner.strip() else []:
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not key.isidentifier() or not value:
            raise ConfigError(f"expected key=value inside {text!r}, got {item.strip()!r}")
        if key in settings:
            raise ConfigError(f"expected each setting once in {text!r}, got {key!r} twice")
        settings[key] = value
    return Spec(match["name"], settings)


def parse_composition(text: str) -> list[Spec]:
    """Parse ``outer+inner(key=value)`` into its parts, the outermost first."""
    return [parse_spec(part) for part in re.split(r"\+(?![^(]*\))", text)]


def build_config(config: type[Config], settings: Mapping[str, Any], owner: str) -> Config:
    """Make the frozen ``config`` dataclass from settings given as text or as values.

    Unknown keys are rejected; text is converted to the field's type ("false" is false).

    Raises:
        ConfigError: an unknown key or a value of the wrong type or range.
    """
    known = [entry.name for entry in fields(config)]  # type: ignore[arg-type]
    for key in settings:
        if key not in known:
            raise unknown_name(f"setting of {owner}", key, known)
    try:
        return TypeAdapter(config).validate_python(dict(settings))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or owner
        raise ConfigError(
            f"expected a valid {where} for {owner}, got {first['input']!r}: {first['msg']}"
        ) from None
