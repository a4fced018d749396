"""What first calls touch is learnt, kept beside the snapshots, and can be brought in beforehand; never an error."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Write

from snapruntime import Function, Runtime, Snapshot
from snapruntime.mechanisms import touched
from snapruntime.mechanisms.images import load
from snapruntime.mechanisms.touched import NOTHING, Touched

from .conftest import Lab, ask

pytestmark = pytest.mark.may_skip("Linux before 6.7 does not tell which pages were touched")

PAGE = os.sysconf("SC_PAGE_SIZE")

SOURCE = """
    import ctypes, mmap, os
    PAGE = os.sysconf("SC_PAGE_SIZE")
    memory = mmap.mmap(-1, 512 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(b"A" * (512 * PAGE))
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))

    def lambda_handler(event, context):
        for page in event.get("write", ()):
            memory[page * PAGE] = 87
        return address, [memory[page * PAGE] for page in event.get("read", ())]
"""


@pytest.fixture(autouse=True)
def the_kernel_tells() -> None:
    if tuple(map(int, platform.release().split(".")[:2])) < (6, 7):
        pytest.skip("a kernel before 6.7 does not tell which pages were touched")


@pytest.fixture
def function(write: Write) -> Function:
    return write(SOURCE)


@pytest.fixture
def snapshot(runtime: Runtime, function: Function) -> Iterator[Snapshot]:
    with runtime.snapshot(function, rebuild=True) as snapshot:
        assert snapshot.mapped, snapshot.plain_reason
        yield snapshot


def bring_in(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, have its copies' pages brought in at their restore."""
    monkeypatch.setattr(snapshot._ready, "_make", lambda: snapshot._prepare(populated=True))


def covers(ranges: tuple[touched.Range, ...], address: int) -> bool:
    return any(low <= address < high for low, high in ranges)


def test_the_first_copies_that_answer_are_learnt_from(snapshot: Snapshot, criu_home: Path) -> None:
    assert touched.recall(criu_home, snapshot.id) == NOTHING
    for copies, page in enumerate((3, 100, 200), 1):
        with snapshot.restore() as copy:
            address, _ = copy.invoke({"write": [page], "read": [400]}).result
            copy.invoke({"write": [300]})  # Not its first.
        known = touched.recall(criu_home, snapshot.id)
        assert known.copies == copies
    with snapshot.restore() as copy:
        copy.invoke({"write": [350]})
    known = touched.recall(criu_home, snapshot.id)
    assert known.copies == 3
    assert [covers(known.written, address + page * PAGE) for page in (3, 100, 200, 300, 350, 400)] == [
        *(True, True, True, False, False, False)
    ]
    assert covers(known.read, address + 400 * PAGE)


def test_a_copy_that_has_all_it_needs_faults_no_more(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, criu_home: Path
) -> None:
    event = {"write": [3, 4, 100], "read": [3, 4, 100, 400]}

    def answer() -> int:
        with snapshot.restore() as copy:
            before = touched.scan(copy.pid)
            faults = _faults(copy.pid)
            address, content = copy.invoke(event).result
            faults = _faults(copy.pid) - faults
            assert content == [87, 87, 87, 65]
            own = [covers(before.written, address + page * PAGE) for page in (3, 100, 300)]
            assert own == ([True, True, False] if snapshot._first_touch._folders else [False] * 3)
            return faults

    plain = answer()
    bring_in(snapshot, monkeypatch)
    brought_in = answer()
    assert brought_in < plain / 4


def _faults(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


@pytest.mark.parametrize("name", ["in_fork", "tree", "file_pages", "heap", "in_threads", "unhidden", "reservation"])
def test_memory_behaves_the_same(lab_snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    expected = ask(lab_snapshot, name)
    ask(lab_snapshot, "write_everywhere")
    bring_in(lab_snapshot, monkeypatch)
    assert ask(lab_snapshot, name) == expected
    assert lab_snapshot._first_touch._folders


def test_copies_do_not_see_each_other_s_writes(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    with snapshot.restore() as copy:
        copy.invoke({"write": [7]})
    bring_in(snapshot, monkeypatch)
    with snapshot.restore() as one, snapshot.restore() as two:
        assert one.invoke({"write": [7], "read": [7]}).result[1] == [87]
        assert two.invoke({"read": [7]}).result[1] == [65]
    snapshot.stored.verify()


def test_images_that_do_not_come_back_are_not_used(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    with snapshot.restore() as copy:
        copy.invoke({})
    (folder,) = filter(None, [snapshot._first_touch.images()])
    mm = os.open("mm-1.img", os.O_WRONLY | os.O_TRUNC, dir_fd=folder)
    os.close(mm)
    bring_in(snapshot, monkeypatch)
    with snapshot.restore() as copy:
        assert copy.invoke({"read": [1]}).result[1] == [65]


def _digested(body: bytes) -> bytes:
    return hashlib.sha256(body).digest() + body


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"\0" * 32 + b'{"copies": 1, "written": [], "read": []}',
        _digested(b"[]"),
        _digested(b'{"copies": 1, "written": [], "read": [[1]]}'),
        _digested(b'{"copies": 1, "written": [["a", "b"]], "read": []}'),
        _digested(b"[" * 100_000),
    ],
)
def test_a_damaged_record_is_as_none(snapshot: Snapshot, criu_home: Path, content: bytes) -> None:
    touched.keep(criu_home, snapshot.id, Touched(1, ((0, PAGE),), ()))
    assert touched.recall(criu_home, snapshot.id).copies == 1
    (criu_home / "first-touch" / snapshot.id).write_bytes(content)
    assert touched.recall(criu_home, snapshot.id) == NOTHING


def test_a_record_of_another_memory_does_no_harm(
    runtime: Runtime, function: Function, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, criu_home: Path
) -> None:
    touched.keep(criu_home, snapshot.id, Touched(1, ((0, 1 << 46),), ((PAGE, 1 << 47),)))
    with runtime.snapshot(function) as again:
        assert again.id == snapshot.id
        bring_in(again, monkeypatch)
        with again.restore() as copy:
            assert copy.invoke({"read": [1]}).result[1] == [65]


def test_a_first_call_that_writes_very_much_is_left_to_it(
    runtime: Runtime, function: Function, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, criu_home: Path
) -> None:
    with snapshot.restore() as copy:
        address, _ = copy.invoke({}).result
    for size, brought_in in ((1 << 20, True), (65 << 20, False)):
        touched.keep(criu_home, snapshot.id, Touched(3, ((address, address + size),), ()))
        with runtime.snapshot(function) as again:
            bring_in(again, monkeypatch)
            with again.restore() as copy:
                assert covers(touched.scan(copy.pid).written, address) == brought_in


def test_a_kernel_that_does_not_tell(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, criu_home: Path) -> None:
    monkeypatch.setattr(touched, "_SCAN", 0xC06066FE)  # ENOTTY, as before Linux 6.7.
    with snapshot.park().resume() as copy:
        assert copy.invoke({"read": [1]}).result[1] == [65]
    with snapshot.park().resume() as copy:
        assert copy.invoke({"read": [1]}).result[1] == [65]
    assert touched.recall(criu_home, snapshot.id) == NOTHING


def test_what_cannot_be_kept_leaves_nothing(tmp_path: Path) -> None:
    """As on a full disk, where each copy that is learnt from would leave a file."""
    (tmp_path / "first-touch" / "snapshot").mkdir(parents=True)
    touched.keep(tmp_path, "snapshot", NOTHING)
    assert [path.name for path in (tmp_path / "first-touch").iterdir()] == ["snapshot"]


def test_a_home_that_cannot_be_written_to(snapshot: Snapshot, criu_home: Path) -> None:
    (criu_home / "first-touch").mkdir(exist_ok=True)
    place = criu_home / "first-touch" / snapshot.id
    place.mkdir()
    try:
        with snapshot.restore() as copy:
            assert copy.invoke({"read": [1]}).error is None
        assert touched.recall(criu_home, snapshot.id) == NOTHING
    finally:
        place.rmdir()


def test_parked_copies_have_their_pages_by_themselves(snapshot: Snapshot) -> None:
    with snapshot.park().resume() as copy:
        address, _ = copy.invoke({"write": [7]}).result
    parked = snapshot.park()
    assert covers(touched.scan(parked.pid).written, address + 7 * PAGE)
    with parked.resume() as copy:
        assert copy.invoke({"read": [7]}).result[1] == [65]


def test_nothing_is_brought_in_beyond_the_end_of_a_file(runtime: Runtime, write: Write) -> None:
    """The kernel would refuse to, and CRIU give up."""
    function = write(
        """
        import ctypes, mmap
        libc = ctypes.CDLL(None)
        libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, [ctypes.c_void_p, *[ctypes.c_size_t] * 5]
        with open("/tmp/short", "wb") as file:
            file.write(b"F" * mmap.PAGESIZE)
        with open("/tmp/short", "rb") as file:
            address = libc.mmap(None, 3 * mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_PRIVATE, file.fileno(), 0)

        def lambda_handler(event, context):
            return ctypes.string_at(address, 1).decode()
        """
    )
    with runtime.snapshot(function) as snapshot:
        for _ in range(2):
            with snapshot.park().resume() as copy:
                assert copy.invoke({}).result == "F"
        assert snapshot._first_touch.images() is not None


def test_a_page_of_another_file_is_not_copied_before_it_is_written_to(
    runtime: Runtime, lab_snapshot: Snapshot, lab: Lab, tmp_path: Path
) -> None:
    """The file itself may change first, and the page would not show it."""
    named, _ = lab("maps")
    ends = {name: line.split()[0].split("-") for name, line in named.items()}
    low, high = {name: int(ends[name][0], 16) for name in ends}, {name: int(ends[name][1], 16) for name in ends}
    wanted = ["of_file", "plain", "reserved"]
    written = tuple(sorted((low[name], low[name] + PAGE) for name in wanted))
    images = lab_snapshot.stored.folder / "images"
    assert touched.write_images(runtime.criu, images, Touched(1, written, ()), tmp_path / "images")
    (entry,) = load(runtime.criu, tmp_path / "images" / "mm-1.img")["entries"]
    marked = [vma["start"] for vma in entry["vmas"] if vma.get("madv", 0) & touched._POPULATE_WRITE]
    assert marked == [low["plain"]]
    assert any(vma["start"] == low["of_file"] and vma["end"] == high["of_file"] for vma in entry["vmas"])


def test_copies_are_parked_without_their_pages_where_that_fails(snapshot: Snapshot) -> None:
    with snapshot.restore() as copy:
        address, _ = copy.invoke({"write": [7]}).result
    (folder,) = filter(None, [snapshot._first_touch.images()])
    os.close(os.open("mm-1.img", os.O_WRONLY | os.O_TRUNC, dir_fd=folder))
    for _ in range(2):
        parked = snapshot.park()
        assert not covers(touched.scan(parked.pid).written, address + 7 * PAGE)
        assert snapshot._first_touch.images() is None
        with parked.resume() as copy:
            assert copy.invoke({"read": [7]}).result[1] == [65]
