"""Adversaries that were found elsewhere, replayed: ``--attack file:PATH``.

The file is CSV with a header, JSONL or Parquet, one example a row:

======================  =====================================================================
``original``            the text before the attack
``adversarial``         the text after it; where the attack failed, the original once more
``label``               the true class, as a number or as a class name
======================  =====================================================================

For a task of several columns each has a pair of its own: ``premise_original``,
``premise_adversarial``, ``hypothesis_original`` and so on; a column that never changes may lack its
``_adversarial``.

What was found against one model cannot query another: only the protocol ``replay`` is possible, and
the undefended model too is but shown the texts. A file is known by its SHA-256, so that results do
not depend on where it lies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from robust_prefix.data import read_rows
from robust_prefix.errors import ConfigError, InputError, ResourceError
from robust_prefix.evaluation.protocols import Attempt, Example, Goal, ThreatModel, Victim
from robust_prefix.specs import Spec
from robust_prefix.tasks import Fields

PREFIX = "file:"
NAME = "file"


def recorded_path(spec: str) -> Path | None:
    """The path in ``file:PATH``; None where ``spec`` is the name of an attack."""
    return Path(spec.removeprefix(PREFIX)) if spec.startswith(PREFIX) else None


def recorded_spec(path: Path) -> str:
    """The canonical spec of a file of adversaries: its hash.

    Raises:
        ResourceError: there is no such file.
    """
    return _spec(_sha256(path))


def _spec(sha256: str) -> str:
    return str(Spec(NAME, {"sha256": sha256[:16]}))


class Recorded:
    """The adversaries of one file, behind this project's ``Attack`` protocol.

    Args:
        path: the file.
        columns: names of the task's text columns.

    Raises:
        ResourceError: there is no such file.
        InputError: it lacks a column, has no rows, or an original without words.
    """

    name = NAME
    goal: Goal = "misclassify"
    deviation = ""

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self.sha256 = _sha256(path)
        self.spec = _spec(self.sha256)
        self._path = path
        rows = read_rows(path)
        if not rows:
            raise InputError(f"expected at least one row of adversaries in {path}, got none")
        names = _names(columns, list(dict.fromkeys(name for row in rows for name in row)), path)
        self._labels = [row.get("label") for row in rows]
        self._originals = [self._texts(row, names[0], place) for place, row in enumerate(rows)]
        self._adversaries = [self._texts(row, names[1], place) for place, row in enumerate(rows)]
        pairs = list(zip(self._originals, self._adversaries, strict=True))
        changed = tuple(
            column
            for place, column in enumerate(columns)
            if any(before[place] != after[place] for before, after in pairs)
        )
        self.threat = ThreatModel("none", changed, "as recorded elsewhere", max_queries=0)

    @property
    def resources(self) -> dict[str, str]:
        """None."""
        return {}

    def examples(self, read_label: Callable[[object, int], int]) -> list[Example]:
        """The rows in order, each at its place.

        Raises:
            InputError: a label is none of the task's.
        """
        try:
            labels = [read_label(label, place) for place, label in enumerate(self._labels)]
        except InputError as error:
            raise InputError(f"{error} ({self._path})") from None
        pairs = enumerate(zip(self._originals, labels, strict=True))
        return [Example(place, fields, label) for place, (fields, label) in pairs]

    def adversary(self, index: int) -> Fields | None:
        """What the row at ``index`` became; None where it stayed as it was."""
        found = self._adversaries[index]
        return None if found == self._originals[index] else found

    def perturb(self, victim: Victim, fields: Fields, label: int, seed: int) -> Attempt:
        """Not possible.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"expected the protocol replay for {self.name}, got an attack; recorded adversaries "
            "can be shown to a model but cannot attack it"
        )

    def _texts(self, row: dict[str, Any], names: list[str], place: int) -> Fields:
        for name in names:
            value = row.get(name)
            if not isinstance(value, str) or not value.strip():
                raise InputError(
                    f"expected words in {name} of row {place} in {self._path}, got {value!r}; "
                    "where the attack failed repeat the original"
                )
        return tuple(row[name] for name in names)


def _names(columns: tuple[str, ...], present: list[str], path: Path) -> tuple[list[str], list[str]]:
    """The file's columns with the originals and with the adversaries, in the task's order."""
    if len(columns) == 1 and "original" in present:
        originals, adversaries = ["original"], ["adversarial"]
    else:
        originals = [f"{column}_original" for column in columns]
        adversaries = [f"{column}_adversarial" for column in columns]
        pairs = list(zip(originals, adversaries, strict=True))
        if any(after in present for _, after in pairs):
            adversaries = [after if after in present else before for before, after in pairs]
    for name in (*originals, *adversaries, "label"):
        if name not in present:
            wanted = ["original", "adversarial"] if len(columns) == 1 else originals + adversaries
            raise InputError(
                f"expected the columns {[*wanted, 'label']} in {path}, got {present}; rename them"
            )
    return originals, adversaries


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ResourceError(
            f"expected recorded adversaries at {path}, got {error.strerror or error}"
        ) from None
