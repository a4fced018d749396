"""Memory that must not be found again: random generators count on that (glibc 2.41's os.urandom, for one)."""

from __future__ import annotations

import mmap
import shutil
from pathlib import Path

import pytest
from support import Write

from snapruntime import Runtime
from snapruntime.mechanisms.criu import import_pycriu
from snapruntime.mechanisms.wiped import empty, flagged, mark_wiped

#: Linux 6.11 and newer; a type of mapping, as MAP_PRIVATE is.
MAP_DROPPABLE, MAP_ANONYMOUS = 8, 32


@pytest.fixture
def droppable() -> None:
    try:
        mmap.mmap(-1, 4096, flags=MAP_DROPPABLE | MAP_ANONYMOUS).close()
    except OSError:
        pytest.skip("this kernel has no droppable memory")


@pytest.mark.may_skip("Linux before 6.11 has no droppable memory")
@pytest.mark.usefixtures("droppable")
@pytest.mark.parametrize("plain", [False, True], ids=["mapped", "plain"])
def test_droppable_memory_is_empty_in_copies(runtime: Runtime, write: Write, plain: bool) -> None:
    function = write(f"""
        import mmap, os
        size, kinds = 64 * mmap.PAGESIZE, ({MAP_DROPPABLE | MAP_ANONYMOUS}, 34, 34)
        state, before, behind = (mmap.mmap(-1, size, flags=kind) for kind in kinds)
        for memory in (before, state, behind):
            memory.write(b"A" * size)

        def handler(event, context):
            memories = before[:], state[:], behind[:]
            if (pid := os.fork()) == 0:
                os._exit(state[0] != 0)
            return [sorted(set(memory)) for memory in memories], os.waitpid(pid, 0)[1]
        """)
    with runtime.snapshot(function, plain_images=plain) as snapshot:
        assert snapshot.mapped is not plain
        for _ in range(2):
            with snapshot.restore() as copy:
                assert copy.invoke({}).result == [[[65], [0], [65]], 0]


def test_what_was_saved_of_a_range_is_emptied(runtime: Runtime, write: Write, tmp_path: Path) -> None:
    """As is done for droppable memory with CRIU before 4.2; newer ones do not save it."""
    function = write("""
        import ctypes, mmap
        memory = mmap.mmap(-1, 64 * mmap.PAGESIZE, flags=34)
        memory.write(b"A" * len(memory))
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))

        def handler(event, context):
            return address
        """)
    with runtime.snapshot(function, plain_images=True) as snapshot, snapshot.restore() as copy:
        start = copy.invoke({}).result
        shutil.copytree(snapshot.stored.folder / "images", tmp_path / "images")
    before = (tmp_path / "images" / "pages-1.img").read_bytes()
    page = mmap.PAGESIZE
    ranges = [(start + page, start + 3 * page), (start + 62 * page, start + 64 * page)]
    empty(runtime.criu, tmp_path / "images", 1, ranges)
    after = (tmp_path / "images" / "pages-1.img").read_bytes()
    changed = [at for at in range(0, len(before), page) if before[at : at + page] != after[at : at + page]]
    whole = before.index(b"A" * 64 * page)
    assert changed == [whole + index * page for index in (1, 2, 62, 63)]
    assert all(after[at : at + page] == bytes(page) for at in changed)
    assert len(after) == len(before)


def test_memory_that_children_must_not_see(runtime: Runtime, write: Write, tmp_path: Path) -> None:
    """CRIU before 4.2 does not save MADV_WIPEONFORK: it is put into the images, as 4.2 and newer would have done."""
    function = write("""
        import mmap
        marked, other = mmap.mmap(-1, 1 << 20, flags=34), mmap.mmap(-1, 1 << 20, flags=34)
        marked.madvise(18)

        def handler(event, context):
            with open("/proc/self/smaps") as file:
                return [line for line in file if line[0].islower() or line[0].isdigit() or line.startswith("VmFlags")]
        """)
    with runtime.snapshot(function, plain_images=True) as snapshot, snapshot.restore() as copy:
        (tmp_path / "smaps").write_text("".join(copy.invoke({}).result))
        saved = snapshot.stored.folder / "images" / "mm-1.img"
        images = import_pycriu(runtime.criu).images
        document = images.loads(saved.read_bytes())
        for vma in document["entries"][0]["vmas"]:
            if vma.get("madv", 0) & 1 << 18:
                vma["madv"] &= ~(1 << 18)
        (tmp_path / "mm-1.img").write_bytes(images.dumps(document))
        mark_wiped(runtime.criu, tmp_path / "mm-1.img", flagged(tmp_path / "smaps")[0])
        assert (tmp_path / "mm-1.img").read_bytes() == saved.read_bytes()
