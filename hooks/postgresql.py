"""Close connections to PostgreSQL before the snapshot and open them anew in each copy: psycopg, psycopg2, SQLAlchemy.

Without it: a connection by a unix socket stops the snapshot, one by TCP is dead in the copies, and its next query
raises OperationalError; so does the first query of a psycopg_pool pool, or of an SQLAlchemy engine without
pool_pre_ping.

Connections are mended in place, with their settings; what the session held on the server is not (temporary tables,
LISTEN, prepared statements made by SQL, an open transaction). Asynchronous psycopg connections are not touched.
"""

from __future__ import annotations

import os
from typing import Any

from snapruntime import register_after_restore, register_before_snapshot
from snapruntime.hooks._living import instances

_psycopg: list[tuple[Any, dict[str, Any]]] = []
_psycopg2: list[tuple[Any, dict[str, Any], dict[str, Any]]] = []
#: What psycopg.Connection.__init__ makes for one connection to a server; all else is the user's settings.
_OF_THE_SESSION = ("pgconn", "_closed", "_prepared", "_pipeline", "_tpc", "_num_transactions", "_notifies_backlog")


@register_before_snapshot
def close() -> None:
    """Engines let go of their idle connections, and make new ones; all others are remembered and closed."""
    for engine in instances("sqlalchemy.engine", "Engine"):
        engine.dispose()
    for connection in instances("psycopg", "Connection"):
        if not connection.closed:
            info = connection.info
            _psycopg.append((connection, info.get_parameters() | {"password": info.password}))
            connection.pgconn.finish()  # not close(), which may give it back to a pool
    for connection in instances("psycopg2.extensions", "connection"):
        if not connection.closed:
            parameters = connection.info.dsn_parameters | {"password": connection.info.password}
            settings = {"autocommit": connection.autocommit, "encoding": connection.encoding}
            _psycopg2.append((connection, parameters, settings))
            _let_go(connection.fileno())


def _let_go(descriptor: int) -> None:
    """End a connection of psycopg2's: only where it does not know that can it be opened anew in place."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, descriptor, inheritable=False)
    os.close(null)


@register_after_restore
def reconnect() -> None:
    """Raises what the library raises where the server does not answer."""
    for connection, parameters in _psycopg:
        settings = {name: value for name, value in vars(connection).items() if name not in _OF_THE_SESSION}
        fresh = type(connection).connect(**parameters)
        connection.__init__(fresh.pgconn)
        vars(connection).update(settings)
    for connection, parameters, settings in _psycopg2:
        from psycopg2.extensions import make_dsn

        connection.__init__(make_dsn(**parameters))
        connection.autocommit = settings["autocommit"]
        connection.set_client_encoding(settings["encoding"])
