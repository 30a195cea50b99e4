"""An evaluation's database: one SQLite file, one committed row a record, one writer at a time."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from robust_prefix.errors import ArtifactError, ConfigError, StorageError
from robust_prefix.evaluation.records import ROLES, Key, Manifest, Record, require_same

SCHEMA_VERSION = 3

_PATIENCE = 30.0  # seconds

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
    "prediction_forward_passes": "REAL",
    "prediction_backward_passes": "REAL",
}
_COLUMNS = tuple(field.name for field in dataclasses.fields(Record))
_JSON_COLUMNS = ("original", "adversarial")
_CREATE = (
    "CREATE TABLE run (schema_version INTEGER NOT NULL)",
    f"INSERT INTO run VALUES ({SCHEMA_VERSION})",
    "CREATE TABLE cell (place INTEGER PRIMARY KEY, manifest TEXT NOT NULL)",
    "CREATE TABLE side (kind TEXT, key TEXT, value TEXT NOT NULL, PRIMARY KEY (kind, key))",
    f"""
    CREATE TABLE record (
        {", ".join(f"{name} {_TYPES.get(name, 'TEXT NOT NULL')}" for name in _COLUMNS)},
        PRIMARY KEY ({", ".join(Key._fields)})
    )
    """,
)
_INSERT = f"INSERT INTO record VALUES ({', '.join('?' * len(_COLUMNS))})"
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM record"
_CELL = ("task", "model", "prefix", "attack", "seed")
_BY_CELL = " AND ".join(f"{name} = ?" for name in _CELL)
_BY_KEY = " AND ".join(f"{name} = ?" for name in Key._fields)


class RecordStore:
    """The records of an evaluation in one SQLite file, whether of one cell or of a matrix.

    A record is on disk when ``add`` returns, whatever happens to the process after that. While a
    store is open with manifests no other process can write to the file; reading is free to all.

    Args:
        path: the file; made, with its folder, where it is missing and manifests are given.
        manifests: the cells, in order. An existing file must hold no others, and none that
            differs; new ones are added to it. Without them an existing file is opened to be read.

    Raises:
        ConfigError: the file belongs to another run or another version of the schema.
        ArtifactError: there is no such file, or it is not a run's database.
        StorageError: another process writes to it, or the system refuses to read or write it.
    """

    def __init__(
        self, path: str | Path, manifests: Manifest | Sequence[Manifest] | None = None
    ) -> None:
        self.path = Path(path)
        writing = manifests is not None
        with ExitStack() as closing, self._explained("open"):
            if writing:
                closing.enter_context(self._locked())
            elif not self.path.is_file():
                raise ArtifactError(
                    f"expected a run's database at {self.path}, got nothing there; "
                    "run an attack with this folder as --out"
                )
            self._connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode={'rwc' if writing else 'rw'}",
                uri=True,
                timeout=_PATIENCE,  # readers and the one writer take turns
                isolation_level=None,  # each statement commits itself unless BEGIN says otherwise
            )
            closing.callback(self._connection.close)
            if manifests is None:
                self.manifests = self._read_manifests()
            else:
                asked = [manifests] if isinstance(manifests, Manifest) else list(manifests)
                self.manifests = self._claim(asked)
            self._closing = closing.pop_all()

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

    def records(self, manifest: Manifest | None = None) -> list[Record]:
        """The records of one cell, or of all in their order.

        Those of a cell are ordered by example, role, defence and protocol.
        """
        if manifest is None:
            return [record for cell in self.manifests for record in self.records(cell)]
        rank = " ".join(f"WHEN '{role}' THEN {place}" for place, role in enumerate(ROLES))
        order = f"example, CASE role {rank} END, defense, protocol"
        cell = tuple(getattr(manifest, name) for name in _CELL)
        return list(self._select(f"{_SELECT} WHERE {_BY_CELL} ORDER BY {order}", cell))

    def put(self, kind: str, key: str, value: Any) -> None:
        """Keep a value that is no record: what was computed once for many of them.

        Args:
            kind: ``state`` (what a universal attack found), ``probe`` (checks of a system),
                ``quality`` (of a pair of texts) or ``missing`` (why there are no records).
            key: what the value is about; a value that is there already is replaced.
            value: anything that JSON holds.

        Raises:
            StorageError: it could not be written.
        """
        with self._explained("write"):
            self._connection.execute(
                "INSERT OR REPLACE INTO side VALUES (?, ?, ?)", (kind, key, json.dumps(value))
            )

    def find(self, kind: str, key: str) -> Any | None:
        """The value that was put, or None."""
        return self.items(kind, key).get(key)

    def items(self, kind: str, key: str | None = None) -> dict[str, Any]:
        """All values of a kind by key, in the order of their keys; or the one of ``key``."""
        query = "SELECT key, value FROM side WHERE kind = ? AND key = ifnull(?, key) ORDER BY key"
        with self._explained("read"):
            rows = self._connection.execute(query, (kind, key)).fetchall()
        return {name: json.loads(value) for name, value in rows}

    def remove(self, kind: str, key: str) -> None:
        """Forget a value; nothing happens where there is none."""
        with self._explained("write"):
            self._connection.execute("DELETE FROM side WHERE kind = ? AND key = ?", (kind, key))

    def close(self) -> None:
        """Let go of the file."""
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold a lock that the system drops when this process dies, kill -9 included."""
        folder = self.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        lock = FileLock(f"{self.path}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise self._in_use() from None
        try:
            yield
        finally:
            # Removed while still held: whoever comes next makes a new one.
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()

    def _claim(self, asked: list[Manifest]) -> tuple[Manifest, ...]:
        """Make the tables where the file is new; check and note the cells."""
        connection = self._connection
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        try:
            if not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                for statement in _CREATE:
                    connection.execute(statement)
            stored = self._read_manifests()
            require_same(stored, asked, f"the run stored in {self.path}")
            if len(stored) != len(asked):
                connection.execute("DELETE FROM cell")
                cells = [(place, cell.to_json()) for place, cell in enumerate(asked)]
                connection.executemany("INSERT INTO cell VALUES (?, ?)", cells)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return tuple(asked)

    def _read_manifests(self) -> tuple[Manifest, ...]:
        tables = {name for (name,) in self._connection.execute("SELECT name FROM sqlite_master")}
        if not {"run", "record"} <= tables:
            raise ArtifactError(
                f"expected a run's database at {self.path}, got another SQLite file; "
                "choose another folder"
            )
        row = self._connection.execute("SELECT schema_version FROM run").fetchone()
        if row is None or row[0] != SCHEMA_VERSION:
            found = None if row is None else row[0]
            raise ConfigError(
                f"expected schema version {SCHEMA_VERSION} in {self.path}, got {found}; "
                "start the run anew in another folder"
            )
        rows = self._connection.execute("SELECT manifest FROM cell ORDER BY place").fetchall()
        return tuple(Manifest.from_json(text) for (text,) in rows)

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

    def _in_use(self) -> StorageError:
        return StorageError(
            f"expected {self.path} to be free, got it in use by another live process; "
            "wait for that run or stop it"
        )

    @contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        """Say what to do about what SQLite or the system refuses."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise self._in_use() from error
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
