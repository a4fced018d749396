"""Private mappings of files that init wrote to: a copy sees its own pages and, elsewhere, the file as it is now."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from support import Write

from snapruntime import Function, Runtime, Snapshot
from snapruntime.mechanisms.mapped import MEMORY

from .conftest import ask

#: Of "few", too few pages were written to be worth a cut; of "many", they are a piece of the memory file. "locked" and
#: "library" are a file that no copy can write to; "locked" is longer.
SOURCE = """
import ctypes, errno, os, signal

PAGE, HERE = os.sysconf("SC_PAGE_SIZE"), os.path.dirname(__file__)
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
libc.mremap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int)
libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
IN_FILE, MAPPED = 300, 400
WRITTEN = {"few": range(10, 12), "many": range(10, 110)}


def file_name(name):
    return os.path.join(os.environ.get("FOLDER", "/tmp"), name) if name in ("few", "many") else f"{HERE}/locked.bin"


def map_file(name, pages):
    with open(file_name(name), "rb") as file:
        return libc.mmap(None, pages * PAGE, 3, 2, file.fileno(), 0)


def fill(name, pages, byte):
    ctypes.memset(at[name] + pages[0] * PAGE, byte[0], len(pages) * PAGE)


def seen(name, *pages):
    return "".join(chr(ctypes.string_at(at[name] + page * PAGE, 1)[0]) for page in pages)


for name in WRITTEN:
    with open(file_name(name), "wb") as file:
        file.write(b"F" * (IN_FILE * PAGE))
at = {name: map_file(name, MAPPED) for name in WRITTEN}
for name, pages in WRITTEN.items():
    fill(name, pages, b"A")
PAGES = {"few": MAPPED, "many": MAPPED, "locked": 12, "library": 6}
for name in ("locked", "library"):
    WRITTEN[name] = range(1, 2)
    at[name] = map_file(name, PAGES[name])
    fill(name, [1], b"A")


def call(function, *arguments):
    ctypes.set_errno(0)
    result = function(*arguments)
    return errno.errorcode[ctypes.get_errno()] if result in (-1, ctypes.c_void_p(-1).value) else "ok"


def end_of_child(name, page):
    if (pid := os.fork()) == 0:
        seen(name, page)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kept(name):
    return seen(name, 0, *WRITTEN[name][::20], WRITTEN[name][-1], WRITTEN[name][-1] + 1)


def follows(name):
    with open(file_name(name), "r+b") as file:
        for page in (0, 10, 115, 299):
            file.seek(page * PAGE)
            file.write(b"N")
    return seen(name, 0, 1, 10, 115, 116, 299)


def grows(name):
    before = end_of_child(name, IN_FILE)
    with open(file_name(name), "ab") as file:
        file.write(b"G" * (2 * PAGE))
    return before, seen(name, IN_FILE, IN_FILE + 1), end_of_child(name, IN_FILE + 2)


def is_cut(name):
    os.truncate(file_name(name), 5 * PAGE)
    return seen(name, 4), end_of_child(name, 5)


def beyond(name, page):
    return end_of_child(name, page - 1), end_of_child(name, page)


def own(name):
    fill(name, WRITTEN[name][:1], b"W")
    fill(name, [0], b"W")
    return kept(name)


def dropped(name):
    pages = WRITTEN[name]
    return call(libc.madvise, at[name] + pages[0] * PAGE, len(pages) * PAGE, 4), seen(name, pages[0])


def resized(name):
    return call(libc.mremap, at[name], MAPPED * PAGE, (MAPPED + 1) * PAGE, 1)


def maps(name):
    with open("/proc/self/maps") as file:
        found = []
        for line in file:
            low, high = (int(part, 16) for part in line.split()[0].split("-"))
            if low < at[name] + PAGES[name] * PAGE and at[name] < high:
                found.append([(low - at[name]) // PAGE, (high - at[name]) // PAGE, os.path.basename(line.split()[-1])])
        return found


def lambda_handler(event, context):
    return globals()[event["do"]](*event["with"])
"""
LOCKED = {"locked.bin": b"F" * (5 * os.sysconf("SC_PAGE_SIZE") + 1)}


@pytest.fixture(scope="module")
def function(write: Write) -> Function:
    return write(SOURCE, files=LOCKED)


@pytest.fixture(scope="module")
def snapshot(runtime: Runtime, function: Function) -> Iterator[Snapshot]:
    with runtime.snapshot(function) as snapshot:
        assert snapshot.mapped, snapshot.plain_reason
        yield snapshot


@pytest.fixture(scope="module")
def plain(runtime: Runtime, function: Function) -> Iterator[Snapshot]:
    with runtime.snapshot(function, plain_images=True) as snapshot:
        yield snapshot


@pytest.mark.parametrize("name", ["few", "many"])
def test_pages_that_were_written_are_each_copy_s_own(snapshot: Snapshot, plain: Snapshot, name: str) -> None:
    kept, own = {"few": ("FAAF", "WWAF"), "many": ("FAAAAAAF", "WWAAAAAF")}[name]
    for one in (plain, snapshot):
        with one.restore() as first, one.restore() as second:
            assert first.invoke({"do": "own", "with": [name]}).result == own
            assert second.invoke({"do": "kept", "with": [name]}).result == kept


@pytest.mark.parametrize("plain_images", [True, False], ids=["plain", "mapped"])
@pytest.mark.parametrize("name", ["few", "many"])
@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("follows", "NFANFN"),
        ("grows", [-signal.SIGBUS, "GG", -signal.SIGBUS]),
        ("is_cut", ["F", -signal.SIGBUS]),
    ],
)
def test_other_pages_are_those_of_the_file(
    runtime: Runtime, write: Write, plain_images: bool, name: str, what: str, expected: Any
) -> None:
    """In a folder shown writable: an overlay, as /tmp is, maps another file once one was written to."""
    with tempfile.TemporaryDirectory(prefix="snapruntime-tests-") as folder:
        os.chmod(folder, 0o777)
        function = write(SOURCE, files=LOCKED, writable=[folder], environment={"FOLDER": folder})
        with runtime.snapshot(function, plain_images=plain_images) as snapshot:
            assert snapshot.mapped is not plain_images
            assert ask(snapshot, what, name) == expected


def test_beyond_the_end_of_a_file(snapshot: Snapshot, plain: Snapshot) -> None:
    for name, end in (("few", 300), ("many", 300), ("locked", 6)):
        for one in (plain, snapshot):
            assert ask(one, "beyond", name, end) == [0, -signal.SIGBUS], name


def test_what_moves(snapshot: Snapshot) -> None:
    """Of a file that can be written to, no page but those that were; a library's data are one mapping, as they were."""
    ((start, end, name),) = ask(snapshot, "maps", "library")  # The kernel may make one of it and its neighbours.
    assert (start <= 0, end >= 6, name) == (True, True, MEMORY)
    assert ask(snapshot, "kept", "library") == "FAAF"
    assert ask(snapshot, "maps", "locked") == [[0, 12, "locked.bin"]]
    assert ask(snapshot, "maps", "few") == [[0, 400, "few"]]
    assert ask(snapshot, "maps", "many") == [[0, 10, "many"], [10, 110, MEMORY], [110, 400, "many"]]


def test_pages_that_were_written_and_moved_cannot_be_dropped_or_grow(snapshot: Snapshot, plain: Snapshot) -> None:
    assert [ask(plain, "dropped", name) for name in ("few", "many")] == [["ok", "F"]] * 2
    assert [ask(snapshot, "dropped", name) for name in ("few", "many")] == [["ok", "F"], ["EINVAL", "A"]]
    assert [ask(plain, "resized", name) for name in ("few", "many")] == ["ok", "ok"]
    assert [ask(snapshot, "resized", name) for name in ("few", "many")] == ["ok", "ENOMEM"]
