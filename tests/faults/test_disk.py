"""What init maps and touches does not fill the host's disk: a snapshot is as large as what its process holds."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from support import Write

from snapruntime import Runtime
from snapruntime.mechanisms.criu import CriuWorker
from snapruntime.mechanisms.mapped import MEMORY
from snapruntime.values.errors import HostError, RestoreError, SnapshotError

MANY = 12
FILE = 500 << 20

MAPS_OF_A_SPARSE_FILE = """
    import mmap, os

    def sparse(path):
        os.truncate(os.open(path, os.O_CREAT | os.O_RDWR), SIZE)
        return open(path, "rb")

    SIZE, HERE = 500 << 20, os.path.dirname(__file__)
    held = []
    with {file} as file:
        for number in range(12):
            one = mmap.mmap(file.fileno(), SIZE, access=mmap.ACCESS_COPY)
            one[number << 20] = 65
            held.append(one)

    def lambda_handler(event, context):
        return [(one[number << 20], one[(number << 20) + 1], one[SIZE - 1]) for number, one in enumerate(held)]
"""

MEMORY_TOUCHED_HERE_AND_THERE = """
    import mmap

    SIZE, STEP = 2 << 30, 200 << 10
    held = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
    for at in range(0, SIZE, STEP):
        held[at] = 65

    def lambda_handler(event, context):
        return sum(held[at] == 65 for at in range(0, SIZE, STEP)), held[STEP // 2], held[SIZE - 1]
"""


def sizes(folder: Path) -> tuple[int, int]:
    """What the images seem to be in size, and take on the disk."""
    states = [path.stat() for path in folder.iterdir()]
    return sum(state.st_size for state in states), sum(state.st_blocks * 512 for state in states)


@pytest.mark.parametrize("file", ['sparse("/tmp/sparse")', 'open(f"{HERE}/sparse", "rb")'], ids=["tmp", "code"])
def test_private_mappings_of_a_sparse_file(runtime: Runtime, write: Write, file: str) -> None:
    function = write(MAPS_OF_A_SPARSE_FILE.format(file=file), files={"sparse": b""}, memory_mb=256, timeout_s=30.0)
    with open(Path(function.task_root) / "sparse", "r+b") as sparse:
        sparse.truncate(FILE)
    with runtime.snapshot(function) as snapshot, snapshot.restore() as copy:
        assert snapshot.mapped, snapshot.plain_reason
        assert max(sizes(snapshot.stored.folder / "images")) < 32 << 20
        assert (snapshot.stored.folder / "images" / MEMORY).stat().st_size > 1 << 20
        assert copy.invoke({}).result == [[65, 0, 0]] * MANY


def test_memory_that_is_touched_here_and_there(runtime: Runtime, write: Write) -> None:
    function = write(MEMORY_TOUCHED_HERE_AND_THERE, memory_mb=256, timeout_s=30.0)
    with runtime.snapshot(function) as snapshot, snapshot.restore() as copy:
        assert snapshot.mapped, snapshot.plain_reason
        touched = ((2 << 30) // (200 << 10) + 1) * 4096
        assert touched < max(sizes(snapshot.stored.folder / "images")) < 4 * touched + (64 << 20) + (16 << 20)
        assert copy.invoke({}).result == [(2 << 30) // (200 << 10) + 1, 0, 0]


PROCESSES_THAT_SHARE_MEMORY = """
    import os, signal

    held = bytearray(100 << 20)
    held[::4096] = b"x" * len(held[::4096])
    for number in range(COUNT):
        if os.fork() == 0:
            while True:
                signal.pause()

    def lambda_handler(event, context):
        return len(held)
"""


@pytest.mark.usefixtures("nothing_left")
def test_processes_that_share_memory(runtime: Runtime, write: Write) -> None:
    """What they have in common since a fork is in the images of each, but counts once where memory is limited."""
    with pytest.raises(SnapshotError, match="takes more than 2048 MB of the disk") as caught:
        runtime.snapshot(write(PROCESSES_THAT_SHARE_MEMORY.replace("COUNT", "30"), memory_mb=256, timeout_s=30.0))
    assert "--memory" in caught.value.hint
    function = write(PROCESSES_THAT_SHARE_MEMORY.replace("COUNT", "4"), memory_mb=256, timeout_s=30.0)
    with runtime.snapshot(function) as snapshot, snapshot.restore() as copy:
        assert copy.invoke({}).result == 100 << 20


MANY_MAPPINGS = """
    import ctypes, mmap, os, signal

    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    for number in range(15_000):  # Of each other protection: none becomes one with its neighbour.
        libc.mmap(None, mmap.PAGESIZE, number % 2, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, ctypes.c_long(0))
    for number in range(3):
        if os.fork() == 0:
            while True:
                signal.pause()

    def lambda_handler(event, context):
        return 1
"""


@pytest.mark.usefixtures("nothing_left")
def test_a_log_with_a_line_for_each_of_many_mappings(
    runtime: Runtime, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its beginning and its end are kept, and not its many megabytes."""
    call = CriuWorker._call

    def failing(self: CriuWorker, request: Any, *rest: Any) -> Any:
        if request.type == 2:  # A restore.
            del request.opts.inherit_fd[:]
        return call(self, request, *rest)

    with runtime.snapshot(write(MANY_MAPPINGS, timeout_s=30.0)) as snapshot:
        monkeypatch.setattr(CriuWorker, "_call", failing)
        with pytest.raises(RestoreError) as caught:
            snapshot.restore()
        monkeypatch.undo()
    log = Path(caught.value.hint.removeprefix("CRIU's log is in "))
    assert 2 << 20 <= log.stat().st_size < (2 << 20) + 200
    assert "bytes are left out here" in log.read_text()


LARGE = """
    held = bytearray(300 << 20)
    held[::4096] = b"x" * len(held[::4096])

    def lambda_handler(event, context):
        return len(held)
"""


@pytest.mark.usefixtures("nothing_left")
def test_images_that_cannot_be_looked_at(runtime: Runtime, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the looking at them fails with is no end of CRIU's, and is not told as one."""

    def refused(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("snapruntime.workflows.checkpoint.check_images", refused)
    with pytest.raises(HostError, match="Too many open files"):
        runtime.snapshot(write(LARGE, memory_mb=512, timeout_s=30.0))
