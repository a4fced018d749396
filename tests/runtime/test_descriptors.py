"""What a function may hold open at the snapshot: it works in every copy, or the error says what to close."""

from __future__ import annotations

import os
import re
import socket
import textwrap
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support import Write

from snapruntime import Runtime, SnapshotError

from .conftest import Start

#: What init does and what the handler does with it; each is asked twice, and of two copies.
WORKS = {
    "epoll": (
        "import select, os\ne = select.epoll(); r, w = os.pipe(); e.register(r, select.EPOLLIN)",
        "os.write(w, b'x'); result = len(e.poll(1)); os.read(r, 1)",
        1,
    ),
    "eventfd": ("import os\nf = os.eventfd(3)", "result = os.eventfd_read(f); os.eventfd_write(f, 3)", 3),
    "timerfd": (
        "import ctypes, os, struct\nc = ctypes.CDLL(None); f = c.timerfd_create(1, 0)\n"
        "def arm(): c.timerfd_settime(f, 0, struct.pack('4q', 0, 0, 0, 20_000_000), None)\narm()",
        "result = len(os.read(f, 8)); arm()",
        8,
    ),
    "periodic timerfd with an unread tick": (
        "import ctypes, os, struct, select\nc = ctypes.CDLL(None); f = c.timerfd_create(1, 0)\n"
        "c.timerfd_settime(f, 0, struct.pack('4q', 0, 20_000_000, 0, 20_000_000), None)\nselect.select([f], [], [])",
        "result = bool(select.select([f], [], [], 1)[0]) and len(os.read(f, 8))",
        8,
    ),
    "signalfd": (
        "import ctypes, os, signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n"
        "m = (ctypes.c_uint8 * 128)(); m[1] = 2; f = ctypes.CDLL(None).signalfd(-1, m, 0)",
        "os.kill(os.getpid(), signal.SIGUSR1); result = len(os.read(f, 128))",
        128,
    ),
    "inotify on /tmp": (
        "import ctypes, os\nc = ctypes.CDLL(None); f = c.inotify_init(); c.inotify_add_watch(f, b'/tmp', 0x100)",
        "import tempfile; tempfile.mkstemp(); result = len(os.read(f, 4096)) > 16",
        True,
    ),
    "memfd": (
        "import os\nf = os.memfd_create('x'); os.write(f, b'hello')",
        "os.pwrite(f, b'!', 5); result = os.pread(f, 99, 0).decode()",
        "hello!",
    ),
    "sealed memfd": (
        "import os, fcntl\nf = os.memfd_create('x', os.MFD_ALLOW_SEALING); os.write(f, b'hello')\n"
        "fcntl.fcntl(f, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)",
        "result = fcntl.fcntl(f, fcntl.F_GET_SEALS)",
        8,
    ),
    "pidfd of itself": ("import os\nf = os.pidfd_open(os.getpid())", "result = os.fstat(f).st_mode", ...),
    "listening TCP socket": (
        "import socket\ns = socket.create_server(('127.0.0.1', 0)); p = s.getsockname()[1]",
        "c = socket.create_connection(('127.0.0.1', p)); a, _ = s.accept(); a.send(b'hi'); result = c.recv(2).decode()",
        "hi",
    ),
    "TCP connection to itself": (
        "import socket\ns = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(s.getsockname())\n"
        "a, _ = s.accept()",
        "try:\n    a.send(b'x'); a.send(b'x'); result = 'open'\nexcept OSError: result = 'closed'",
        "closed",
    ),
    "UDP socket": (
        "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.1', 0))",
        "s.sendto(b'hi', s.getsockname()); result = s.recv(9).decode()",
        "hi",
    ),
    "connected UDP socket": (
        "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('127.0.0.1', 9))",
        "result = s.getpeername()[1]",
        9,
    ),
    "TCP socket that is not connected": (
        "import socket\ns = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 9000)",
        "result = s.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)",
        18000,
    ),
    "unix socket pair": ("import socket\na, b = socket.socketpair()", "a.send(b'x'); result = b.recv(9).decode()", "x"),
    "unix socket pair with data under way": (
        "import socket\na, b = socket.socketpair(); a.send(b'before')",
        "result = b.recv(9).decode(); a.send(b'before')",
        "before",
    ),
    "listening unix socket in /tmp": (
        "import socket\ns = socket.socket(socket.AF_UNIX); s.bind('/tmp/s'); s.listen()",
        "c = socket.socket(socket.AF_UNIX); c.connect('/tmp/s'); result = s.accept()[0].fileno() > 3",
        True,
    ),
    "netlink socket": (
        "import socket\ns = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
        "result = s.fileno() > 3",
        True,
    ),
    "pipe with data in it": (
        "import os\nr, w = os.pipe(); os.write(w, b'kept')",
        "result = os.read(r, 9).decode(); os.write(w, b'kept')",
        "kept",
    ),
    "FIFO in /tmp": (
        "import os\nos.mkfifo('/tmp/f'); f = os.open('/tmp/f', os.O_RDWR)",
        "os.write(f, b'x'); result = os.read(f, 1).decode()",
        "x",
    ),
    "open file in /tmp": (
        "f = open('/tmp/x', 'w+'); f.write('a'); f.flush()",
        "f.seek(1); f.write('b'); f.flush(); result = open('/tmp/x').read()",
        "ab",
    ),
    "file in /tmp with unwritten text": (
        "f = open('/tmp/x', 'w+'); f.write('a')",
        "f.flush(); result = open('/tmp/x').read()",
        "a",
    ),
    "deleted file in /tmp": (
        "import os\nf = open('/tmp/x', 'w+'); f.write('a'); f.flush(); os.unlink('/tmp/x')",
        "f.seek(0); result = [f.read(), os.path.exists('/tmp/x')]",
        ["a", False],
    ),
    "deleted file of which a link is left": (
        "import os\nf = open('/tmp/x', 'w+'); f.write('a'); f.flush()\n"
        "os.link('/tmp/x', '/tmp/y'); os.unlink('/tmp/x')",
        "f.seek(0); result = [f.read(), [n for n in os.listdir('/tmp') if 'link_remap' in n or n in 'xy']]",
        ["a", ["y"]],
    ),
    "temporary file without a name": (
        "import tempfile, os\nf = tempfile.TemporaryFile('w+'); f.write('a'); f.flush()",
        "f.seek(0); result = f.read()",
        "a",
    ),
    "flock": (
        "import fcntl\nf = open('/tmp/x', 'w'); fcntl.flock(f, fcntl.LOCK_EX)",
        "g = open('/tmp/x', 'w')\ntry: fcntl.flock(g, fcntl.LOCK_EX | fcntl.LOCK_NB); result = 'lost'\n"
        "except BlockingIOError: result = 'held'",
        "held",
    ),
    "POSIX lock": (
        "import fcntl, os\nf = open('/tmp/x', 'w'); fcntl.lockf(f, fcntl.LOCK_EX)",
        "if not os.fork():\n    try: fcntl.lockf(open('/tmp/x', 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB); os._exit(1)\n"
        "    except OSError: os._exit(2)\nresult = os.waitstatus_to_exitcode(os.wait()[1])",
        2,
    ),
    "shared anonymous memory": (
        "import mmap, os\nm = mmap.mmap(-1, 8192); m[:5] = b'hello'",
        "if not os.fork(): m[5:6] = b'!'; os._exit(0)\nos.wait(); result = m[:6].decode()",
        "hello!",
    ),
    "shared map of a file in /tmp": (
        "import mmap\nf = open('/tmp/x', 'w+b'); f.truncate(8192); m = mmap.mmap(f.fileno(), 8192); m[:5] = b'hello'",
        "m[5:6] = b'!'; result = open('/tmp/x').read(6)",
        "hello!",
    ),
    "multiprocessing lock": ("import multiprocessing as mp\nl = mp.Lock()", "with l: result = 'held'", "held"),
    "multiprocessing queue": (
        "import multiprocessing as mp\nq = mp.Queue()",
        "q.put(1); result = q.get(timeout=5)",
        1,
    ),
    "multiprocessing shared memory": (
        "from multiprocessing import shared_memory\ns = shared_memory.SharedMemory(create=True, size=9)\n"
        "s.buf[:2] = b'hi'",
        "other = shared_memory.SharedMemory(s.name); result = bytes(other.buf[:2]).decode(); other.close()",
        "hi",
    ),
    "child process": (
        "import subprocess\np = subprocess.Popen(['sleep', '1000'])",
        "result = p.poll()",
        None,
    ),
    "child process behind pipes": (
        "import subprocess\np = subprocess.Popen(['cat'], stdin=-1, stdout=-1)",
        "p.stdin.write(b'hi\\n'); p.stdin.flush(); result = p.stdout.readline().decode()",
        "hi\n",
    ),
    "dead child": (
        "import subprocess, os\np = subprocess.Popen(['true']); os.waitid(os.P_PID, p.pid, os.WEXITED | os.WNOWAIT)",
        "result = p.wait()",
        0,
    ),
    "thread pool": (
        "from concurrent.futures import ThreadPoolExecutor\np = ThreadPoolExecutor(8)\nlist(p.map(str, range(99)))",
        "result = list(p.map(int, '123'))",
        [1, 2, 3],
    ),
    "pending timer": (
        "import threading\nset = threading.Event(); t = threading.Timer(0.4, set.set); t.start()",
        "result = set.wait(5)",
        True,
    ),
    "interval timer": (
        "import signal\nn = []\nsignal.signal(signal.SIGALRM, lambda *a: n.append(1))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)",
        "import time\nwhile not n: time.sleep(0.01)\nresult = True",
        True,
    ),
    "asyncio loop": (
        "import asyncio\nloop = asyncio.new_event_loop()\nasync def nap(): await asyncio.sleep(0.01); return 'ok'\n"
        "loop.run_until_complete(nap())",
        "result = loop.run_until_complete(nap())",
        "ok",
    ),
    "asyncio loop in a thread": (
        "import asyncio, threading\nloop = asyncio.new_event_loop()\nasync def nap(): await asyncio.sleep(0.01); "
        "return 'ok'\nthreading.Thread(target=loop.run_forever, daemon=True).start()",
        "result = asyncio.run_coroutine_threadsafe(nap(), loop).result(5)",
        "ok",
    ),
    "SQLite database": (
        "import sqlite3\nd = sqlite3.connect('/tmp/a.db'); d.execute('create table t(x)'); d.commit()",
        "d.execute('delete from t'); d.execute('insert into t values(2)'); d.commit()\n"
        "result = d.execute('select * from t').fetchall()",
        [[2]],
    ),
    "SQLite database with a write-ahead log": (
        "import sqlite3\nd = sqlite3.connect('/tmp/a.db'); d.execute('pragma journal_mode=wal')\n"
        "d.execute('create table t(x)'); d.execute('insert into t values(1)'); d.commit()",
        "d.execute('update t set x = 2'); d.commit(); result = d.execute('select * from t').fetchall()",
        [[2]],
    ),
    "log file in /tmp": (
        "import logging\nlogging.getLogger().addHandler(logging.FileHandler('/tmp/log')); logging.warning('init')",
        "logging.warning('hi'); result = open('/tmp/log').read().split()[:2]",
        ["init", "hi"],
    ),
    "copy of stdout": ("import os\nd = os.dup(1)", "os.write(d, b'x'); result = 1", 1),
    "copy of the control channel": ("import os\nd = os.dup(3)", "result = 1", 1),
    "system file": ("f = open('/etc/passwd')", "f.seek(0); result = f.read(4)", "root"),
    "own code": ("f = open(__file__)", "f.seek(0); result = f.read(8)", "f = open"),
    "folder /tmp": ("import os\nd = os.open('/tmp', os.O_RDONLY)", "os.stat('.', dir_fd=d); result = 1", 1),
    "root folder": ("import os\nd = os.open('/', os.O_RDONLY)", "result = 'tmp' in os.listdir(d)", True),
    "file of /proc/self": ("f = open('/proc/self/comm')", "f.seek(0); result = bool(f.read())", True),
    "/dev/urandom": ("f = open('/dev/urandom', 'rb')", "result = len(f.read(4))", 4),
    "/dev/null": ("f = open('/dev/null', 'w')", "result = f.write('x')", 1),
    "working folder /tmp": ("import os\nos.chdir('/tmp')", "result = os.getcwd()", "/tmp"),
    "working folder below /tmp": (
        "import os\nos.mkdir('/tmp/d'); os.chdir('/tmp/d')",
        "result = os.getcwd()",
        "/tmp/d",
    ),
    "signal handler": (
        "import signal\nn = []\nsignal.signal(signal.SIGTERM, lambda *a: n.append(1))",
        "n.clear(); signal.raise_signal(signal.SIGTERM); result = n",
        [1],
    ),
    "limit of its own": (
        "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (200, 300))",
        "result = resource.getrlimit(resource.RLIMIT_NOFILE)",
        [200, 300],
    ),
    "many files": (
        "fs = [open(f'/tmp/{n}', 'w') for n in range(300)]",
        "[f.write('x') and f.flush() for f in fs]; result = len(fs)",
        300,
    ),
    "many threads": (
        "import threading\nstop = threading.Event()\n"
        "[threading.Thread(target=stop.wait, daemon=True).start() for _ in range(100)]",
        "result = threading.active_count()",
        101,
    ),
    "guarded memory": (
        "import mmap, ctypes\nm = mmap.mmap(-1, 1 << 20); c = ctypes.CDLL(None)\n"
        "a = ctypes.addressof(ctypes.c_char.from_buffer(m)); c.mprotect(ctypes.c_void_p(a), 4096, 0)",
        "m[9000] = 1; result = m[9000]",
        1,
    ),
    "seccomp-free no_new_privs": ("import ctypes\nctypes.CDLL(None).prctl(38, 1, 0, 0, 0)", "result = 1", 1),
}


def source_of(init: str, act: str) -> str:
    body = "\n".join(f"    {line}" for line in act.splitlines())
    return f"{init}\ndef handler(event, context):\n{body}\n    return result\n"


@pytest.mark.parametrize("name", WORKS)
def test_works_in_every_copy(runtime: Runtime, write: Write, name: str) -> None:
    init, act, expected = WORKS[name]
    with runtime.snapshot(write(source_of(init, act), timeout_s=10)) as snapshot:
        for times in (2, 1):
            with snapshot.restore() as copy:
                for _ in range(times):
                    answer = copy.invoke({})
                    assert answer.error is None, answer.error
                    if expected is not ...:
                        assert answer.result == expected


@pytest.mark.parametrize("name", ["open file in /tmp", "flock", "multiprocessing queue", "SQLite database"])
def test_works_cold_too(start: Start, write: Write, name: str) -> None:
    """Where a copy could differ from a fresh process, these would show it."""
    init, act, expected = WORKS[name]
    assert start(write(source_of(init, act), timeout_s=10)).invoke({}).result == expected


class Server:
    """A unix socket outside of all sandboxes, that takes every connection."""

    def __init__(self, folder: Path, kind: socket.SocketKind = socket.SOCK_STREAM) -> None:
        self.path = str(folder / "outside.sock")
        self._listener = socket.socket(socket.AF_UNIX, kind)
        self._listener.bind(self.path)
        os.chmod(self.path, 0o777)
        self._listener.listen()
        self._taken: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                self._taken.append(self._listener.accept()[0])

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self._taken:
            connection.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "served"
    folder.mkdir()
    folder.chmod(0o755)
    server = Server(folder)
    yield server
    server.close()


CONNECTED = """
    import socket
    {hooks}

    class Client:
        def __init__(self):
            self.connect()

        def connect(self):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect({path!r})

    client = Client()

    def handler(event, context):
        return client.sock.send(b"x")
"""


def test_a_stream_connection_to_outside_is_explained(runtime: Runtime, write: Write, server: Server) -> None:
    function = write(CONNECTED.format(hooks="", path=server.path), read_only=[os.path.dirname(server.path)])
    with pytest.raises(SnapshotError) as caught:
        runtime.snapshot(function)
    message, hint = caught.value.message, caught.value.hint
    assert re.search(rf"descriptor \d+ is a unix stream socket, connected to {server.path} outside", message), message
    assert "handler.client.sock" in message, "who holds it"
    assert "handler.py:9" in message, "where it was opened"
    assert "client.sock.close()" in hint


#: Modules that hold the same connection in different ways; {hooks} is where a newcomer would paste what is advised.
HOLDERS = {
    "an object of the module": "client = Client()\n{hooks}",
    "a global": "sock = Client().sock\n{hooks}",
    "in a list": "all = [None, Client().sock]\n{hooks}",
    "another module's": "import helper\nhelper.kept = Client()\n{hooks}",
    "where no name leads": "import helper\ndef keep(sock): return lambda: sock\nkept = keep(Client().sock)\n{hooks}",
}
CLIENT = """
import socket

class Client:
    def __init__(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect({path!r})
"""


@pytest.mark.parametrize("name", HOLDERS)
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_the_hooks_that_are_advised_work_as_they_are(
    runtime: Runtime, write: Write, tmp_path: Path, name: str, kind: socket.SocketKind
) -> None:
    """Those of CRIU's refusals, and those that we find in the images."""
    tmp_path.chmod(0o755)
    server = Server(tmp_path, kind)
    source = CLIENT.format(path=server.path).replace("AF_UNIX", f"AF_UNIX, {int(kind)}") + HOLDERS[name]
    source += "\ndef handler(event, context): return 1\n"
    options = {"read_only": [str(tmp_path)], "files": {"helper.py": ""}, "name": "has_socket.py"}
    try:
        with pytest.raises(SnapshotError) as caught:
            runtime.snapshot(write(source.format(hooks=""), **options))
        assert f"socket, connected to {server.path} outside" in caught.value.message
        code = textwrap.dedent(caught.value.hint.partition("\n")[2])
        with runtime.snapshot(write(source.format(hooks=code), **options)) as snapshot, snapshot.restore() as copy:
            assert copy.invoke({}).result == 1
    finally:
        server.close()


def test_a_child_process_that_holds_it_is_to_be_ended(runtime: Runtime, write: Write, server: Server) -> None:
    """No hook of ours can close what another process has open."""
    source = CLIENT.format(path=server.path) + (
        "import subprocess\nclient = Client()\n"
        "child = subprocess.Popen(['sleep', '1000'], pass_fds=[client.sock.fileno()])\nclient.sock.close()\n"
        "def handler(event, context): return 1\n"
    )
    with pytest.raises(SnapshotError, match=r"belongs to a child process \(sleep 1000\)") as caught:
        runtime.snapshot(write(source, read_only=[os.path.dirname(server.path)]))
    assert caught.value.hint.startswith("End that process in a before-snapshot hook")


def test_a_connection_nobody_has_accepted_yet_is_explained(runtime: Runtime, write: Write, tmp_path: Path) -> None:
    """The kernel shows no other end of such a one."""
    tmp_path.chmod(0o755)
    path = str(tmp_path / "waiting.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        os.chmod(path, 0o777)
        listener.listen()
        function = write(CONNECTED.format(hooks="", path=path), read_only=[str(tmp_path)])
        with pytest.raises(SnapshotError, match=r"descriptor \d+ ") as caught:
            runtime.snapshot(function)
    assert "a unix stream socket" in caught.value.message
    assert "handler.client.sock" in caught.value.message


REFUSED = {
    "fanotify": (
        "import ctypes\nf = ctypes.CDLL(None).fanotify_init(0x200, 0)\nassert f > 0, 'no fanotify here'",
        "fanotify",
    ),
    "landlock": (
        "import ctypes, struct\nf = ctypes.CDLL(None).syscall(444, struct.pack('Q', 1), 8, 0)\n"
        "assert f > 0, 'no landlock here'",
        "landlock",
    ),
}


@pytest.mark.may_skip("which of these a process without privileges is given depends on the host's kernel and settings")
@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_reason_or_saved(runtime: Runtime, write: Write, name: str) -> None:
    """Kernel objects beyond CRIU: never a hang, never a copy that fails later without a word."""
    init, word = REFUSED[name]
    function = write(f"{init}\ndef handler(event, context): return 1\n")
    try:
        with runtime.cold(function) as cold, cold.start():
            pass
    except Exception as error:
        pytest.skip(f"this host gives an unprivileged process none: {error}")
    refused: SnapshotError | None = None
    try:
        with runtime.snapshot(function) as snapshot, snapshot.restore() as copy:
            assert copy.invoke({}).result == 1
    except SnapshotError as caught:
        refused = caught
    if refused is not None:
        assert re.search(r"descriptor \d+ ", refused.message), refused.message
        assert word in refused.message
        assert "register_before_snapshot" in refused.hint
