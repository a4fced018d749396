"""What calls mean at init, for the static pass: full names, as a table. `NAME#METHOD` is a method of what NAME made."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a call at init leaves behind.

    Attributes:
        rule: the rule that it is a case of.
        what: in words.
        kept: whether it counts only where its result is kept.
        when: looks at the arguments; the call counts where it says so.
    """

    rule: str
    what: str
    kept: bool = True
    when: Callable[[ast.Call], bool] = lambda _: True


def _keyword(call: ast.Call, *names: str) -> ast.expr | None:
    return next((keyword.value for keyword in call.keywords if keyword.arg in names), None)


def _seed(call: ast.Call) -> ast.expr | None:
    """The seed that a generator is given; None where there is none, or it is None."""
    seed = call.args[0] if call.args else _keyword(call, "seed", "x", "a")
    return None if isinstance(seed, ast.Constant) and seed.value is None else seed


def _seeded(call: ast.Call) -> bool:
    return isinstance(_seed(call), ast.Constant)


def _unseeded(call: ast.Call) -> bool:
    return _seed(call) is None


def _has_argument(call: ast.Call) -> bool:
    return bool(call.args)


def _without(*names: str) -> Callable[[ast.Call], bool]:
    return lambda call: _keyword(call, *names) is None


def _with(*names: str) -> Callable[[ast.Call], bool]:
    return lambda call: _keyword(call, *names) is not None


def _no_arguments(call: ast.Call) -> bool:
    return not call.args or (len(call.args) == 1 and isinstance(call.args[0], ast.Constant))


#: Ready-made hooks, by how the names of calls begin whose objects they look after.
_HOOKS = {
    "random.": "random",
    "numpy.random.": "numpy",
    "http.client.": "http_client",
    "psycopg.": "postgresql",
    "psycopg2.": "postgresql",
    "redis.": "redis",
}
#: The rules whose findings these hooks mend.
_HOOKED = frozenset({"SR001", "SR005"})


def hook_for(rule: str, call: str) -> str:
    """The ready-made hook for what `call` makes; empty where there is none."""
    return next((hook for start, hook in _HOOKS.items() if rule in _HOOKED and call.startswith(start)), "")


_GENERATORS = ("random.Random", "numpy.random.default_rng", "numpy.random.RandomState")
_BIT_GENERATORS = tuple(f"numpy.random.{name}" for name in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"))
_UNIQUE = (
    *("uuid.uuid1", "uuid.uuid4", "uuid.uuid6", "uuid.uuid7", "os.urandom", "ssl.RAND_bytes"),
    *("secrets.token_hex", "secrets.token_bytes", "secrets.token_urlsafe", "secrets.randbelow", "secrets.choice"),
    *("secrets.randbits", "shortuuid.uuid", "nanoid.generate", "bson.ObjectId", "bson.objectid.ObjectId"),
    *("cryptography.fernet.Fernet.generate_key", "ulid.new", "ulid.ULID", "ksuid.ksuid"),
)
_RANDOM = tuple(
    f"random.{name}"
    for name in (
        *("random", "randint", "randrange", "getrandbits", "randbytes", "choice", "choices", "sample", "uniform"),
        *("gauss", "betavariate", "expovariate", "normalvariate", "triangular"),
    )
)
_NUMPY = tuple(
    f"numpy.random.{name}"
    for name in (
        *("rand", "randn", "randint", "random", "random_sample", "bytes", "choice", "permutation", "normal", "uniform"),
    )
)
_TIME = (
    *("time.time", "time.time_ns", "datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today"),
    *("datetime.date.today", "pandas.Timestamp.now", "pandas.Timestamp.utcnow", "pandas.Timestamp.today"),
)
_CONNECT = (
    *("socket.create_connection", "psycopg.connect", "psycopg.Connection.connect", "psycopg2.connect"),
    *("pymysql.connect", "MySQLdb.connect", "mysql.connector.connect", "pymssql.connect", "pyodbc.connect"),
    *("oracledb.connect", "asyncpg.connect", "snowflake.connector.connect", "websocket.create_connection"),
    *("pika.BlockingConnection", "websockets.sync.client.connect", "ldap.initialize", "trino.dbapi.connect"),
)
_CONNECT_BY_METHOD = (
    *("socket.socket#connect", "http.client.HTTPConnection#connect", "http.client.HTTPConnection#request"),
    *("http.client.HTTPSConnection#connect", "http.client.HTTPSConnection#request", "smtplib.SMTP#connect"),
    *("paramiko.SSHClient#connect", "ftplib.FTP#connect", "sqlalchemy.create_engine#connect"),
)
_CONNECT_WHERE_NAMED = ("smtplib.SMTP", "smtplib.SMTP_SSL", "imaplib.IMAP4", "imaplib.IMAP4_SSL", "ftplib.FTP")
_TEMPORARY = ("NamedTemporaryFile", "TemporaryFile", "TemporaryDirectory", "SpooledTemporaryFile", "mkstemp", "mkdtemp")
_BOTO3 = ("boto3.client", "boto3.resource", "boto3.Session", "boto3.session.Session")
_IDENTITIES = ("os.getpid", "socket.gethostname", "socket.getfqdn", "platform.node", "uuid.getnode")

MEANINGS: dict[str, tuple[Meaning, ...]] = {
    **{
        name: (
            Meaning("SR001", "draws from a state of its own", when=_unseeded),
            Meaning("SR002", "has a fixed seed", when=_seeded),
        )
        for name in (*_GENERATORS, *_BIT_GENERATORS)
    },
    **{name: (Meaning("SR003", "is different at each call"),) for name in (*_UNIQUE, *_RANDOM, *_NUMPY)},
    **{name: (Meaning("SR004", "is the time of the call"),) for name in _TIME},
    **{
        name: (Meaning("SR004", "is the time of the call", when=_no_arguments),)
        for name in ("time.localtime", "time.gmtime", "time.ctime", "time.strftime", "time.asctime")
    },
    **{name: (Meaning("SR005", "connects"),) for name in _CONNECT},
    **{name: (Meaning("SR005", "connects", kept=False),) for name in _CONNECT_BY_METHOD},
    **{name: (Meaning("SR005", "connects", when=_has_argument),) for name in _CONNECT_WHERE_NAMED},
    **{
        f"ssl.{name}#wrap_socket": (Meaning("SR013", "is a TLS connection"),)
        for name in ("SSLContext", "create_default_context")
    },
    "open": (Meaning("SR006", "is a file that stays open"),),
    **{f"tempfile.{name}": (Meaning("SR007", "is made once for all copies"),) for name in _TEMPORARY},
    "threading.Thread#start": (Meaning("SR008", "starts a thread", kept=False),),
    "threading.Timer#start": (Meaning("SR008", "starts a timer thread", kept=False),),
    "subprocess.Popen": (Meaning("SR009", "starts a child process"),),
    "multiprocessing.Process#start": (Meaning("SR009", "starts a child process", kept=False),),
    "multiprocessing.Pool": (Meaning("SR009", "starts child processes"),),
    "asyncio.new_event_loop": (Meaning("SR010", "makes an event loop"),),
    "asyncio.get_event_loop": (Meaning("SR010", "makes an event loop"),),
    **{name: (Meaning("SR011", "is given a secret key", when=_with("aws_secret_access_key")),) for name in _BOTO3},
    "psycopg_pool.ConnectionPool": (Meaning("SR015", "does not check what it hands out", when=_without("check")),),
    "psycopg2.pool.SimpleConnectionPool": (Meaning("SR015", "does not check what it hands out"),),
    "psycopg2.pool.ThreadedConnectionPool": (Meaning("SR015", "does not check what it hands out"),),
    **{name: (Meaning("SR014", "is the same in all copies"),) for name in _IDENTITIES},
    **{
        name: (Meaning("SR016", "is undone by a restore", kept=False, when=_seeded),)
        for name in ("random.seed", "numpy.random.seed", "torch.manual_seed")
    },
}

#: Names of hooks' registration, and what a hook calls on an object that it puts right.
BEFORE_SNAPSHOT, AFTER_RESTORE = "register_before_snapshot", "register_after_restore"
_CLOSES = ("close", "dispose", "disconnect", "cache_clear", "clear", "shutdown", "terminate", "kill", "stop", "quit")
_RENEWS = ("seed", "setstate", "set_state", "connect", "reconnect", "reset", "refresh", "clear", "cache_clear", "renew")
PUTS_RIGHT = {BEFORE_SNAPSHOT: frozenset(_CLOSES), AFTER_RESTORE: frozenset(_RENEWS)}
#: Methods that keep their argument.
KEEPS = frozenset({"append", "add", "extend", "insert", "put", "setdefault", "update", "appendleft", "put_nowait"})
