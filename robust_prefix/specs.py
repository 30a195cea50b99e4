"""Names with settings, as users type them: ``robust-prefix(mode=batch, steps=10)``.

Parsed by a small grammar and never evaluated. Parts joined by ``+`` compose from the outside in.
A value with a comma, a parenthesis or a quote stands in double quotes, as JSON has strings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from robust_prefix.errors import ConfigError, unknown_name

Config = TypeVar("Config")

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_SETTINGS = rf'\((?:[^()"]|{_QUOTED})*\)'
_PART = re.compile(rf"\s*(?P<name>[A-Za-z][\w.-]*)\s*(?P<settings>{_SETTINGS})?\s*", re.DOTALL)
_PLAIN = re.compile(r'(?!\s)[^(),"]+(?<!\s)')  # a value that needs no quotes


@dataclass(frozen=True)
class Spec:
    """One name and its settings, the values still as text."""

    name: str
    settings: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.settings:
            return self.name
        inner = ", ".join(f"{key}={_quoted(value)}" for key, value in self.settings.items())
        return f"{self.name}({inner})"


def _quoted(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=False)


def parse_spec(text: str) -> Spec:
    """Parse one ``name`` or ``name(key=value, ...)``.

    Raises:
        ConfigError: the text is not of that form or names a setting twice.
    """
    match = _PART.fullmatch(text)
    if match is None:
        raise ConfigError(f"expected name or name(key=value, ...), got {text!r}")
    settings: dict[str, str] = {}
    inner = (match["settings"] or "()")[1:-1]
    for item in _split(inner, ",", _QUOTED) if inner.strip() else []:
        key, equals, value = (part.strip() for part in item.partition("="))
        read = _unquoted(value)
        if not equals or not key.isidentifier() or read is None:
            raise ConfigError(f"expected key=value inside {text!r}, got {item.strip()!r}")
        if key in settings:
            raise ConfigError(f"expected each setting once in {text!r}, got {key!r} twice")
        settings[key] = read
    return Spec(match["name"], settings)


def _unquoted(value: str) -> str | None:
    """The value that was written; None where it is none."""
    if _PLAIN.fullmatch(value):
        return value
    try:
        return json.loads(value, strict=False) if re.fullmatch(_QUOTED, value, re.DOTALL) else None
    except json.JSONDecodeError:
        return None


def parse_composition(text: str) -> list[Spec]:
    """Parse ``outer+inner(key=value)`` into its parts, the outermost first."""
    return [parse_spec(part) for part in split_specs(text, "+")]


def split_specs(text: str, separator: str) -> list[str]:
    """The parts of ``text``; a separator among a part's settings does not count."""
    return _split(text, separator, _SETTINGS)


def without_settings(text: str) -> str:
    """``a(x=1)+b`` is ``a+b``."""
    return re.sub(_SETTINGS, "", text)


def _split(text: str, separator: str, whole: str) -> list[str]:
    """Split where ``separator`` is not inside of what the pattern ``whole`` matches."""
    parts = [""]
    for token in re.findall(f"{whole}|.", text, re.DOTALL):
        if token == separator:
            parts.append("")
        else:
            parts[-1] += token
    return parts


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
