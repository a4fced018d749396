"""What an object is, for the scan: told by the names of its type's ancestors, so that nothing is imported for it."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: Client libraries that notice a dead connection when they use it, and connect again by themselves.
RECONNECTING = frozenset({"aiohttp", "botocore", "httpcore", "httpx", "redis", "requests", "urllib3"})
#: Connections of libraries written in C, whose sockets are no Python objects. All have fileno().
_C_CONNECTIONS = frozenset(
    {
        "psycopg.Connection",
        "psycopg.AsyncConnection",
        "psycopg.connection.Connection",
        "psycopg.connection_async.AsyncConnection",
        "psycopg2.extensions.connection",
    }
)
POOLS = frozenset({"sqlalchemy.pool.base.Pool", "psycopg_pool.base.BasePool", "psycopg2.pool.AbstractConnectionPool"})
_FILES = frozenset(
    {"_io.TextIOWrapper", "_io.BufferedReader", "_io.BufferedWriter", "_io.BufferedRandom", "_io.FileIO"}
)
_TEMPORARY = frozenset(
    {"tempfile._TemporaryFileWrapper", "tempfile.TemporaryDirectory", "tempfile.SpooledTemporaryFile"}
)
#: Types whose connections and generators a hook of ours looks after -> its name.
HOOKS = {
    "http.client.HTTPConnection": "http_client",
    "logging.Handler": "logging",
    "numpy.random._generator.Generator": "numpy",
    "numpy.random.mtrand.RandomState": "numpy",
    "psycopg.BaseConnection": "postgresql",
    "psycopg._connection_base.BaseConnection": "postgresql",
    "psycopg2.extensions.connection": "postgresql",
    "random.Random": "random",
    "redis.connection.AbstractConnection": "redis",
    "torch._C.Generator": "torch",
}
#: Arrays up to this size are compared, bytes.
_MAX_ARRAY = 1 << 20
_DAY = 86400
#: A number that could be an address: of id() in a name, as pydantic gives its schemas, or of a repr.
_LONG = re.compile(r"(?<![0-9A-Za-z])(?:0x[0-9a-f]{6,16}|[0-9]{7,15})(?![0-9A-Za-z])")
_memory: list[range] = []


def names_of(kind: type) -> list[str]:
    """ "module.name" of a type and its ancestors, nearest first."""
    return [f"{k.__module__}.{k.__qualname__}" for k in kind.__mro__[:-1]]


def digest(value: object) -> str:
    """A short fingerprint: equal for equal values, in whatever process; says nothing of the value."""
    data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).hexdigest()[:16]


def value_of(thing: Any, kind: type) -> tuple[str, str] | None:
    """(what kind of value, its digest) where `thing` is a plain value that could have been made unique at init."""
    if kind is str or kind is bytes or kind is bytearray:
        if len(thing) < 6:
            return None
        return "value", digest(_without_addresses(thing) if kind is str else bytes(thing))
    if kind is bool or thing is None:
        return None
    if kind is int or kind is float:
        if _is_time(thing):
            return "time", digest(repr(thing))
        # The identity of a thread is an address, and in a copy still that thread's.
        if kind is int and abs(thing) >= 1 << 30 and thing not in sys._current_frames() and not _is_address(thing):
            # In hexadecimal where str() has a limit of 4300 digits.
            return "value", digest(repr(thing) if abs(thing) < 1 << 1024 else hex(thing))
        return "number", digest(repr(thing))
    names = names_of(kind)
    if "uuid.UUID" in names:
        return "value", digest(thing)
    if "datetime.date" in names or "time.struct_time" in names:
        return "time", digest(thing.isoformat() if "datetime.date" in names else tuple(thing))
    if "pandas._libs.tslibs.timestamps._Timestamp" in names:
        return "time", digest(thing.isoformat())
    if "numpy.ndarray" in names and thing.dtype.kind in "biufc" and 0 < thing.nbytes <= _MAX_ARRAY and thing.size >= 2:
        return "value", digest(thing.tobytes())
    return None


def _without_addresses(text: str) -> str:
    def shown(found: re.Match[str]) -> str:
        return "<address>" if _is_address(int(found[0], 16 if "x" in found[0] else 10)) else found[0]

    return _LONG.sub(shown, text)


def _is_address(number: int) -> bool:
    """Whether a number is where an object of this process can be: another at each start, taken for unique by nobody.

    Told by the process's own map: where Python is no PIE, as Debian's is not, its heap is at numbers of 7 digits on.
    """
    if not _memory:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
            for line in file:
                place, rights = line.split()[:2]
                if rights.startswith("rw"):
                    first, end = (int(part, 16) for part in place.split("-"))
                    _memory.append(range(first, end, 16))
    return any(number in part for part in _memory)


def _is_time(number: float) -> bool:
    """Whether a number is the time of day: seconds, milli-, micro- or nanoseconds since 1970, within the last day."""
    now = time.time()
    # By products: the quotient of a number of more than 308 digits is no float.
    return any((now - _DAY) * unit < number < (now + _DAY) * unit for unit in (1, 10**3, 10**6, 10**9))


def generator_state(thing: Any, names: list[str]) -> str | None:
    """The digest of the state of a random generator that an object is; None where it is none."""
    if "random.Random" in names:
        return None if "random.SystemRandom" in names else digest(repr(thing.getstate()))
    if "numpy.random._generator.Generator" in names:
        return digest(repr(thing.bit_generator.state))
    if "numpy.random.mtrand.RandomState" in names:
        return digest(repr([part if isinstance(part, (str, int, float)) else list(part) for part in thing.get_state()]))
    if "torch._C.Generator" in names:
        return digest(bytes(thing.get_state().tolist()))
    return None


def shared_generators() -> dict[str, str]:
    """The state of the generators that modules keep for everybody, where such a module is loaded."""
    found: dict[str, str] = {}
    readers: dict[str, Callable[[Any], str]] = {
        "random": lambda module: digest(repr(module.getstate())),
        "numpy.random": lambda module: generator_state(module.mtrand._rand, ["numpy.random.mtrand.RandomState"]) or "",
        "torch": lambda module: digest(bytes(module.get_rng_state().tolist())),
    }
    for name, read in readers.items():
        if name in sys.modules:
            try:
                found[name] = read(sys.modules[name])
            except Exception:
                continue  # The function's own module of that name.
    return found


def keepers() -> set[int]:
    """The ids of those shared generators, which are no finding where the function holds a method of them."""
    places = (("random", "_inst"), ("secrets", "_sysrand"), ("numpy.random.mtrand", "_rand"))
    return {id(getattr(sys.modules.get(module), name, None)) for module, name in places}


def resource_of(thing: Any, names: list[str]) -> tuple[str, dict[str, Any]] | None:
    """(kind, details) of something that belongs to the kernel, or to another process or host."""
    if "socket.socket" in names:
        return _socket(thing, tls="ssl.SSLSocket" in names)
    if "http.client.HTTPConnection" in names and thing.sock is None and thing.auto_open:
        return "mended", {"alive": True}  # Closed, by a hook perhaps: its next request opens it.
    if "ssl.SSLObject" in names or "_ssl.SSLSession" in names:
        return "tls", {"what": "TLS session"}
    if not _C_CONNECTIONS.isdisjoint(names):
        if thing.closed:
            return None
        return "connection", {"fd": thing.fileno(), "alive": _alive(thing.fileno()), "what": "database connection"}
    if not _TEMPORARY.isdisjoint(names):
        return "temporary", {"name": str(getattr(thing, "name", ""))}
    if not _FILES.isdisjoint(names):
        if thing.closed or thing.fileno() <= 3:
            return None
        target = os.readlink(f"/proc/self/fd/{thing.fileno()}")
        return (
            None
            if target.startswith(("/dev/", "pipe:", "socket:"))
            else ("file", {"fd": thing.fileno(), "name": target})
        )
    if "asyncio.base_events.BaseEventLoop" in names:
        return None if thing.is_closed() else ("loop", {"scheduled": len(getattr(thing, "_scheduled", ()))})
    if names[0] == "botocore.credentials.Credentials" and thing.access_key:
        # The hook takes those of the environment anew in each copy; what the client was given it leaves alone.
        renewed = thing.method == "env" and "snapruntime.hooks.boto3" in sys.modules
        return ("mended", {"alive": True}) if renewed else ("credentials", {"method": str(thing.method)})
    if "subprocess.Popen" in names:
        return ("child", {"pid": thing.pid}) if thing.poll() is None else None
    return None


def _socket(thing: Any, tls: bool) -> tuple[str, dict[str, Any]] | None:
    import socket

    fd = thing.fileno()
    if fd < 0 or thing.family not in (socket.AF_INET, socket.AF_INET6) or not thing.type & socket.SOCK_STREAM:
        return None  # A datagram socket has no other side that could have closed it; it is in every copy as it was.
    if thing.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "listener", {"fd": fd}
    return "tls" if tls else "connection", {
        "fd": fd,
        "alive": _alive(fd),
        "what": "TLS connection" if tls else "connection",
    }


def _alive(fd: int) -> bool:
    """Whether a stream socket has another side: CRIU restores one that was connected as closed (`tcp_close`)."""
    import socket

    try:
        with socket.socket(fileno=os.dup(fd)) as same:
            same.getpeername()
    except OSError:
        return False
    return True


def heals(thing: Any, names: list[str]) -> bool:
    """Whether connections below this object are looked after: found dead, they are made anew."""
    if names[0].split(".")[0] in RECONNECTING:
        return True
    if "sqlalchemy.pool.base.Pool" in names:
        return bool(getattr(thing, "_pre_ping", False))
    return "psycopg_pool.base.BasePool" in names and getattr(thing, "_check", None) is not None
