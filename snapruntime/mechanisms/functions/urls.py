"""Function URLs in the functions' database: one table, at most one row for a function and for each of its aliases."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from typing import Any

from snapruntime.values.function_url import AuthType, Cors, FunctionUrl, InvokeMode

#: An alias may go and its URL stay, as on AWS; "" stands for the function itself.
SCHEMA = """CREATE TABLE urls (
        id TEXT PRIMARY KEY,
        function TEXT NOT NULL REFERENCES functions (name) ON DELETE CASCADE,
        alias TEXT NOT NULL,
        auth TEXT NOT NULL,
        invoke_mode TEXT NOT NULL,
        cors TEXT NOT NULL,
        created TEXT NOT NULL,
        modified TEXT NOT NULL,
        UNIQUE (function, alias)
    ) STRICT"""


class Urls:
    """The table, within a transaction of `connection`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def by_id(self, id: str) -> FunctionUrl | None:
        row = self._connection.execute("SELECT * FROM urls WHERE id = ?", (id,)).fetchone()
        return _url(row) if row else None

    def of(self, function: str, alias: str | None) -> FunctionUrl | None:
        row = self._connection.execute(
            "SELECT * FROM urls WHERE function = ? AND alias = ?", (function, alias or "")
        ).fetchone()
        return _url(row) if row else None

    def all(self, function: str) -> list[FunctionUrl]:
        rows = self._connection.execute("SELECT * FROM urls WHERE function = ? ORDER BY alias", (function,))
        return [_url(row) for row in rows]

    def put(self, url: FunctionUrl) -> None:
        """Add it, or change it."""
        cors = "" if url.cors is None else json.dumps(dataclasses.asdict(url.cors))
        self._connection.execute(
            "REPLACE INTO urls VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (url.id, url.function, url.alias or "", url.auth, url.invoke_mode, cors, url.created, url.modified),
        )

    def delete(self, url: FunctionUrl) -> None:
        self._connection.execute("DELETE FROM urls WHERE id = ?", (url.id,))


def _url(row: tuple[Any, ...]) -> FunctionUrl:
    id, function, alias, auth, invoke_mode, cors, created, modified = row
    return FunctionUrl(
        id=id,
        function=function,
        alias=alias or None,
        auth=AuthType(auth),
        invoke_mode=InvokeMode(invoke_mode),
        cors=_cors(json.loads(cors)) if cors else None,
        created=created,
        modified=modified,
    )


def _cors(members: dict[str, Any]) -> Cors:
    lists: dict[str, Any] = {name: tuple(value) for name, value in members.items() if isinstance(value, list)}
    return Cors(**(members | lists))
