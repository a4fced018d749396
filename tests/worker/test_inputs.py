from __future__ import annotations

import json
import sysconfig
from typing import Any

from snapruntime.workflows.freshness import WORKER_FOLDER

from .conftest import Spawn


def test_what_init_looked_at(spawn: Spawn) -> None:
    worker = spawn(
        """
        import helper, json, os, io, pathlib, sqlite3, zipfile, tempfile
        import pkg.inner, sys
        pathlib.Path("data.txt").read_text()
        open(b"bytes.txt").close()
        io.open("data.txt"); os.close(os.open("by_os.txt", os.O_RDONLY))
        open("written.txt", "w").write("x"); open("appended.txt", "a").close()
        open("both.txt", "r+").close()
        sqlite3.connect("base.db").execute("select 1")
        sqlite3.connect(f"file://{os.getcwd()}/read%20only.db?mode=ro#x", uri=True).execute("select 1")
        try: open("absent.txt")
        except OSError: pass
        open("/proc/self/status").read(); open("/dev/null").read()
        with tempfile.NamedTemporaryFile("w+") as f: open(f.name).read()
        os.listdir("listed"); os.listdir(os.open("by_fd", os.O_RDONLY)); os.chdir("in"); os.listdir()
        os.chdir(".."); list(pathlib.Path("globbed").glob("*/*.txt")); os.path.exists("asked")
        open(0, closefd=False)
        sys.path.insert(0, "lib.zip"); import zipped
        from snapshot_restore_py import *
        @register_before_snapshot
        def late(): open("hook.txt").read()
        def handler(e, c): open("later.txt").read()
        """,
        files={
            "helper.py": "",
            "pkg/inner.py": "",
            **{f"{n}.txt": "" for n in ("data", "bytes", "by_os", "hook", "later", "both")},
            "base.db": "",
            "read only.db": "",
            **{f"{n}/x.txt": "" for n in ("listed", "by_fd", "in", "globbed", "globbed/inner")},
        },
    )
    import zipfile

    with zipfile.ZipFile(worker.root / "lib.zip", "w") as archive:
        archive.writestr("zipped.py", "")
    ready = worker.init(kind="snap-start")
    files = json.loads(ready["body"])
    assert files == sorted(set(files))
    searched = {f for f in files if f.endswith("/")}
    assert {f"{worker.root}/", f"{worker.root}/pkg/", f"{sysconfig.get_path('stdlib')}/json/"} <= searched
    files = [f for f in files if f not in searched]
    mine = [f[len(str(worker.root)) + 1 :] for f in files if f.startswith(str(worker.root))]
    assert mine == sorted(
        [
            "handler.py",
            "helper.py",
            "pkg/inner.py",
            "data.txt",
            "bytes.txt",
            "by_os.txt",
            "hook.txt",
            "both.txt",
            "base.db",
            "read only.db",
            "lib.zip",
            "absent.txt",
            *("listed", "in", "globbed", "globbed/inner"),
        ]
    )
    assert any(f.endswith("/json/decoder.py") for f in files)  # the interpreter's own modules too
    ours = ("/proc", "/dev", "/sys", str(WORKER_FOLDER))
    assert not [f for f in files if f.startswith(ours) or "__pycache__" in f]
    assert sysconfig.get_path("stdlib") not in files  # listed by imports alone, and followed by names
    assert not [f for f in files if f.startswith("/tmp") and not f.startswith(str(worker.root))]


def test_the_hook_is_off_after_ready_and_never_fails_the_handler(spawn: Spawn) -> None:
    worker = spawn("""
        import os, socket, sys
        class Path:
            def __fspath__(self): return "handler.py"
        open(Path()).close()
        for bad in ("a\\0b", "\\udcff", -1, 3.5):
            try: open(bad)
            except (ValueError, OSError, TypeError): pass
        import _socket; _socket.socket().close()
        watcher = next(m for n, m in sys.modules.items() if n.endswith("worker.inputs")).Inputs
        calls = []
        place, watcher.place = watcher.place, lambda self, depth=2: calls.append(1)
        open("handler.py").close()
        counted = len(calls)
        def handler(e, c):
            open("handler.py").close(); socket.socket().close()
            return counted, len(calls)
    """)
    assert worker.init(kind="snap-start")["type"] == "ready"
    assert worker.result() == [1, 1]


OWNERS = """
    import socket, select, os, io, redis_like, ssl
    client = socket.socket()
    pair = socket.socketpair()
    class Session:
        def __init__(self): self.pool = {"a": [socket.socket()]}
    session = Session()
    poll = select.epoll()
    file = open("handler.py")
    pipe = os.pipe()
    class Slots:
        __slots__ = ("sock",)
    hidden = Slots(); hidden.sock = socket.socket()
    class Lazy:
        def __getattribute__(self, name): raise SystemExit("touched")
        @property
        def __class__(self): raise SystemExit("touched")
        def fileno(self): raise SystemExit("called")
    lazy = Lazy()
    lent = redis_like.connect()
    FDS = {"client": client.fileno(), "pair": pair[1].fileno(), "pool": session.pool["a"][0].fileno(), "stdout": 1}
    FDS.update(poll=poll.fileno(), file=file.fileno(), pipe=pipe[0], hidden=hidden.sock.fileno(), lent=lent.fileno())
    def handler(e, c): return FDS
"""


def test_describe_fd(spawn: Spawn) -> None:
    worker = spawn(OWNERS, files={"redis_like.py": "import socket\ndef connect():\n    return socket.socket()\n"})
    worker.init(kind="snap-start")
    fds = worker.result()

    def ask(name: str) -> dict[str, Any]:
        worker.send("describe_fd", fd=fds[name])
        answer = worker.expect("fd_owner")
        assert answer["fd"] == fds[name]
        return answer

    expected = {
        "client": (["handler:client (socket.socket)"], "handler.py:3"),
        "pair": (["handler:pair[1] (socket.socket)"], "handler.py:4"),
        "pool": (["handler:session.pool['a'][0] (socket.socket)"], "handler.py:6"),
        "poll": (["handler:poll (select.epoll)"], None),
        "file": (["handler:file (_io.TextIOWrapper)"], "handler.py:9"),
        "pipe": ([], None),
        "hidden": (["socket.socket"], "handler.py:13"),
        "lent": (["handler:lent (socket.socket)"], "redis_like.py:3, from handler.py:20"),
    }
    for name, (owners, place) in expected.items():
        answer = ask(name)
        assert (answer["owners"], answer["opened_at"]) == (owners, place), name
    assert ask("client")["target"].startswith("socket:[")
    assert ask("file")["target"] == str(worker.root / "handler.py")
    assert "sys:__stdout__ (_io.TextIOWrapper)" in ask("stdout")["owners"]


def test_describe_an_fd_that_is_not_open(spawn: Spawn) -> None:
    worker = spawn("import socket\nclosed = socket.socket(); closed.close()\ndef handler(e, c): ...")
    worker.init()
    worker.send("describe_fd", fd=999)
    answer = worker.expect("fd_owner")
    assert (answer["target"], answer["opened_at"]) == ("", None)
    assert answer["owners"] == []


def test_sockets_made_in_hooks_are_placed_too(spawn: Spawn) -> None:
    worker = spawn("""
        import socket
        from snapshot_restore_py import *
        @register_before_snapshot
        def warm():
            global sock
            sock = socket.socket()
        def handler(e, c): return sock.fileno()
    """)
    worker.init(kind="snap-start")
    worker.send("describe_fd", fd=worker.result())
    assert worker.expect("fd_owner")["opened_at"] == "handler.py:7"
