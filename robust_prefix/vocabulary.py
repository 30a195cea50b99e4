"""How often each word stands in a task's training texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from robust_prefix.errors import ArtifactError
from robust_prefix.files import read_json, write_json
from robust_prefix.synonyms import word_counts
from robust_prefix.tasks import Fields

_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The words of a task.

    Attributes:
        counts: how often each lower-case word stands in the training texts.
        config: what made it.
    """

    counts: Mapping[str, int]
    config: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, texts: Iterable[Fields], **config: Any) -> Self:
        """The words of all columns of ``texts``."""
        return cls(word_counts(texts), config)

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the words; 8 hexadecimal digits."""
        return hashlib.blake2b(
            json.dumps(sorted(self.counts.items())).encode(), digest_size=4
        ).hexdigest()

    @cached_property
    def total(self) -> int:
        """Words that were counted."""
        return sum(self.counts.values())

    def save(self, path: str | Path) -> None:
        """Write as JSON.

        Raises:
            StorageError: writing failed; nothing is left half-written.
        """
        words = dict(sorted(self.counts.items()))
        write_json(
            path,
            {"kind": "vocabulary", "version": _FORMAT, "config": dict(self.config), "words": words},
        )

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The inverse of :meth:`save`.

        Raises:
            ArtifactError: the file is missing, damaged or something else.
        """
        values = read_json(path)
        words = values.get("words")
        if (values.get("kind"), values.get("version")) != ("vocabulary", _FORMAT) or not (
            isinstance(words, dict)
            and all(type(count) is int and count > 0 for count in words.values())
        ):
            raise ArtifactError(
                f"expected a vocabulary of version {_FORMAT} in {path}, got something else; "
                "run robust-prefix fit-spelling again"
            )
        return cls(words, values.get("config", {}))
