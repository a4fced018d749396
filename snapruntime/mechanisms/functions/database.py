"""What functions, versions and aliases there are: SQLite in WAL mode, one file.

    HOME/functions/functions.db    with -wal and -shm beside it while somebody has it open

A change is one transaction, begun with the lock for writing, so that what was read in it is still true when it is
written. Killed at any point, a process leaves either all of a change or nothing of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from snapruntime.mechanisms.folders import take_lock
from snapruntime.mechanisms.functions import urls
from snapruntime.values.errors import HostError
from snapruntime.values.function import (
    LATEST,
    Alias,
    ApplyOn,
    Code,
    FunctionConfiguration,
    FunctionSettings,
    FunctionVersion,
    LastUpdateStatus,
    State,
)
from snapruntime.values.service_errors import ServiceException

#: Of the tables below, in the file's user_version.
SCHEMA_VERSION = 1
#: How long to wait for another process's change, seconds.
_PATIENCE_S = 30.0

_SCHEMA = (
    """CREATE TABLE functions (
        name TEXT PRIMARY KEY,
        settings TEXT NOT NULL
    ) STRICT""",
    # The next version's number. It stays when the function is deleted, since numbers are never used again.
    """CREATE TABLE numbers (
        function TEXT PRIMARY KEY,
        next INTEGER NOT NULL
    ) STRICT""",
    # Number 0 is $LATEST. `source` is the configuration of $LATEST that the version was published from; `maker` says
    # who is to make its snapshot, as long as it is Pending.
    """CREATE TABLE versions (
        function TEXT NOT NULL REFERENCES functions (name) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        configuration TEXT NOT NULL,
        source TEXT NOT NULL,
        code TEXT NOT NULL,
        code_sha256 TEXT NOT NULL,
        code_size INTEGER NOT NULL,
        state TEXT NOT NULL,
        state_reason TEXT NOT NULL,
        state_reason_code TEXT NOT NULL,
        last_update TEXT NOT NULL,
        last_modified TEXT NOT NULL,
        revision_id TEXT NOT NULL,
        snapshot TEXT,
        maker TEXT NOT NULL,
        PRIMARY KEY (function, number)
    ) STRICT""",
    "CREATE INDEX versions_by_code ON versions (code)",
    """CREATE TABLE aliases (
        function TEXT NOT NULL REFERENCES functions (name) ON DELETE CASCADE,
        name TEXT NOT NULL,
        version INTEGER NOT NULL,
        description TEXT NOT NULL,
        weights TEXT NOT NULL,
        revision_id TEXT NOT NULL,
        PRIMARY KEY (function, name)
    ) STRICT""",
    urls.SCHEMA,
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)


class Database:
    """The database of one data folder, for any number of threads.

    Args:
        path: its file; it is made where it does not exist.
        code_root: the folder that the code's folders are in.

    Raises:
        HostError: it cannot be opened, or a later version of snapruntime made it.
    """

    def __init__(self, path: Path, code_root: Path) -> None:
        self._code_root = code_root
        # Readers do not wait for a change of ours that waits for another process.
        self._locks = {True: threading.Lock(), False: threading.Lock()}
        try:
            with _alone(path.parent):
                self._connections = {write: _connect(path) for write in (True, False)}
            self._make_tables()
        except (sqlite3.Error, ServiceException, OSError) as error:
            raise HostError(
                f"The functions' database {path} cannot be used: {error}",
                hint="Check the disk it is on. WAL mode needs a local file system; name one with SNAPRUNTIME_HOME.",
            ) from error

    def _make_tables(self) -> None:
        with self.changing() as change:
            version = change.connection.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise HostError(
                    f"The functions in {self._code_root.parent} were stored by a later version of snapruntime.",
                    hint="Use that one, or name another data folder with SNAPRUNTIME_HOME.",
                )
            if version == 0:
                for statement in _SCHEMA:
                    change.connection.execute(statement)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Tables]:
        """All that is read in the block is of one moment. Raises ServiceException where the disk refuses."""
        with self._transaction("DEFERRED", write=False) as tables:
            yield tables

    def stamp(self) -> int:
        """A number that is another one after each change of anybody's to what `reading` shows; cheaper than to read.

        Raises:
            ServiceException: the disk refuses.
        """
        with self._locks[False]:
            try:
                return int(self._connections[False].execute("PRAGMA data_version").fetchone()[0])
            except sqlite3.Error as error:
                raise _refusal(error, write=False) from error

    @contextlib.contextmanager
    def changing(self) -> Iterator[Tables]:
        """What is changed in the block is changed at once at its end, and nothing where it raises.

        Raises:
            ServiceException: the disk refuses, or another process is changing things for too long.
        """
        with self._transaction("IMMEDIATE", write=True) as tables:
            yield tables

    @contextlib.contextmanager
    def _transaction(self, kind: str, *, write: bool) -> Iterator[Tables]:
        with self._locks[write]:
            connection = self._connections[write]
            try:
                connection.execute(f"BEGIN {kind}")
                try:
                    yield Tables(connection, self._code_root)
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
            except sqlite3.Error as error:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise _refusal(error, write=write) from error

    def close(self) -> None:
        for write, connection in self._connections.items():
            with self._locks[write]:
                connection.close()


def _refusal(error: sqlite3.Error, *, write: bool) -> ServiceException:
    return ServiceException(
        f"The functions' database could not be {'changed' if write else 'read'}: {error}",
        hint="Free disk space, or end the process that has it locked, and try again.",
    )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time opens the database.

    SQLite waits for nobody in the moment in which a new file becomes one in WAL mode: of two that would both do so, it
    tells one at once that the database is locked (its busy handler is not asked where waiting could be a deadlock).
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not take_lock(fd, fcntl.LOCK_EX, _PATIENCE_S):
            raise sqlite3.OperationalError("another process has been opening it for too long")
        yield
    finally:
        os.close(fd)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA foreign_keys = ON")
    # A change that was confirmed is there after a power failure too; the default of many builds, but not of all.
    connection.execute("PRAGMA synchronous = FULL")
    return connection


class Tables:
    """The tables, within a transaction. What does not exist is None, or does not come about."""

    def __init__(self, connection: sqlite3.Connection, code_root: Path) -> None:
        self.connection = connection
        self._code_root = code_root

    # Functions.

    def names(self) -> list[str]:
        return [name for (name,) in self.connection.execute("SELECT name FROM functions ORDER BY name")]

    def settings(self, name: str) -> FunctionSettings | None:
        row = self.connection.execute("SELECT settings FROM functions WHERE name = ?", (name,)).fetchone()
        return FunctionSettings(**json.loads(row[0])) if row else None

    def reserved(self) -> dict[str, int]:
        """The functions with a concurrency of their own."""
        rows = self.connection.execute(
            "SELECT name, settings ->> 'reserved_concurrency' AS count FROM functions WHERE count IS NOT NULL"
        )
        return dict(rows.fetchall())

    def put_function(self, name: str, settings: FunctionSettings) -> None:
        # What is not set is left out: a program that is older than a setting reads the others.
        given = {key: value for key, value in dataclasses.asdict(settings).items() if value is not None}
        self.connection.execute(
            "INSERT INTO functions VALUES (?, ?) ON CONFLICT DO UPDATE SET settings = excluded.settings",
            (name, json.dumps(given)),
        )

    def delete_function(self, name: str) -> None:
        """With its versions and aliases."""
        self.connection.execute("DELETE FROM functions WHERE name = ?", (name,))

    def next_number(self, name: str) -> int:
        """A number for a version that was never used before for a function of this name."""
        row = self.connection.execute(
            "INSERT INTO numbers VALUES (?, 2) ON CONFLICT DO UPDATE SET next = next + 1 RETURNING next - 1", (name,)
        ).fetchone()
        return int(row[0])

    # Versions.

    def version(self, name: str, version: str) -> FunctionVersion | None:
        row = self.connection.execute(
            "SELECT * FROM versions WHERE function = ? AND number = ?", (name, _number(version))
        ).fetchone()
        return self._version(row) if row else None

    def versions(self, name: str) -> list[FunctionVersion]:
        """`$LATEST` first, then by number."""
        rows = self.connection.execute("SELECT * FROM versions WHERE function = ? ORDER BY number", (name,))
        return [self._version(row) for row in rows]

    def pending(self) -> list[tuple[FunctionVersion, str]]:
        """Every version that is Pending, and who is to make its snapshot."""
        rows = self.connection.execute("SELECT * FROM versions WHERE state = ?", (State.PENDING,))
        return [(self._version(row), row[-1]) for row in rows]

    def maker(self, name: str, version: str) -> str:
        row = self.connection.execute(
            "SELECT maker FROM versions WHERE function = ? AND number = ?", (name, _number(version))
        ).fetchone()
        return str(row[0]) if row else ""

    def last_published(self, name: str) -> tuple[FunctionVersion, FunctionConfiguration] | None:
        """The latest published version that there is, and the configuration that it was published from."""
        row = self.connection.execute(
            "SELECT * FROM versions WHERE function = ? AND number > 0 ORDER BY number DESC LIMIT 1", (name,)
        ).fetchone()
        return (self._version(row), _configuration(row[3])) if row else None

    def put_version(
        self, version: FunctionVersion, *, source: FunctionConfiguration | None = None, maker: str = ""
    ) -> None:
        """Add a version, or change `$LATEST`.

        Args:
            source: what `$LATEST` was configured as when the version was published.
            maker: who is to make its snapshot.
        """
        code = version.code
        self.connection.execute(
            f"INSERT OR REPLACE INTO versions VALUES ({', '.join('?' * 15)})",
            (
                version.name,
                _number(version.version),
                _json(version.configuration),
                _json(source or version.configuration),
                Path(code.folder).name,
                code.sha256,
                code.size,
                version.state,
                version.state_reason,
                version.state_reason_code,
                version.last_update,
                version.last_modified,
                version.revision_id,
                version.snapshot,
                maker,
            ),
        )

    def change_state(
        self,
        name: str,
        version: str,
        state: State,
        *,
        reason: str = "",
        reason_code: str = "",
        snapshot: str | None,
        revision_id: str,
        maker: str = "",
    ) -> None:
        """Change what may change of a published version."""
        self.connection.execute(
            "UPDATE versions SET state = ?, state_reason = ?, state_reason_code = ?, snapshot = ?, revision_id = ?, "
            "maker = ? WHERE function = ? AND number = ?",
            (state, reason, reason_code, snapshot, revision_id, maker, name, _number(version)),
        )

    def delete_version(self, name: str, version: str) -> None:
        self.connection.execute(
            "DELETE FROM versions WHERE function = ? AND number = ?", (name, _number(version))
        )  # fmt: skip

    def uses_code(self, folder: str) -> bool:
        """Whether any version has the code in this folder."""
        row = self.connection.execute("SELECT 1 FROM versions WHERE code = ? LIMIT 1", (Path(folder).name,)).fetchone()
        return row is not None

    def _version(self, row: tuple[Any, ...]) -> FunctionVersion:
        name, number, configuration, _, code, sha256, size, state, reason, reason_code, update, *rest = row
        modified, revision, snapshot, _ = rest
        return FunctionVersion(
            name=name,
            version=str(number) if number else LATEST,
            configuration=_configuration(configuration),
            code=Code(str(self._code_root / code), sha256, size),
            state=State(state),
            state_reason=reason,
            state_reason_code=reason_code,
            last_update=LastUpdateStatus(update),
            last_modified=modified,
            revision_id=revision,
            snapshot=snapshot,
        )

    # Aliases.

    def alias(self, function: str, name: str) -> Alias | None:
        row = self.connection.execute(
            "SELECT * FROM aliases WHERE function = ? AND name = ?", (function, name)
        ).fetchone()  # fmt: skip
        return _alias(row) if row else None

    def aliases(self, function: str) -> list[Alias]:
        """By name."""
        rows = self.connection.execute("SELECT * FROM aliases WHERE function = ? ORDER BY name", (function,))
        return [_alias(row) for row in rows]

    def put_alias(self, alias: Alias) -> None:
        """Add an alias, or change it."""
        self.connection.execute(
            "INSERT OR REPLACE INTO aliases VALUES (?, ?, ?, ?, ?, ?)",
            (
                alias.function,
                alias.name,
                _number(alias.version),
                alias.description,
                json.dumps(dict(alias.weights)),
                alias.revision_id,
            ),
        )

    def delete_alias(self, function: str, name: str) -> None:
        self.connection.execute("DELETE FROM aliases WHERE function = ? AND name = ?", (function, name))


def _number(version: str) -> int:
    # More digits than SQLite's integers have are no version's number; nor is "01", or "0", which here is $LATEST's.
    return 0 if version == LATEST else int(version) if len(version) < 19 and not version.startswith("0") else -1


def _json(value: FunctionConfiguration) -> str:
    return json.dumps(dataclasses.asdict(value), sort_keys=True)


def _configuration(text: str) -> FunctionConfiguration:
    fields: dict[str, Any] = json.loads(text)
    fields["snap_start"] = ApplyOn(fields["snap_start"])
    for name in ("read_only", "writable", "hooks"):
        fields[name] = tuple(fields[name])
    return FunctionConfiguration(**fields)


def _alias(row: tuple[Any, ...]) -> Alias:
    function, name, version, description, weights, revision = row
    return Alias(function, name, str(version) if version else LATEST, description, json.loads(weights), revision)
