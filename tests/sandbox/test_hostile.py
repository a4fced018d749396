"""Functions that do harm: to the host, to who clears up after them, to other copies, from init on."""

from __future__ import annotations

import shutil
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import Write

from snapruntime import FunctionError, Runtime, SnapshotError
from snapruntime.mechanisms import quota
from snapruntime.mechanisms.cgroup import find_hierarchies
from snapruntime.mechanisms.manifest import MAX_DEPTH

from .conftest import SOURCE, Attempt, Breaker, Started, asking, start

HAS_MEMORY = any("memory" in hierarchy.controllers for hierarchy in find_hierarchies())
HAS_CPU = any("cpu" in hierarchy.controllers for hierarchy in find_hierarchies())


def test_no_descriptor_of_ours_is_left_open(attempt: Attempt) -> None:
    """Standard input, the log twice, the control channel: no image, no memory file, no socket of CRIU's."""
    assert attempt("descriptors") == {"0": "/dev/null", "1": "pipe", "2": "pipe", "3": "socket"}


def test_no_core_file_and_nothing_started_for_it(attempt: Attempt) -> None:
    """Only with a limit of 1 does the kernel not start what kernel.core_pattern names; so it cannot be lowered."""
    assert attempt("abort") == [[1, 1], False]


def test_programs_with_the_setuid_bit_give_nothing(breaker: Breaker, tmp_path_factory: pytest.TempPathFactory) -> None:
    place = Path("/opt/snapruntime-setuid")
    place.mkdir()
    try:
        shutil.copy("/usr/bin/id", place / "id")
        (place / "id").chmod(0o6755)
        assert stat.S_IMODE((place / "id").stat().st_mode) == 0o6755
        for shown in ({"read_only": [str(place)]}, {"writable": [str(place)]}):
            assert breaker(**shown)("run_program", str(place / "id"), "-u") == ["65534"]
    finally:
        shutil.rmtree(place)


def test_there_is_no_terminal(attempt: Attempt) -> None:
    assert attempt("look", "/dev/tty") == {"/dev/tty": "OSError ENXIO"}
    assert attempt("look", "/dev/ptmx") == {"/dev/ptmx": "OSError ENOENT"}


def test_who_stops_is_ended_in_time(runtime: Runtime, write: Write, way: str) -> None:
    with ExitStack() as stack:
        instance = start(runtime, write(SOURCE, timeout_s=1.0), way, stack)
        began = time.monotonic()
        answer = instance.invoke({"do": "stop_myself", "with": []})
        assert answer.error is not None
        assert answer.error["errorType"] == "Sandbox.Timedout"
        assert time.monotonic() - began < 5


def test_a_fork_bomb_ends_with_its_copy(runtime: Runtime, write: Write, way: str) -> None:
    """Its children are more than can be counted, and ignore signals. The fixture sees that none is left."""
    with ExitStack() as stack:
        instance = start(runtime, write(SOURCE, timeout_s=1.0, memory_mb=256), way, stack)
        other = start(runtime, write(SOURCE, timeout_s=30.0), way, stack)
        with ThreadPoolExecutor(1) as pool:
            bomb = pool.submit(instance.invoke, {"do": "bomb", "with": []})
            assert other.invoke({"do": "os_name", "with": []}).result == "posix", "its neighbour goes on"
        error = bomb.result().error
        assert error is not None
        assert error["errorType"] in ("Sandbox.Timedout", "Runtime.OutOfMemory")


@pytest.mark.skipif(not HAS_MEMORY, reason="no memory controller")
@pytest.mark.may_skip("a container may be given no cgroups at all")
def test_memory_of_the_kernel_counts(runtime: Runtime, write: Write, way: str) -> None:
    """Full sockets belong to no process, and are limited all the same."""
    with ExitStack() as stack:
        instance = start(runtime, write(SOURCE, timeout_s=30.0, memory_mb=128), way, stack)
        answer = instance.invoke({"do": "kernel_memory", "with": [400]})
        if answer.error is not None:
            assert answer.error["errorType"] == "Runtime.OutOfMemory"
        else:
            assert answer.result[0] <= 132


@pytest.mark.skipif(not HAS_CPU, reason="no cpu controller")
@pytest.mark.may_skip("a container may be given no cgroups at all")
def test_more_memory_is_more_of_the_processors(runtime: Runtime, write: Write, way: str) -> None:
    """Where two want the same processor, they share it as on Lambda: 1 to 8 here."""
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        small, large = (start(runtime, write(SOURCE, timeout_s=30.0, memory_mb=mb), way, stack) for mb in (221, 1769))
        event = {"do": "spin", "with": [1.5]}
        answers = [pool.submit(instance.invoke, event) for instance in (small, large)]
        few, many = (answer.result().result for answer in answers)
        assert many > 3 * few


@pytest.mark.parametrize(("network", "reached"), [("host", "connected"), ("isolated", "OSError ECONNREFUSED")])
def test_what_copies_see_of_each_other(runtime: Runtime, write: Write, way: str, network: str, reached: str) -> None:
    """Under the host's network they share its ports and its abstract names: that is not promised to be otherwise."""
    with ExitStack() as stack:
        function = write(SOURCE, timeout_s=30.0, network=network)
        one, other = (asking(start(runtime, function, way, stack)) for _ in range(2))
        port, name = one("listen")
        assert one("connect", port) == one("connect_abstract", name) == "connected"
        assert other("connect", port) == other("connect_abstract", name) == reached


def test_what_is_left_in_tmp_is_cleared_up(started: Started, way: str) -> None:
    """Links out of it and in circles, pipes, sockets, sparse and linked files, no access, no proper names, depth."""
    witness = Path("/usr/bin/env").stat()
    for _ in range(2):
        with started[way]() as instance:
            assert asking(instance)("litter", 250) == "done"
    assert Path("/usr/bin/env").stat() == witness


def test_what_init_leaves_in_tmp_is_in_the_snapshot_or_refused(runtime: Runtime, write: Write) -> None:
    function = write(SOURCE + "\nlitter(10)\n", timeout_s=30.0)
    with runtime.snapshot(function) as snapshot:
        folder = snapshot.stored.folder
        for _ in range(2):
            with snapshot.restore() as copy:
                assert asking(copy)("look", "/tmp/root/etc/shadow") == {"/tmp/root/etc/shadow": "OSError EACCES"}
                assert asking(copy)("fill", "/tmp/again", 1000) == [1000, None]
    with runtime.snapshot(function) as snapshot:
        assert snapshot.reason == "", "it can be verified"
    assert sum(path.lstat().st_blocks for path in folder.rglob("huge")) < 1000, "holes stay holes"


@pytest.mark.parametrize(("count", "length"), [(MAX_DEPTH * 30, 1), (40, 250)])
def test_folders_in_folders_at_init(runtime: Runtime, write: Write, count: int, length: int) -> None:
    source = f"""
        import os
        os.chdir("/tmp")
        for _ in range({count}):
            os.mkdir("d" * {length})
            os.chdir("d" * {length})
        os.chdir("/")

        def handler(event, context):
            return 1
        """
    with pytest.raises(SnapshotError, match="nested more than"):
        runtime.snapshot(write(source))


FILLING = {
    "files": """
        import os
        for number in range(60):
            with open(f"/tmp/{number}", "wb") as file:
                os.posix_fallocate(file.fileno(), 0, 16 << 20)
        """,
    "many files": """
        import os
        for number in range(10_000_000):
            os.mknod(f"/tmp/{number}")
        """,
    "open files without a name": """
        import os
        held = [os.open("/tmp", os.O_TMPFILE | os.O_RDWR) for _ in range(8)]
        for fd in held:
            os.posix_fallocate(fd, 0, 16 << 20)
        """,
    "a child's removed files": """
        import os
        if os.fork() == 0:
            held = [os.open(f"/tmp/{number}", os.O_CREAT | os.O_RDWR) for number in range(8)]
            for number, fd in enumerate(held):
                os.unlink(f"/tmp/{number}")
                os.posix_fallocate(fd, 0, 16 << 20)
        """,
    "mapped files without a name": """
        import ctypes, os
        for _ in range(8):
            fd = os.open("/tmp", os.O_TMPFILE | os.O_RDWR)
            os.posix_fallocate(fd, 0, 16 << 20)
            null = ctypes.c_void_p()
            ctypes.CDLL(None).mmap(null, ctypes.c_size_t(4096), 1, 2, fd, ctypes.c_long(0))  # PROT_READ, MAP_PRIVATE
            os.close(fd)  # Python's own mmap would keep another.
        """,
}


@pytest.mark.parametrize("how", FILLING)
def test_init_cannot_fill_the_disk(runtime: Runtime, write: Write, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Its /tmp is on the disk of the data folder; the size of one file is limited, their number is not."""
    monkeypatch.setattr(quota, "FILES_LIMIT", 2000)  # What is allowed takes a disk's time, and room.
    monkeypatch.setattr(quota, "TMP_LIMIT", 64 << 20)
    source = f"{FILLING[how]}\n        import time; time.sleep(60)\n        def handler(event, context): return 1"
    began = time.monotonic()
    with pytest.raises(SnapshotError, match="are allowed"):
        runtime.snapshot(write(source, timeout_s=20))
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(("count", "length"), [(MAX_DEPTH + 5, 1), (20, 250)])
def test_init_cannot_fill_the_disk_out_of_sight(runtime: Runtime, write: Write, count: int, length: int) -> None:
    """It is ended while it is at it, and not only when it is done."""
    source = f"""
        import os, time
        os.chdir("/tmp")
        for _ in range({count}):
            os.mkdir("d" * {length})
            os.chdir("d" * {length})
        time.sleep(60)
        def handler(event, context): return 1
        """
    began = time.monotonic()
    with pytest.raises(SnapshotError, match="nested more than"):
        runtime.snapshot(write(source, timeout_s=20))
    assert time.monotonic() - began < 15


def test_init_cannot_fill_the_disk_with_files_without_a_name(
    runtime: Runtime, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be counted shows in what is free; here that is made to look like little."""
    free = quota.Quota._free
    taken = 0

    def less(self: quota.Quota) -> int:
        return free(self) if not taken else 1000

    def passed(data: bytes) -> None:
        nonlocal taken
        taken += len(data)

    monkeypatch.setattr(quota.Quota, "_free", less)
    source = "print('x', flush=True)\nimport time; time.sleep(60)\ndef handler(event, context): return 1"
    with pytest.raises(SnapshotError, match="were left on the disk") as caught:
        runtime.snapshot(write(source), sink=passed)
    assert caught.value.code == "Snapruntime.DiskFull"


def test_init_that_is_a_fork_bomb(runtime: Runtime, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snapruntime.values.model.INIT_LIMIT_S", 1.0)
    with pytest.raises(FunctionError) as caught:
        runtime.snapshot(write(SOURCE + "\nbomb()\n", timeout_s=1.0))
    assert caught.value.document["errorType"] in ("Sandbox.Timedout", "Runtime.OutOfMemory", "Runtime.ExitError")
