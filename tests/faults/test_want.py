"""What the host refuses: descriptors, processes, memory, capabilities; for a while or for good."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import Census, Write, spawner_of, wait_until

from snapruntime import HostError, Runtime, SnapruntimeError
from snapruntime.mechanisms.mapped import MEMORY
from snapruntime.workflows.ready import Ready

ROOT = Path(__file__).resolve().parents[2]
HELLO = "def handler(event, context): return 1"


def run_python(code: str, *arguments: str) -> list[Any]:
    """Run a program that prints a list as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return list(json.loads(done.stdout))


LIMITED = """
import json, os, resource, sys
from pathlib import Path
from snapruntime import Runtime, SnapruntimeError, resolve_function
ends = []
with Runtime(Path(sys.argv[1])) as runtime:
    function = resolve_function(sys.argv[2])
    with runtime.snapshot(function) as snapshot:
        with snapshot.restore() as copy:
            copy.invoke({})
        before = len(os.listdir("/proc/self/fd"))
        for limit in range(3, 40):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, 4096))
            try:
                with snapshot.restore() as copy:
                    ends.append(copy.invoke({}).result)
            except SnapruntimeError as error:
                ends.append(type(error).__name__)
            except Exception as error:
                ends.append(repr(error))
            try:
                with runtime.snapshot(function, rebuild=limit % 10 == 0) as another:
                    pass
            except SnapruntimeError as error:
                ends.append(type(error).__name__)
            except Exception as error:
                ends.append(repr(error))
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 4096))
        with snapshot.restore() as copy:
            ends.append(copy.invoke({}).result)
        ends.append(len(os.listdir("/proc/self/fd")) - before)
print(json.dumps(ends))
"""


def test_a_descriptor_for_the_images_and_none_for_the_memory(
    runtime: Runtime, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = write(HELLO)
    with runtime.snapshot(function):
        pass
    opened, last = os.open, [""]

    def none_left(path: Any, flags: int, *more: Any, **options: Any) -> int:
        before, last[0] = last[0], str(path)
        if last[0] == f"{before}/{MEMORY}":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
        return opened(path, flags, *more, **options)

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr("snapruntime.workflows.restore.os.open", none_left)
    with pytest.raises(HostError, match="Too many open files"):
        runtime.snapshot(function)
    monkeypatch.undo()
    assert os.listdir("/proc/self/fd") == before


def test_too_few_descriptors(criu_home: Path, write: Write) -> None:
    """Whatever runs out, in whatever order: an error; then all works again, and no descriptor has leaked."""
    function = write(HELLO)
    *ends, last, leaked = run_python(LIMITED, str(criu_home), f"{function.task_root}/handler.py")
    assert last == 1
    assert any(end != 1 for end in ends)
    assert set(ends) <= {1, "SnapshotError", "RestoreError", "HostError"}, "no traceback of Python's own"
    assert leaked == 0


def test_the_spawner_runs_out_of_descriptors(own_runtime: Runtime, write: Write) -> None:
    """It must not end by it: all copies would end with it. (That it cannot fork comes out the same way.)"""
    function = write(HELLO, timeout_s=5)
    with own_runtime.snapshot(function) as snapshot:
        spawner = spawner_of(own_runtime)
        before = resource.prlimit(spawner.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(spawner.pid, resource.RLIMIT_NOFILE, (6, before[1]))
        with pytest.raises(SnapruntimeError):
            snapshot.restore()
        with pytest.raises(SnapruntimeError):
            own_runtime.snapshot(function, rebuild=True)
        resource.prlimit(spawner.pid, resource.RLIMIT_NOFILE, before)
        with snapshot.restore() as copy:
            assert copy.invoke({}).result == 1


@pytest.mark.parametrize("whose", ["ours", "CRIU's"])
def test_want_of_descriptors_is_the_hosts_not_the_snapshots(own_runtime: Runtime, write: Write, whose: str) -> None:
    """Nobody makes the snapshot anew for that. (CRIU has words of its own for a limit of 64.)"""
    with own_runtime.snapshot(write(HELLO, timeout_s=5)) as snapshot:
        pid = spawner_of(own_runtime).pid if whose == "CRIU's" else os.getpid()
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        # The lowest number that is free is what the limit is about.
        limit = 64 if whose == "CRIU's" else os.dup(0)
        try:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
            with pytest.raises(HostError) as caught:
                snapshot.restore()
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
            if whose == "ours":
                os.close(limit)
        assert "ulimit -n" in caught.value.hint
        with snapshot.restore() as copy:
            assert copy.invoke({}).result == 1


def test_the_spawner_lacks_descriptors_at_each_step(own_runtime: Runtime, write: Write) -> None:
    """Whichever is the one that is not to be had: it goes on, and so do the copies that live."""
    function = write(HELLO, timeout_s=5)
    ends = set()
    with own_runtime.snapshot(function) as snapshot, own_runtime.cold(function) as cold:
        inner = spawner_of(own_runtime)
        unlimited = resource.prlimit(inner.pid, resource.RLIMIT_NOFILE)
        with snapshot.restore() as living:
            used = len(os.listdir(f"/proc/{inner.pid}/fd"))
            doomed = snapshot.restore()
            resource.prlimit(inner.pid, resource.RLIMIT_NOFILE, (used - 2, unlimited[1]))
            doomed.close()  # It is collected by a spawner that can open nothing; its mounts go later.
            assert inner.is_running()
            for limit in range(used - 2, used + 14):
                resource.prlimit(inner.pid, resource.RLIMIT_NOFILE, (limit, unlimited[1]))
                for start in (snapshot.restore, cold.start):
                    try:
                        with start() as copy:
                            ends.add(copy.invoke({}).result)
                    except SnapruntimeError as error:
                        ends.add(type(error).__name__)
                assert inner.is_running()
            assert living.invoke({}).result == 1
            resource.prlimit(inner.pid, resource.RLIMIT_NOFILE, unlimited)
        with snapshot.restore() as copy:
            assert copy.invoke({}).result == 1
        wait_until(lambda: not inner.children(), "nobody is left whom nobody has a lease on")
        mounts = Path(f"/proc/{inner.pid}/mounts").read_text()
        assert "/copies/" not in mounts, "what could not be taken away then was later"
        assert len(os.listdir(f"/proc/{inner.pid}/fd")) <= used
    assert 1 in ends
    assert len(ends) > 1


@contextlib.contextmanager
def cgroup(controller: str) -> Iterator[Path]:
    """A cgroup of our own, of version 1 or 2; skips where the host has neither for this controller."""
    name = f"snapruntime-test-{os.getpid()}"
    unified = Path("/sys/fs/cgroup/cgroup.controllers")
    if unified.exists() and controller in unified.read_text().split():
        with contextlib.suppress(OSError):
            Path("/sys/fs/cgroup/cgroup.subtree_control").write_text(f"+{controller}")
        folder = Path("/sys/fs/cgroup") / name
    else:
        folder = Path("/sys/fs/cgroup") / controller / name
    try:
        folder.mkdir()
        assert (folder / "cgroup.procs").exists()
    except OSError as error:
        pytest.skip(f"no cgroup controller {controller} here: {error}")
    try:
        yield folder
    finally:
        wait_until(lambda: not (folder / "cgroup.procs").read_text().split(), "the cgroup is empty")
        folder.rmdir()


CROWDED = """
import json, os, sys
from pathlib import Path
from snapruntime import Runtime, SnapruntimeError, resolve_function
group, function, ends = Path(sys.argv[1]), resolve_function(sys.argv[3]), []

def attempt(what):
    try:
        what()
        ends.append("answered")
    except SnapruntimeError as error:
        ends.append(type(error).__name__)
    except BaseException as error:
        ends.append(repr(error))

def invoke(runtime, rebuild):
    with runtime.snapshot(function, rebuild=rebuild) as snapshot:
        snapshot.keep_ready(1)
        with snapshot.restore() as copy:
            assert copy.invoke({}).result == 1

(group / "cgroup.procs").write_text(str(os.getpid()))
for limit in range(1, 5):
    (group / "pids.max").write_text(str(limit))
    attempt(lambda: Runtime(Path(sys.argv[2])).close())
(group / "pids.max").write_text("100")
with Runtime(Path(sys.argv[2])) as runtime:
    invoke(runtime, False)
    before = len(os.listdir("/proc/self/fd"))
    for limit in range(3, 12):
        (group / "pids.max").write_text(str(limit))
        attempt(lambda: invoke(runtime, False))
        attempt(lambda: invoke(runtime, limit % 2 == 0))
    (group / "pids.max").write_text("100")
    attempt(lambda: invoke(runtime, True))
    ends.append(str(len(os.listdir("/proc/self/fd")) - before))
print(json.dumps(ends))
"""


@pytest.mark.may_skip("a container may be given no cgroups at all")
def test_no_process_can_be_made(criu_home: Path, write: Write, nothing_left: Census) -> None:
    """fork(2) fails with EAGAIN, as do threads, in supervisor and spawner: errors of ours; then all works again."""
    function = write(HELLO, timeout_s=5)
    with cgroup("pids") as group:
        *ends, last, leaked = run_python(CROWDED, str(group), str(criu_home), f"{function.task_root}/handler.py")
    assert set(ends) <= {"answered", "HostError", "RestoreError", "SnapshotError", "FunctionError", "UsageError"}, ends
    assert set(ends) > {"answered"}
    assert last == "answered"
    assert leaked == "0"


@pytest.mark.may_skip("a container may be given no cgroups at all")
def test_the_command_line_names_the_limit_of_processes(criu_home: Path, write: Write, nothing_left: Census) -> None:
    """Wherever it is reached: at our thread, at the spawner, at its children."""
    path = f"{write(HELLO).task_root}/handler.py"
    program = [sys.executable, "-m", "snapruntime", "--home", str(criu_home), "run", path, "--rebuild", "--quiet"]
    with cgroup("pids") as group:
        for limit in (1, 2, 3, 4, 6, 7):
            (group / "pids.max").write_text(str(limit))
            done = subprocess.run(
                ["sh", "-c", 'echo $$ > "$0"; exec "$@"', str(group / "cgroup.procs"), *program],
                capture_output=True,
                text=True,
                timeout=60,
                cwd=ROOT,
            )
            assert done.returncode in (3, 4), (limit, done.stderr)
            assert "Resource temporarily unavailable" in done.stderr, limit
            assert "pids.max" in done.stderr, limit
            assert "--pids-limit" in done.stderr, limit


@pytest.mark.may_skip("a container may be given no cgroups at all")
def test_the_kernel_ends_a_copy_for_its_memory(runtime: Runtime, write: Write, nothing_left: Census) -> None:
    function = write("def handler(event, context): return len(bytearray(b'x') * (event << 20))", timeout_s=20)
    with cgroup("memory") as group, runtime.snapshot(function) as snapshot:
        with snapshot.restore() as copy:
            limit = next(path for name in ("memory.max", "memory.limit_in_bytes") if (path := group / name).exists())
            limit.write_text(str(48 << 20))
            (group / "cgroup.procs").write_text(str(copy.pid))
            answer = copy.invoke(512)
        assert answer.error is not None
        assert answer.error["errorType"] == "Runtime.ExitError"
        assert "signal: killed" in answer.error["errorMessage"]
        with snapshot.restore() as copy:
            assert copy.invoke(1).result == 1 << 20, "the others do not notice"


CAPABILITIES = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "KILL": 5,
    "SETUID": 7,
    "SETPCAP": 8,
    "SYS_CHROOT": 18,
    "SYS_PTRACE": 19,
    "SYS_ADMIN": 21,
    "MKNOD": 27,
    "CHECKPOINT_RESTORE": 40,
}

LACKING = """
import ctypes, json, struct, sys, threading
from pathlib import Path
from snapruntime import Runtime, SnapruntimeError, resolve_function
from snapruntime.mechanisms import linux

def lose(number):
    linux.prctl(linux.PR_CAPBSET_DROP, number)
    header, sets = struct.pack("Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    linux._check(linux._libc.capget(header, sets), "capget")
    words = list(struct.unpack("6I", sets.raw))
    for kind in range(3):
        words[number // 32 * 3 + kind] &= ~(1 << number % 32)
    linux._check(linux._libc.capset(header, struct.pack("6I", *words)), "capset")

def attempt(what):
    try:
        return what() or "answered"
    except SnapruntimeError as error:
        return type(error).__name__
    except BaseException as error:
        return repr(error)

def live(runtime, function, rebuild):
    with runtime.snapshot(function, rebuild=rebuild) as snapshot, snapshot.restore() as copy:
        assert copy.invoke({}).result == 1

home, function, number = Path(sys.argv[1]), resolve_function(sys.argv[2]), int(sys.argv[3])
ends = []
with Runtime(home) as runtime:
    live(runtime, function, False)
    lose(number)
    ends += [attempt(lambda: live(runtime, function, rebuild)) for rebuild in (False, True)]

def anew():
    with Runtime(home) as runtime:
        live(runtime, function, False)
ends.append(attempt(anew))
print(json.dumps(ends))
"""


@pytest.mark.parametrize("name", CAPABILITIES)
def test_a_capability_is_lost_while_it_runs(criu_home: Path, write: Write, nothing_left: Census, name: str) -> None:
    """By the supervisor, between two uses, and then by all that it starts anew: an answer, or an error of ours."""
    function = write(HELLO, timeout_s=5)
    ends = run_python(LACKING, str(criu_home), f"{function.task_root}/handler.py", str(CAPABILITIES[name]))
    assert set(ends) <= {"answered", "HostError", "RestoreError", "SnapshotError"}, ends
    if name == "SYS_ADMIN":
        assert ends[2] == "HostError"
    if name == "KILL":
        assert ends[0] == "answered", "the spawner, which has it still, ends copies for us"


def test_the_spawner_loses_every_capability_while_it_runs(own_runtime: Runtime, write: Write) -> None:
    """As where a security module takes them: what it can no longer do is said, who lives goes on, nothing is left."""
    function = write(HELLO, timeout_s=5)
    with own_runtime.snapshot(function) as snapshot:
        with snapshot.restore() as living:
            own_runtime._spawner.run([["become", 0, 0]])
            with pytest.raises(SnapruntimeError, match="Operation not permitted"):
                snapshot.restore()
            with pytest.raises(SnapruntimeError, match="Operation not permitted"):
                own_runtime.snapshot(function, rebuild=True)
            assert living.invoke({}).result == 1
        assert str(living.state) == "dead"


def test_what_cannot_be_made_ahead_is_made_when_it_is_needed() -> None:
    """Whatever the reason: nobody waits for what will not come, and who needs it sees the error, or gets it."""
    refused = True

    def make() -> int:
        if refused:
            raise HostError("not now")
        return 1

    ready: Ready[int] = Ready(make, lambda _: None)
    ready.keep(2)
    assert ready.wait() == 0
    with pytest.raises(HostError):
        ready.take()
    refused = False
    assert ready.take() == 1
    ready.close()


def test_who_waits_for_the_last_one_that_is_made_ahead_gets_it() -> None:
    """It is counted as made from when it is begun; whoever waits only then must not be told that there is none."""
    begun, go_on = threading.Event(), threading.Event()

    def make() -> int:
        begun.set()
        go_on.wait(10)
        return 1

    ready: Ready[int] = Ready(make, lambda _: None)
    ready.keep(1, 1)
    begun.wait(10)
    threading.Timer(0.2, go_on.set).start()
    assert ready.wait() == 1
    ready.close()


def test_one_that_is_being_made_when_fewer_are_wanted_is_taken_away() -> None:
    begun, go_on = threading.Event(), threading.Event()
    gone: list[int] = []

    def make() -> int:
        begun.set()
        go_on.wait(10)
        return 1

    ready: Ready[int] = Ready(make, gone.append)
    ready.keep(1)
    begun.wait(10)
    ready.keep(0)
    go_on.set()
    assert ready.wait() == 0
    assert gone == [1]
    ready.close()


def test_a_supervisor_that_ends_with_an_answer_unread() -> None:
    """The kernel tells the spawner of a reset connection, not of its end: it ends in the same way, and says nothing."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        spawner = subprocess.Popen(
            [sys.executable, "-S", "-m", "snapruntime.mechanisms.spawner", str(theirs.fileno())],
            env={"PATH": os.defpath, "PYTHONPATH": str(ROOT)},
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
        )
    assert select.select([ours], [], [], 20)[0], "it has begun"
    ours.close()
    _, said = spawner.communicate(timeout=20)
    assert said == b""
    assert spawner.returncode == 0
