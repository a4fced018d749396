"""Whatever is killed or hangs around a function: always clear, nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from support import Census, Write, assert_nothing_left, census, spawner_of, wait_until

from snapruntime import Function, RestoreError, Runtime, SnapruntimeError, SnapshotError
from snapruntime.mechanisms import criu as criu_module
from snapruntime.mechanisms import linux
from snapruntime.workflows.explain import _culprit

ROOT = Path(__file__).resolve().parents[2]


#: A supervisor that tells each phase of its life as it begins, and is killed in one of them.
SUPERVISOR = r"""
import os, sys
from pathlib import Path
from snapruntime import Runtime, resolve_function
from snapruntime.mechanisms import criu, store

def say(phase):
    os.write(1, phase.encode() + b"\n")

send = criu.CriuWorker._call
def call(self, request, *rest):
    rpc = self._process.socket
    class Told:
        def send(self, data):
            rpc.send(data)
            say({1: "dumping", 2: "restoring"}.get(request.type, "probing"))
        def __getattr__(self, name):
            return getattr(rpc, name)
    self._process.socket = Told()
    return send(self, request, *rest)
criu.CriuWorker._call = call
publish = store.Store.publish
def publishing(*arguments):
    say("publishing")
    return publish(*arguments)
store.Store.publish = publishing

def sink(data):
    for word in data.decode().split():
        say(word)

say("starting")
with Runtime(Path(sys.argv[1])) as runtime:
    say("runtime")
    with runtime.snapshot(resolve_function(sys.argv[2], timeout_s=60), rebuild=True, sink=sink) as snapshot:
        say("snapshot")
        with snapshot.restore(sink=sink) as copy:
            say("restored")
            copy.invoke({}, sink=sink)
"""


#: Slow enough in each phase to be killed in it.
SLOW = """
    import subprocess, time
    from snapruntime import register_after_restore, register_before_snapshot
    print("initialising", flush=True)
    pages = bytearray(32 << 20)
    pages[::4096] = bytes(range(256)) * 32
    child = subprocess.Popen(["sleep", "1000"])

    @register_before_snapshot
    def before():
        print("before-hook", flush=True)
        time.sleep(0.1)

    @register_after_restore
    def after():
        print("after-hook", flush=True)
        time.sleep(0.1)

    def handler(event, context):
        print("invoking", flush=True)
        time.sleep(60)
"""


PHASES = [
    "starting",
    "runtime",
    "probing",
    "initialising",
    "before-hook",
    "dumping",
    "publishing",
    "snapshot",
    "restoring",
    "after-hook",
    "restored",
    "invoking",
]


@pytest.fixture(scope="module")
def own_home(criu_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder for supervisors that are killed."""
    home = tmp_path_factory.mktemp("killed") / "home"
    home.mkdir()
    shutil.copytree(criu_home / "criu", home / "criu", symlinks=True)
    return home


@pytest.fixture(scope="module")
def slow(write: Write) -> Function:
    return write(SLOW)


@pytest.mark.parametrize(
    ("phase", "ending"),
    [(phase, signal.SIGKILL) for phase in PHASES] + [(phase, signal.SIGINT) for phase in PHASES[3::2]],
)
def test_the_supervisor_is_ended_at_any_moment(
    own_home: Path, slow: Function, nothing_left: Census, phase: str, ending: signal.Signals
) -> None:
    if phase == "probing":
        shutil.rmtree(own_home / "kernel", ignore_errors=True)  # What CRIU found out before would be used again.
    staged = set(own_home.glob("snapshots/*/.new-*"))
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(own_home), f"{slow.task_root}/handler.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            if line.decode().strip() == phase:
                process.send_signal(ending)
                break
        else:
            pytest.fail(f"it never came to {phase}")
        process.stdout.read()
    assert process.wait(20) == -ending
    assert_nothing_left(nothing_left)
    if ending == signal.SIGINT:
        left = set(own_home.glob("snapshots/*/.new-*")) - staged
        assert not left, "an orderly end takes its staging folder along"


def test_what_killed_supervisors_left_is_cleaned_by_the_next(own_home: Path, write: Write) -> None:
    """Of this function and of others: theirs may never be made again."""
    function = write("def handler(event, context): return 1")
    with Runtime(own_home) as runtime:
        with runtime.snapshot(function) as snapshot:
            slot = snapshot.stored.folder.parent
        for dead in (slot / ".new-dead", slot.with_name("another-0123456789abcdef") / ".new-dead"):
            (dead / "images").mkdir(parents=True)
            (dead / "images" / "pages-1.img").write_bytes(bytes(1000))
        with runtime.snapshot(function, rebuild=True):
            pass
    assert not list(own_home.glob("snapshots/*/.new-*"))


@pytest.fixture
def own_runtime(criu_home: Path) -> Iterator[Runtime]:
    """A runtime whose spawner may be harmed."""
    with Runtime(criu_home) as runtime:
        yield runtime


@pytest.mark.parametrize("which", ["outer", "inner"])
def test_the_spawner_is_killed(own_runtime: Runtime, write: Write, which: str) -> None:
    function = write("import time\ndef handler(event, context): time.sleep(event)", timeout_s=20)
    snapshot = own_runtime.snapshot(function)
    copy = snapshot.restore()
    inner = spawner_of(own_runtime)
    victim = inner if which == "inner" else inner.parent()
    assert victim is not None
    threading.Timer(0.2, victim.kill).start()
    answer = copy.invoke(60)
    assert answer.error is not None
    assert answer.error["errorType"] == "Runtime.ExitError"
    assert (answer.duration_ms or 0) < 10_000
    wait_until(lambda: not psutil.pid_exists(copy.pid) or is_dead(copy.pid), "the copy has ended")
    with pytest.raises(SnapruntimeError):
        snapshot.restore()
    with pytest.raises(SnapruntimeError):
        own_runtime.snapshot(function, rebuild=True)
    with pytest.raises(SnapruntimeError), own_runtime.cold(function) as cold:
        cold.start()
    copy.close()
    snapshot.close()


def is_dead(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def strike(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, signal.Signals], list[int]]:
    """`strike(KIND, SIGNAL)`: CRIU gets the signal just before a request of that kind (1: dump, 2: restore)."""

    def arm(kind: int, number: signal.Signals) -> list[int]:
        struck: list[int] = []
        call = criu_module.CriuWorker._call

        def striking(self: criu_module.CriuWorker, request: Any, *rest: Any) -> Any:
            if request.type == kind:
                os.kill(self._process.pid, number)
                struck.append(self._process.pid)
            return call(self, request, *rest)

        monkeypatch.setattr(criu_module.CriuWorker, "_call", striking)
        return struck

    return arm


def test_criu_is_killed_at_a_dump(
    own_runtime: Runtime, write: Write, strike: Callable[[int, signal.Signals], list[int]]
) -> None:
    function = write("def handler(event, context): return 1")
    struck = strike(1, signal.SIGKILL)
    with pytest.raises(SnapshotError, match="signal: killed"):
        own_runtime.snapshot(function)
    assert struck


def test_criu_is_killed_at_a_restore(
    own_runtime: Runtime, write: Write, strike: Callable[[int, signal.Signals], list[int]]
) -> None:
    function = write("def handler(event, context): return 1")
    with own_runtime.snapshot(function) as snapshot:
        struck = strike(2, signal.SIGKILL)
        with pytest.raises(RestoreError, match="signal: killed"):
            snapshot.restore()
        assert struck


def test_criu_is_killed_in_the_middle(own_runtime: Runtime, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """At whatever it is doing then: an error or a success, and nothing of it stays."""
    function = write(SLOW.replace("time.sleep(60)", "pass").replace("time.sleep(0.1)", "pass"), timeout_s=20)
    call = criu_module.CriuWorker._call
    delay = 0.0

    def striking(self: criu_module.CriuWorker, request: Any, *rest: Any) -> Any:
        timer = threading.Timer(delay, self._process.kill)
        timer.start()
        try:
            return call(self, request, *rest)
        finally:
            timer.cancel()
            timer.join()

    ends = set()
    with own_runtime.snapshot(function) as snapshot, monkeypatch.context() as patch:
        patch.setattr(criu_module.CriuWorker, "_call", striking)
        for step in range(12):
            delay = step * 0.004
            try:
                with snapshot.restore() as copy:
                    ends.add(copy.invoke({}).error is None)
            except RestoreError:
                ends.add(False)
    assert False in ends
    with monkeypatch.context() as patch:
        patch.setattr(criu_module.CriuWorker, "_call", striking)
        for step in range(5):
            delay = 0.005 + step * 0.01
            try:
                own_runtime.snapshot(function, rebuild=True).close()
            except SnapshotError:
                continue
    with own_runtime.snapshot(function) as snapshot, snapshot.restore() as copy:
        assert copy.invoke({}).error is None
    spawner = spawner_of(own_runtime)
    wait_until(lambda: not spawner.children(recursive=True), "half-restored copies are ended, and collected")


@pytest.mark.parametrize("times", [1, 2])
def test_what_criu_restored_is_killed_before_it_is_taken_on(
    own_runtime: Runtime, write: Write, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """With its CRIU, so that it is collected at once: one more is made, and if that is killed too, it is said."""
    call, spawner, left = criu_module.CriuWorker._call, spawner_of(own_runtime), [times]

    def striking(self: criu_module.CriuWorker, *request: Any) -> Any:
        response = call(self, *request)
        if left[0]:
            left[0] -= 1
            killed = spawner.children()
            for child in killed:
                child.kill()
            wait_until(lambda: not any(map(psutil.pid_exists, (child.pid for child in killed))), "all are collected")
        return response

    with own_runtime.snapshot(write("def handler(event, context): return 1")) as snapshot:
        monkeypatch.setattr(criu_module.CriuWorker, "_call", striking)
        if times == 1:
            with snapshot.restore() as copy:
                assert copy.invoke({}).result == 1
        else:
            with pytest.raises(RestoreError, match=r"had ended before it could be taken on\b"):
                snapshot.restore()
    assert left == [0]


def test_criu_hangs(
    own_runtime: Runtime,
    write: Write,
    strike: Callable[[int, signal.Signals], list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    function = write("def handler(event, context): return 1")
    monkeypatch.setattr("snapruntime.workflows.checkpoint.CHECKPOINT_LIMIT_S", 0.5)
    monkeypatch.setattr("snapruntime.workflows.restore.RESTORE_LIMIT_S", 0.5)
    strike(1, signal.SIGSTOP)
    with pytest.raises(SnapshotError, match="in time"):
        own_runtime.snapshot(function)
    monkeypatch.undo()


def test_criu_hangs_at_a_restore(
    own_runtime: Runtime,
    write: Write,
    strike: Callable[[int, signal.Signals], list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    function = write("def handler(event, context): return 1")
    with own_runtime.snapshot(function) as snapshot:
        monkeypatch.setattr("snapruntime.workflows.restore.RESTORE_LIMIT_S", 0.5)
        strike(2, signal.SIGSTOP)
        with pytest.raises(RestoreError, match="in time"):
            snapshot.restore()


def test_the_worker_is_killed_during_init(own_runtime: Runtime, write: Write) -> None:
    function = write(
        "import time\nprint('initialising', flush=True)\ntime.sleep(60)\ndef handler(event, context): pass"
    )

    def kill(_: bytes) -> None:
        for worker in spawner_of(own_runtime).children():
            worker.kill()

    with pytest.raises(SnapruntimeError, match="signal: killed"):
        own_runtime.snapshot(function, sink=kill)


def test_no_advice_to_close_our_own_channel() -> None:
    """What goes wrong while CRIU is at its first descriptors need not be about them."""
    log = "(0.1) 1 fdinfo 3: pos: 0\n(0.2) Error (criu/files.c:98): Can't dump file 3 of that type"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        name = f"socket:[{os.fstat(ours.fileno()).st_ino}]"
        process = SimpleNamespace(pid=os.getpid(), inner_pid=1)
        log = log.replace("fdinfo 3:", f"fdinfo {ours.fileno()}:")
        stranger: Any = SimpleNamespace(process=process, channel_names=())
        worker: Any = SimpleNamespace(process=process, channel_names=(name, "pipe:[1]"))
        assert _culprit(log, stranger) is not None
        assert _culprit(log, worker) is None
        # Memory comes after the descriptors: the last of them was blamed for it.
        pages = log.replace("files.c:98): Can't dump file 3 of that type", "mem.c:718): Can't dump page with parasite")
        assert _culprit(pages, stranger) is None


def test_leftovers_are_counted(nothing_left: Census, tmp_path: Path) -> None:
    """The census itself sees what it is there for."""
    child = subprocess.Popen(["sleep", "100"])
    kept = (tmp_path / "file").open("w")
    (tmp_path / "mounted").mkdir()
    linux.mount("tmpfs", str(tmp_path / "mounted"), "tmpfs")
    try:
        kinds = {line.partition(":")[0] for line in census().left_since(nothing_left)}
        assert kinds >= {"processes", "descriptors", "mounts"}
    finally:
        linux.umount(str(tmp_path / "mounted"))
        kept.close()
        child.kill()
        child.wait()


def test_many_lives_leave_nothing(runtime: Runtime, write: Write, nothing_left: Census) -> None:
    function: Function = write("def handler(event, context): return 1")
    with runtime.snapshot(function) as snapshot:
        memory = spawner_memory = 0
        for number in range(40):
            with snapshot.restore() as copy:
                copy.invoke({})
            if number == 10:
                memory, spawner_memory = psutil.Process().memory_info().rss, spawner_of(runtime).memory_info().rss
        assert psutil.Process().memory_info().rss - memory < 4 << 20
        assert spawner_of(runtime).memory_info().rss - spawner_memory < 2 << 20
        spawner = spawner_of(runtime)
        assert not spawner.children(), "every copy and every CRIU has been collected, zombies too"
        assert len(os.listdir(f"/proc/{spawner.pid}/fd")) < 12
        mounts = Path(f"/proc/{spawner.pid}/mounts").read_text()
        assert "/copies/" not in mounts
