"""How often each word stands in a task's training texts."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
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
        """The words of all columns of ``texts``; a text that comes again, such as a premise of
        several hypotheses, counts once."""
        distinct = dict.fromkeys(text for fields in texts for text in fields)
        return cls(word_counts((text,) for text in distinct), config)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and other.fingerprint == self.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def written(self, usual: Callable[[str], str]) -> Vocabulary:
        """The words with each character as ``usual`` writes it; those that come to the same are
        counted together."""
        if all(word.isascii() for word in self.counts):
            return self
        counts: Counter[str] = Counter()
        for word, count in self.counts.items():
            counts["".join(map(usual, word)).lower()] += count
        return Vocabulary(counts, self.config)

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
        known = isinstance(values, dict) and values.get("kind") == "vocabulary"
        words, config = (values.get(key) if known else None for key in ("words", "config"))
        if not (
            known
            and values.get("version") == _FORMAT
            and isinstance(words, dict)
            and isinstance(config, dict)
            and all(type(count) is int and count > 0 for count in words.values())
        ):
            raise ArtifactError(
                f"expected a vocabulary of version {_FORMAT} in {path}, got something else; "
                "run robust-prefix fit-spelling again"
            )
        return cls(words, config)
