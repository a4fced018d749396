"""Hooks for what needs no server of somebody else's: generators, handlers, caches, memory."""

from __future__ import annotations

import http.server
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import Write

from snapruntime import Runtime, UsageError, resolve_function

from .conftest import Ask, failure

#: What is made at init, by name; what a copy draws from it; the hook that reseeds it.
GENERATORS = {
    "random": ("random.Random(7)", "{}.random()", "random"),
    "generator": ("numpy.random.default_rng()", "{}.random()", "numpy"),
    "legacy": ("numpy.random.RandomState(7)", "{}.normal()", "numpy"),
    "parent": ("numpy.random.default_rng()", "{}.spawn(1)[0].random()", "numpy"),
    "mersenne": ("numpy.random.MT19937()", "{}.random_raw()", "numpy"),
    "sequence": ("numpy.random.SeedSequence()", "int({}.generate_state(1)[0])", "numpy"),
    "sqlite": ("sqlite3.connect(':memory:')", "{}.execute('select random()').fetchone()", "sqlite3"),
}


@pytest.mark.parametrize("used", [True, False], ids=["used", "unused"])
def test_generators_made_at_init(runtime: Runtime, write: Write, used: bool) -> None:
    made = "; ".join(f"made_{name} = {make}" for name, (make, _, _) in GENERATORS.items())
    drawn = ", ".join(f"{name!r}: {draw.format(f'made_{name}')}" for name, (_, draw, _) in GENERATORS.items())
    source = f"""
        import random, sqlite3
        import numpy
        {made}
        def draw(): return {{{drawn}}}
        {"draw()" if used else ""}
        def handler(event, context): return draw()
    """
    for hooks in ((), ("random", "numpy", "sqlite3")):
        with runtime.snapshot(write(source, hooks=hooks, timeout_s=20)) as snapshot, ExitStack() as stack:
            found = [stack.enter_context(snapshot.restore()).invoke({}).result for _ in range(3)]
        repeated = {name for name in GENERATORS if len({str(one[name]) for one in found}) == 1}
        # SQLite seeds its generator when that is first used.
        assert repeated == (set() if hooks else set(GENERATORS) - (set() if used else {"sqlite"}))


class KeepAlive(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def http_port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), KeepAlive) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_http_client(ask: Ask, http_port: int) -> None:
    source = f"""
        import http.client
        connection = http.client.HTTPConnection("127.0.0.1", {http_port})
        def get():
            connection.request("GET", "/")
            return connection.getresponse().read().decode()
        get()
        def handler(event, context): return get()
    """
    assert failure(ask(source)) in ("BrokenPipeError", "RemoteDisconnected", "ConnectionResetError")
    assert ask(source, "http_client").result == "ok"


@pytest.mark.parametrize(
    "make",
    [
        "logging.handlers.SocketHandler('127.0.0.1', {port})",
        "logging.handlers.SysLogHandler(('127.0.0.1', {port}), socktype=socket.SOCK_STREAM)",
    ],
    ids=["SocketHandler", "SysLogHandler"],
)
def test_logging(runtime: Runtime, write: Write, make: str) -> None:
    source = """
        import logging, logging.handlers, socket
        log = logging.getLogger("sent"); log.propagate = False
        log.addHandler({make})
        log.warning("at init")
        def handler(event, context):
            log.warning("first of the copy")
            log.warning("second of the copy")
    """
    for hooks, first in (((), False), (("logging",), True)):
        with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
            received = pool.submit(all_records, listener)
            port = listener.getsockname()[1]
            function = write(source.replace("{make}", make.format(port=port)), hooks=hooks)
            with runtime.snapshot(function) as snapshot, snapshot.restore() as copy:
                assert copy.invoke({}).error is None
            with socket.create_connection(("127.0.0.1", port)) as last:
                last.sendall(b"that was all")
            text = received.result(10)
        assert b"at init" in text
        assert (b"first of the copy" in text) == first


def all_records(listener: socket.socket) -> bytes:
    """What came by one connection after the other, each until its end, up to and with the test's own last word."""
    text = b""
    while not text.endswith(b"that was all"):
        connection, _ = listener.accept()
        with connection:
            while data := connection.recv(1 << 16):
                text += data
    return text


def test_dns_cache_of_aiohttp(ask: Ask) -> None:
    """Its entries do not age in the snapshot; the resolver here answers what the environment says."""
    source = """
        import asyncio, os, socket
        import aiohttp
        from aiohttp.abc import AbstractResolver
        class Resolver(AbstractResolver):
            async def resolve(self, host, port=0, family=socket.AF_INET):
                address = os.environ.get("ADDRESS", "127.0.0.1")
                return [dict(hostname=host, host=address, port=port, family=family, proto=0, flags=0)]
            async def close(self): pass
        loop = asyncio.new_event_loop()
        async def make(): return aiohttp.TCPConnector(resolver=Resolver(), ttl_dns_cache=10)
        connector = loop.run_until_complete(make())
        def look_up(): return loop.run_until_complete(connector._resolve_host("service", 80))[0]["host"]
        look_up()
        def handler(event, context): return look_up()
    """
    moved: dict[str, str | None] = {"ADDRESS": "127.0.0.2"}
    assert ask(source, environment=moved).result == "127.0.0.1"
    assert ask(source, "dns", environment=moved).result == "127.0.0.2"


def test_gc_leaves_shared_memory_shared(ask: Ask) -> None:
    source = """
        import gc, re
        tree = [{"number": [n], "text": (str(n),)} for n in range(100_000)]
        def dirty():
            with open("/proc/self/smaps_rollup") as f:
                return int(re.search(r"Private_Dirty: *([0-9]+) kB", f.read())[1])
        def handler(event, context):
            before = dirty(); gc.collect(); return dirty() - before
    """
    without, with_hook = ask(source).result, ask(source, "gc").result
    print(f"dirtied by the first full collection: {without} kB, with the hook {with_hook} kB")
    assert with_hook < without / 10


def test_malloc_trim_makes_the_snapshot_smaller(runtime: Runtime, write: Write) -> None:
    source = """
        blocks = [bytes(1000) for _ in range(60_000)]
        last = bytes(1000)
        del blocks
        def handler(event, context): return 1
    """
    sizes = []
    for hooks in ((), ("malloc_trim",)):
        with runtime.snapshot(write(source, hooks=hooks)) as snapshot, snapshot.restore() as copy:
            assert copy.invoke({}).result == 1
            sizes.append(sum(file.stat().st_size for file in Path(snapshot.stored.folder / "images").iterdir()) >> 10)
    print(f"images: {sizes[0]} kB, with the hook {sizes[1]} kB")
    assert sizes[1] < sizes[0] - 30_000


def test_hooks_find_what_gc_has_frozen(ask: Ask) -> None:
    source = """
        import random
        rng = random.Random(7); state = rng.getstate()
        def handler(event, context): return rng.getstate() == state
    """
    assert ask(source).result is True
    assert ask(source, "random", "gc").result is False
    assert ask(source, "gc", "random").result is False


def test_a_handler_imports_them_by_itself(ask: Ask) -> None:
    source = """
        import random
        from snapruntime.hooks import random as hook
        import snapruntime.hooks.numpy
        from snapruntime import register_after_restore
        rng = random.Random(7); first = rng.getstate()
        def handler(event, context): return [hook.__name__, rng.getstate() == first]
    """
    assert ask(source).result == ["snapruntime.hooks.random", False]


def test_outside_a_worker_they_can_be_imported_too() -> None:
    import snapruntime.hooks.redis

    assert snapruntime.hooks.redis.disconnect.__module__ == "snapruntime.hooks.redis"


def test_an_unknown_hook_is_named_with_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "handler.py").write_text("def handler(e, c): pass")
    with pytest.raises(UsageError, match="no ready-made hook 'nope'") as caught:
        resolve_function(tmp_path / "handler.py", hooks=["nope"])
    assert re.search("boto3, dns, gc, .*redis", caught.value.hint)


def test_where_snapruntime_is_not_installed(ask: Ask) -> None:
    source = """
        import importlib.util, random, sys
        rng = random.Random(7); state = rng.getstate()
        def handler(event, context): return [rng.getstate() == state, "click" in sys.modules, sys.prefix]
    """
    assert ask(source, "random", "gc", "malloc_trim", python="/usr/bin/python3").result == [False, False, "/usr"]


def test_all_of_them_import_no_library(ask: Ask) -> None:
    hooks = [path.stem for path in Path(__file__).parents[2].joinpath("hooks").glob("[a-z]*.py")]
    libraries = [
        "aiohttp",
        "botocore",
        "http.client",
        "logging.handlers",
        "numpy",
        "psycopg",
        "random",
        "redis",
        "sqlite3",
        "torch",
    ]
    source = f"""
        import sys
        def handler(event, context): return [name for name in {libraries} if name in sys.modules]
    """
    assert ask(source, *hooks, python="/usr/bin/python3").result == []
