"""Connections made at init, to real servers: what breaks without the hook, then the mend."""

from __future__ import annotations

import pytest

from snapruntime import SnapshotError

from .conftest import Ask, Server, failure

REDIS = """
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
    client = redis.Redis({where}, retry=Retry(NoBackoff(), 0))
    client.set("name", "Ada")
    def handler(event, context):
        return client.get("name").decode()
"""

PSYCOPG = """
    import psycopg
    connection = psycopg.connect("host={host} port={port} user=snap password=secret dbname=postgres", autocommit=True)
    connection.row_factory = psycopg.rows.dict_row
    def handler(event, context):
        return [connection.execute("select 41 + 1 as sum").fetchone(), connection.autocommit]
"""

POOL = """
    import psycopg_pool
    pool = psycopg_pool.ConnectionPool(
        "host={host} port={port} user=snap password=secret dbname=postgres", min_size=2, open=True
    )
    pool.wait()
    def handler(event, context):
        with pool.connection() as connection:
            return connection.execute("select 42").fetchone()
"""

PSYCOPG2 = """
    import psycopg2
    connection = psycopg2.connect("host={host} port={port} user=snap password=secret dbname=postgres")
    connection.autocommit = True
    def handler(event, context):
        with connection.cursor() as cursor:
            cursor.execute("select 41 + 1, 'ü'")
            return [cursor.fetchone(), connection.autocommit]
"""

SQLALCHEMY = """
    import sqlalchemy
    engine = sqlalchemy.create_engine("postgresql+psycopg://snap:secret@/postgres?host={host}&port={port}")
    def query():
        with engine.connect() as connection:
            return connection.execute(sqlalchemy.text("select 42")).scalar()
    query()
    def handler(event, context):
        return query()
"""


def test_redis_client_that_does_not_retry(ask: Ask, redis_server: Server) -> None:
    source = REDIS.replace("{where}", f"port={redis_server.port}, single_connection_client=True")
    assert failure(ask(source)) == "ConnectionError"
    assert ask(source, "redis").result == "Ada"


def test_redis_held_connection_by_tcp(ask: Ask, redis_server: Server) -> None:
    source = f"""
        import redis
        connection = redis.Connection(port={redis_server.port})
        connection.connect()
        def handler(event, context):
            connection.send_command("PING")
            return connection.read_response().decode()
    """
    assert failure(ask(source)) == "ConnectionError"
    assert ask(source, "redis").result == "PONG"


def test_redis_by_unix_socket(ask: Ask, redis_server: Server) -> None:
    where = f"unix_socket_path={str(redis_server.folder / 'socket')!r}"
    source = REDIS.replace("{where}", where)
    shown = {"read_only": [str(redis_server.folder)]}
    with pytest.raises(SnapshotError, match="socket") as raised:
        ask(source, **shown)
    assert "--hook redis" in raised.value.hint
    assert "._sock" not in raised.value.hint
    assert ask(source, "redis", **shown).result == "Ada"


@pytest.mark.parametrize(
    ("source", "error", "answer"),
    [
        pytest.param(PSYCOPG, "OperationalError", [{"sum": 42}, True], id="psycopg"),
        pytest.param(POOL, "OperationalError", [42], id="psycopg_pool"),
        pytest.param(PSYCOPG2, "OperationalError", [[42, "ü"], True], id="psycopg2"),
        pytest.param(SQLALCHEMY, "OperationalError", 42, id="SQLAlchemy"),
    ],
)
def test_postgresql_by_tcp(ask: Ask, postgresql_server: Server, source: str, error: str, answer: object) -> None:
    source = source.replace("{host}", "127.0.0.1").replace("{port}", str(postgresql_server.port))
    assert failure(ask(source)) == error
    assert ask(source, "postgresql").result == answer


@pytest.mark.parametrize("source", [PSYCOPG, PSYCOPG2], ids=["psycopg", "psycopg2"])
def test_postgresql_by_unix_socket(ask: Ask, postgresql_server: Server, source: str) -> None:
    source = source.replace("{host}", str(postgresql_server.folder)).replace("{port}", str(postgresql_server.port))
    shown = {"read_only": [str(postgresql_server.folder)]}
    with pytest.raises(SnapshotError, match="socket") as raised:
        ask(source, **shown)
    assert "--hook postgresql" in raised.value.hint
    assert ask(source, "postgresql", **shown).error is None
