"""The errors a user may meet.

Every message is one line that says what was expected, what came, and what to do.
The command line prints the message and exits with status 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RobustPrefixError(Exception):
    """Base of every error this project raises on purpose."""


class InputError(RobustPrefixError):
    """A text, label or data file does not fit the task."""


class ConfigError(RobustPrefixError):
    """A name or a setting is unknown or out of range."""


class ArtifactError(RobustPrefixError):
    """A saved prefix, subspace or run cannot be read, or belongs to something else."""


class ResourceError(RobustPrefixError):
    """Something that has to be installed or supplied is missing."""


class StorageError(RobustPrefixError):
    """Writing failed; whatever stood at the destination before is untouched."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """An error for a name that is not in ``known``, with the nearest known one."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ConfigError(f"expected a known {kind} ({', '.join(names)}), got {name!r}{hint}")
