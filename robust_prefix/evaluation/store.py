"""The run's database: one SQLite file, one committed row an example, one writer at a time."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from robust_prefix.errors import ArtifactError, ConfigError, StorageError
from robust_prefix.evaluation.records import ROLES, Key, Manifest, Record

SCHEMA_VERSION = 1

_TYPES = {
    "dynamic": "INTEGER NOT NULL",
    "example": "INTEGER NOT NULL",
    "seed": "INTEGER NOT NULL",
    "label": "INTEGER NOT NULL",
    "adversarial": "TEXT",
    "prediction_original": "INTEGER",
    "prediction_adversarial": "INTEGER",
    "margin_original": "REAL",
    "margin_adversarial": "REAL",
    "queries": "INTEGER NOT NULL",
    "model_queries": "INTEGER NOT NULL",
    "forward_passes": "REAL NOT NULL",
    "backward_passes": "REAL NOT NULL",
    "seconds": "REAL NOT NULL",
}
_COLUMNS = tuple(field.name for field in dataclasses.fields(Record))
_JSON_COLUMNS = ("original", "adversarial")
_CREATE = f"""
    CREATE TABLE record (
        {", ".join(f"{name} {_TYPES.get(name, 'TEXT NOT NULL')}" for name in _COLUMNS)},
        PRIMARY KEY ({", ".join(Key._fields)})
    )
"""
_INSERT = f"INSERT INTO record VALUES ({', '.join('?' * len(_COLUMNS))})"
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM record"
_BY_KEY = " AND ".join(f"{name} = ?" for name in Key._fields)


class RecordStore:
    """The records of one run in one SQLite file.

    A record is on disk when ``add`` returns, whatever happens to the process after that. While a
    store is open with a manifest no other process can open the file.

    Args:
        path: the file; made, with its folder, where it is missing and a manifest is given.
        manifest: what the run is; must equal that of an existing file. Without it an existing
            file is opened to be read.

    Raises:
        ConfigError: the file belongs to another run or another version of the schema.
        ArtifactError: there is no such file, or it is not a run's database.
        StorageError: another process has it open, or the system refuses to read or write it.
    """

    def __init__(self, path: str | Path, manifest: Manifest | None = None) -> None:
        self.path = Path(path)
        with self._explained("open"):
            if manifest is None and not self.path.is_file():
                raise ArtifactError(
                    f"expected a run's database at {self.path}, got nothing there; "
                    "run an attack with this folder as --out"
                )
            if manifest is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            mode = "rw" if manifest is None else "rwc"
            self._connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode={mode}",
                uri=True,
                timeout=0.5,
                isolation_level=None,  # each statement commits itself unless BEGIN says otherwise
            )
        try:
            with self._explained("open"):
                if manifest is not None:
                    self._claim(manifest)
                self.manifest = self._read_manifest()
            if manifest is not None:
                self._require_same(manifest)
        except BaseException:
            self.close()
            raise

    def add(self, record: Record) -> None:
        """Write ``record`` and wait until it is on disk.

        Raises:
            StorageError: it could not be written, or its key is taken.
        """
        values = []
        for name in _COLUMNS:
            value: Any = getattr(record, name)
            if name in _JSON_COLUMNS and value is not None:
                value = json.dumps(value)  # escapes what UTF-8 lacks: lone surrogates
            elif isinstance(value, str):
                value = value.encode("utf-8", "backslashreplace").decode("utf-8")
            values.append(value)
        with self._explained("write"):
            self._connection.execute(_INSERT, values)

    def get(self, key: Key) -> Record | None:
        """The record of ``key``, or None."""
        found = list(self._select(f"{_SELECT} WHERE {_BY_KEY}", key))
        return found[0] if found else None

    def __contains__(self, key: Key) -> bool:
        return self.get(key) is not None

    def __len__(self) -> int:
        with self._explained("read"):
            return int(self._connection.execute("SELECT count(*) FROM record").fetchone()[0])

    def records(self) -> list[Record]:
        """Every record, ordered by example, role, defence and protocol."""
        rank = " ".join(f"WHEN '{role}' THEN {place}" for place, role in enumerate(ROLES))
        order = f"example, CASE role {rank} END, defense, protocol, attack, seed"
        return list(self._select(f"{_SELECT} ORDER BY {order}"))

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _claim(self, manifest: Manifest) -> None:
        """Lock the file for this process and make the tables where it is new.

        An exclusive lock taken by a transaction stays until the connection closes or the process
        dies, kill -9 included: the operating system drops it, no lock file is left behind.
        """
        connection = self._connection
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN EXCLUSIVE")
        try:
            if not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                connection.execute("CREATE TABLE run (schema_version INTEGER, manifest TEXT)")
                connection.execute(_CREATE)
                run = (SCHEMA_VERSION, manifest.to_json())
                connection.execute("INSERT INTO run VALUES (?, ?)", run)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _read_manifest(self) -> Manifest:
        tables = {name for (name,) in self._connection.execute("SELECT name FROM sqlite_master")}
        if not {"run", "record"} <= tables:
            raise ArtifactError(
                f"expected a run's database at {self.path}, got another SQLite file; "
                "choose another folder"
            )
        row = self._connection.execute("SELECT schema_version, manifest FROM run").fetchone()
        if row is None or row[0] != SCHEMA_VERSION:
            found = None if row is None else row[0]
            raise ConfigError(
                f"expected schema version {SCHEMA_VERSION} in {self.path}, got {found}; "
                "start the run anew in another folder"
            )
        return Manifest.from_json(row[1])

    def _require_same(self, manifest: Manifest) -> None:
        stored = Manifest.from_json(self.manifest.to_json()).flat()
        asked = Manifest.from_json(manifest.to_json()).flat()
        for name in [*asked, *(name for name in stored if name not in asked)]:
            if asked.get(name) != stored.get(name):
                raise ConfigError(
                    f"expected {name} {stored.get(name)!r} as in the run stored in {self.path}, "
                    f"got {asked.get(name)!r}; choose another folder or the same settings"
                )

    def _select(self, query: str, parameters: tuple[Any, ...] = ()) -> Iterator[Record]:
        with self._explained("read"):
            rows = self._connection.execute(query, parameters).fetchall()
        for row in rows:
            values = dict(zip(_COLUMNS, row, strict=True))
            values["dynamic"] = bool(values["dynamic"])
            for name in _JSON_COLUMNS:
                if values[name] is not None:
                    values[name] = tuple(json.loads(values[name]))
            yield Record(**values)

    @contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        """Say what to do about what SQLite or the system refuses."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise StorageError(
                    f"expected {self.path} to be free, got it in use by another live process; "
                    "wait for that run or stop it"
                ) from error
            if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise ArtifactError(
                    f"expected a run's database at {self.path}, got {str(error)!r}; "
                    "choose another folder"
                ) from error
            raise StorageError(
                f"expected to {action} {self.path}, got {str(error)!r}; "
                "free some space or choose another folder, what was written before is kept"
            ) from error
        except OSError as error:
            raise StorageError(
                f"expected to {action} {self.path}, got {error.strerror or str(error)!r}; "
                "choose another folder"
            ) from error
