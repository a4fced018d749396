"""Events that wait to be delivered: SQLite in WAL mode, so that what was accepted outlives the process.

    HOME/events.db        the events
    HOME/events.lock      held by the process that delivers them; others may add to the queue

An event stays until it has been delivered or given up: whoever dies over one has it delivered again (at least once, as
on AWS).
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from snapruntime.mechanisms.folders import disk_hint, try_lock
from snapruntime.values.service_errors import ServiceException

_SCHEMA = """CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY,
    request_id TEXT NOT NULL,
    function TEXT NOT NULL,
    qualifier TEXT,
    payload BLOB NOT NULL,
    client_context TEXT,
    accepted REAL NOT NULL,
    due REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    throttled INTEGER NOT NULL DEFAULT 0
) STRICT"""
_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class QueuedEvent:
    """An event on its way.

    Attributes:
        id: its place in the queue.
        request_id: of the invocation; the same each time it is tried.
        function: which function.
        qualifier: as it was given.
        payload: the event, JSON.
        client_context: JSON text.
        accepted: `time.time()` of when it was taken.
        attempts: how often the function has failed at it.
        throttled: how often it could not be tried.
    """

    id: int
    request_id: str
    function: str
    qualifier: str | None
    payload: bytes
    client_context: str | None
    accepted: float
    attempts: int = 0
    throttled: int = 0


class EventQueue:
    """The queue of one data folder. Thread-safe.

    Args:
        home: the data folder.
    """

    def __init__(self, home: Path) -> None:
        self._lock = threading.Lock()
        self._delivering = os.open(home / "events.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with self._said(home):
            self._connection = sqlite3.connect(
                home / "events.db", timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")  # Accepted means on the disk.
            self._connection.execute(_SCHEMA)
        os.chmod(home / "events.db", 0o600)
        self._home = home

    @contextmanager
    def _said(self, home: Path) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            hint = disk_hint(error) if isinstance(error, OSError) else "Check the disk that SNAPRUNTIME_HOME is on."
            raise ServiceException(
                f"The queue of events {home / 'events.db'} cannot be used: {error}", hint=hint
            ) from error

    def deliver(self) -> bool:
        """Be the one who delivers, until closed; False where another process does."""
        return try_lock(self._delivering, fcntl.LOCK_EX)

    def add(self, event: QueuedEvent, due: float) -> None:
        """Take an event; it is on the disk when this returns. Its `id` does not matter.

        Args:
            due: `time.time()` from which on it is to be tried.

        Raises:
            ServiceException: the disk does not take it.
        """
        with self._lock, self._said(self._home):
            self._connection.execute(
                "INSERT INTO events (request_id, function, qualifier, payload, client_context, accepted, due)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    event.request_id,
                    event.function,
                    event.qualifier,
                    event.payload,
                    event.client_context,
                    event.accepted,
                    due,
                ),
            )

    def due(self, now: float, besides: set[int], most: int, functions: Iterable[str] = ()) -> list[QueuedEvent]:
        """The events that are to be tried, the oldest of each function first, and of each function as many.

        Args:
            besides: those that are being tried.
            most: how many at most.
            functions: those that are not to be tried now.
        """
        with self._lock, self._said(self._home):
            rows = self._connection.execute(
                "SELECT id, request_id, function, qualifier, payload, client_context, accepted, attempts, throttled"
                " FROM (SELECT *, row_number() OVER (PARTITION BY function ORDER BY due) AS turn FROM events"
                f" WHERE due <= ? AND {_besides(besides)} AND function NOT IN (SELECT value FROM json_each(?)))"
                " ORDER BY turn, due LIMIT ?",
                (now, json.dumps(list(functions)), most),
            ).fetchall()
        return [QueuedEvent(*row) for row in rows]

    def next_due(self, besides: set[int], functions: Iterable[str] = ()) -> float | None:
        """When the next of the others is to be tried; None where there is none."""
        with self._lock, self._said(self._home):
            (found,) = self._connection.execute(
                f"SELECT min(due) FROM events WHERE {_besides(besides)}"
                " AND function NOT IN (SELECT value FROM json_each(?))",
                (json.dumps(list(functions)),),
            ).fetchone()
        return None if found is None else float(found)

    def postpone(self, event: QueuedEvent, due: float, *, failed: bool) -> None:
        """Try it again later; `failed` where it was tried."""
        column = "attempts" if failed else "throttled"
        with self._lock, self._said(self._home):
            self._connection.execute(
                f"UPDATE events SET due = ?, {column} = {column} + 1 WHERE id = ?", (due, event.id)
            )

    def done(self, event: QueuedEvent) -> None:
        """Forget it."""
        with self._lock, self._said(self._home):
            self._connection.execute("DELETE FROM events WHERE id = ?", (event.id,))

    def __len__(self) -> int:
        with self._lock, self._said(self._home):
            return int(self._connection.execute("SELECT count(*) FROM events").fetchone()[0])

    def close(self) -> None:
        with self._lock:
            self._connection.close()
            os.close(self._delivering)


def _besides(events: set[int]) -> str:
    return f"id NOT IN ({', '.join(map(str, events)) or '0'})"
