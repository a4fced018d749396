"""The images and the memory file: what is moved, what stays, and that no copy can change what others see."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support import Write

from snapruntime import Function, Runtime, Snapshot
from snapruntime.mechanisms import guard, mapped
from snapruntime.mechanisms.criu import import_pycriu
from snapruntime.mechanisms.mapped import MEMORY, MEMORY_NAME, CannotMapError, map_memory
from snapruntime.mechanisms.pieces import Run, bridge

from .conftest import Lab, ask

PACKAGE = Path(mapped.__file__).parent


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_what_is_mapped_and_what_stays(lab: Lab) -> None:
    named, seccomp = lab("maps")
    assert seccomp == "2"
    for name in ("plain", "holey", "hidden", "sparse", "of_code", "mergeable", "heap"):
        assert named[name].endswith(f"/images/{MEMORY}"), named[name]
    for name in ("wiped", "pinned", "code", "shared", "between", "reserved", "of_file"):
        assert MEMORY not in named[name]
    assert named["plain"].split()[1] == "rw-p"
    assert named["hidden"].split()[1] == "---p"


def test_copies_share_the_file_and_never_change_it(lab_snapshot: Snapshot, lab: Lab) -> None:
    memory = lab_snapshot.stored.folder / "images" / MEMORY
    before = digests(memory.parent), memory.stat()
    with lab_snapshot.restore() as first, lab_snapshot.restore() as second:
        assert first.invoke({"do": "write_everywhere"}).result == "W"
        assert second.invoke({"do": "child"}).error is not None  # No such operation: only that it lives.
        assert second.invoke({"do": "file_pages"}).result == [["F", "A", "0F"], "F"]
        assert second.invoke({"do": "tree"}).result[0] == "('A', 'A', '0A')"
        assert first.invoke({"do": "write_everywhere"}).result == "W"
    assert lab("file_pages") == [["F", "A", "0F"], "F"]
    after = digests(memory.parent), memory.stat()
    assert after[0] == before[0]
    assert (after[1].st_mtime_ns, after[1].st_mode & 0o777) == (before[1].st_mtime_ns, 0o400)


def test_an_idle_copy_shares_the_large_part_of_its_memory(runtime: Runtime, write: Write) -> None:
    function = write("data = bytearray(b'x' * (64 << 20))\ndef lambda_handler(e, c): return len(data)", timeout_s=20.0)
    with runtime.snapshot(function) as snapshot, snapshot.restore() as copy:
        rollup = Path(f"/proc/{copy.pid}/smaps_rollup").read_text()
        private = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_Dirty"))
        assert private < 8 << 10, rollup
        assert copy.invoke({}).result == 64 << 20


def test_a_changed_memory_file_is_never_run(runtime: Runtime, write: Write) -> None:
    function = write("def lambda_handler(e, c): return 1")
    with runtime.snapshot(function) as snapshot:
        memory = snapshot.stored.folder / "images" / MEMORY
        old = snapshot.id
    with open(memory, "r+b") as file:
        file.seek(memory.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    with runtime.snapshot(function) as snapshot:
        assert snapshot.id != old
        assert not memory.exists()


def test_a_data_folder_that_moved(
    criu_home: Path, tmp_path: Path, lab_function: Function, lab_snapshot: Snapshot
) -> None:
    home = tmp_path / "elsewhere"
    subprocess.run(["cp", "-a", criu_home, home], check=True)
    with Runtime(home) as runtime, runtime.snapshot(lab_function) as snapshot:
        assert snapshot.id == lab_snapshot.id
        assert snapshot.stored.folder.is_relative_to(home)
        named, _ = ask(snapshot, "maps")
        assert str(home) in named["plain"]


def test_plain_images_where_they_are_asked_for(runtime: Runtime, write: Write) -> None:
    function = write("def lambda_handler(e, c): return open('/proc/self/status').read()")
    with runtime.snapshot(function, plain_images=True) as plain, runtime.snapshot(function) as usual:
        assert plain.id != usual.id
        assert (plain.mapped, usual.mapped) == (False, True)
        assert plain.plain_reason == "plain images were asked for"
        assert not (plain.stored.folder / "images" / MEMORY).exists()
        for snapshot in (plain, usual):
            with snapshot.restore() as copy:
                assert "Seccomp_filters:\t1\n" in copy.invoke({}).result, "the sandbox's, or one with the guard in it"


@pytest.mark.parametrize("package", ["polars", "pyarrow"])
def test_allocators_that_count_on_zeros(runtime: Runtime, write: Write, package: str) -> None:
    """polars brings jemalloc or mimalloc, pyarrow mimalloc; both give memory back with madvise and take it again."""
    source = {
        "polars": """
            import polars
            frame = polars.DataFrame({"a": range(200_000)})
            def work():
                big = polars.DataFrame({"a": range(300_000), "b": [str(n % 1000) for n in range(300_000)]})
                return big.group_by("b").agg(polars.col("a").sum()).select(polars.col("a").sum()).item()
        """,
        "pyarrow": """
            import pyarrow, pyarrow.compute
            pool = pyarrow.default_memory_pool()
            table = pyarrow.table({"a": range(200_000)})
            def work():
                total = 0
                for n in range(20):
                    array = pyarrow.array(range(50_000 + n))
                    total += pyarrow.compute.sum(pyarrow.compute.add(array, 1)).as_py()
                    del array
                    pool.release_unused()
                return total
        """,
    }[package]
    function = write(
        f"{source}\n"
        "            first = work()\n"
        "            def lambda_handler(event, context): return [work() == first for _ in range(5)]\n",
        timeout_s=60.0,
    )
    with runtime.snapshot(function) as snapshot:
        assert snapshot.mapped, snapshot.plain_reason
        with snapshot.restore() as one, snapshot.restore() as two, ThreadPoolExecutor(2) as pool:
            for answer in pool.map(lambda copy: copy.invoke({}), (one, two)):
                assert answer.error is None, answer.logs
                assert answer.result == [True] * 5


@pytest.fixture
def plain_images(runtime: Runtime, write: Write, tmp_path: Path) -> Iterator[Path]:
    """A folder with images as CRIU wrote them."""
    with runtime.snapshot(write("def lambda_handler(e, c): return 1"), plain_images=True) as snapshot:
        yield Path(shutil.copytree(snapshot.stored.folder / "images", tmp_path / "images"))


def _append(path: Path, data: bytes) -> None:
    with open(path, "ab") as file:
        file.write(data)


def test_the_unknown_keeps_all_images_as_they_are(runtime: Runtime, plain_images: Path) -> None:
    pycriu = import_pycriu(runtime.criu).images
    mm, pagemap, core = (plain_images / f"{name}-1.img" for name in ("mm", "pagemap", "core"))

    def edit(path: Path, change: Any) -> None:
        document = pycriu.loads(path.read_bytes())
        change(document["entries"])
        path.write_bytes(pycriu.dumps(document))

    def a_new_field(path: Path) -> None:
        data = path.read_bytes()
        size = int.from_bytes(data[8:12], "little")
        path.write_bytes(data[:8] + (size + 4).to_bytes(4, "little") + data[12 : 12 + size] + b"\xf8\xf8\x01\x01")

    cases: list[tuple[Callable[[], None], str]] = [
        (lambda: edit(pagemap, lambda entries: entries[1].update(flags=1)), "unknown kind"),
        (lambda: edit(pagemap, lambda entries: entries[1].update(in_parent=True)), "unknown kind"),
        (lambda: edit(core, lambda entries: entries[0].update(mtype="PPC64")), "PPC64"),
        (lambda: edit(core, lambda entries: entries[0]["thread_core"].update(seccomp_mode="strict")), "strict"),
        (lambda: a_new_field(mm), "fields that this pycriu does not know"),
        (lambda: _append(pagemap, b"\0"), "pagemap-1.img"),
        (lambda: core.unlink(), "core-1.img"),
    ]
    for damage, reason in cases:
        kept = digests(plain_images)
        contents = {path: path.read_bytes() for path in plain_images.iterdir()}
        damage()
        before = digests(plain_images)
        assert before != kept
        with pytest.raises(CannotMapError, match=reason):
            map_memory(runtime.criu, plain_images, lambda _: None, ["/tmp", "/proc"])
        assert digests(plain_images) == before
        assert os.listdir(plain_images.parent) == ["images"]
        for path, content in contents.items():
            path.write_bytes(content)


def test_a_snapshot_that_cannot_be_mapped_says_so_and_works(
    runtime: Runtime, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "ARCHITECTURES", {})
    with runtime.snapshot(write("def lambda_handler(e, c): return 7")) as snapshot, snapshot.restore() as copy:
        assert not snapshot.mapped
        assert "no guard" in snapshot.plain_reason
        assert copy.invoke({}).result == 7


def test_a_snapshot_of_which_nothing_can_be_mapped_says_so(
    runtime: Runtime, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "is_ordinary", lambda vma: False)
    with runtime.snapshot(write("def lambda_handler(e, c): return 7")) as snapshot, snapshot.restore() as copy:
        assert not snapshot.mapped
        assert snapshot.plain_reason == "none of its memory is of a kind that can be"
        assert copy.invoke({}).result == 7


def test_a_page_size_of_64_kib(runtime: Runtime, plain_images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images as such a host writes them: the same with all addresses and sizes 16 times as large."""
    pycriu = import_pycriu(runtime.criu).images
    real, large = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PAGE_SIZE") * 16
    mm, pagemap, pages = (plain_images / name for name in ("mm-1.img", "pagemap-1.img", "pages-1.img"))

    def pages_of(entries: list[dict[str, Any]], data: memoryview, size: int) -> dict[int, memoryview]:
        starts = [entry["vaddr"] + page * size for entry in entries[1:] for page in range(entry["nr_pages"])]
        return {start: data[index * size :][:size] for index, start in enumerate(starts)}

    document = pycriu.loads(mm.read_bytes())
    vmas = [vma for vma in document["entries"][0]["vmas"] if vma["end"] < 1 << 48]
    document["entries"][0]["vmas"] = [vma | {"start": vma["start"] * 16, "end": vma["end"] * 16} for vma in vmas]
    mm.write_bytes(pycriu.dumps(document))
    document = pycriu.loads(pagemap.read_bytes())
    small = pages_of(document["entries"], memoryview(pages.read_bytes()), real)
    for entry in document["entries"][1:]:
        entry["vaddr"] *= 16
    pagemap.write_bytes(pycriu.dumps(document))
    expected = {at * 16: bytes(data) * 16 for at, data in small.items()}
    pages.write_bytes(b"".join(expected.values()))
    sysconf = os.sysconf
    monkeypatch.setattr(os, "sysconf", lambda name: large if name == "SC_PAGE_SIZE" else sysconf(name))

    map_memory(runtime.criu, plain_images, lambda _: None, ["/tmp", "/proc"])

    files = pycriu.loads((plain_images / "files.img").read_bytes())["entries"]
    (memory_id,) = [entry["id"] for entry in files if entry.get("reg", {}).get("name") == MEMORY_NAME]
    moved = [vma for vma in pycriu.loads(mm.read_bytes())["entries"][0]["vmas"] if vma["shmid"] == memory_id]
    found = pages_of(pycriu.loads(pagemap.read_bytes())["entries"], memoryview(pages.read_bytes()), large)
    memory = memoryview((plain_images / MEMORY).read_bytes())
    for vma in moved:
        assert vma["pgoff"] % large == 0
        for at in range(vma["start"], vma["end"], large):
            found[at] = memory[vma["pgoff"] + at - vma["start"] :][:large]
    assert len(moved) > 3
    assert all(found[at] == data for at, data in expected.items())
    assert not any(bytes(data).strip(b"\0") for at, data in found.items() if at not in expected)


def test_a_guard_page_is_never_part_of_the_file() -> None:
    """Linux before 6.15 installs no guard page in a mapping of a file: CRIU could not put it back."""
    page = os.sysconf("SC_PAGE_SIZE")
    runs = [Run(start * page, (start + 2) * page, 0, 4) for start in (10, 14, 18)]
    pieces = [(piece.start // page, piece.end // page) for piece in bridge(runs, [(12 * page, 13 * page)], 256 << 10)]
    assert pieces == [(10, 12), (14, 20)]


def test_no_page_size_is_written_down() -> None:
    for name in ("mapped.py", "guard.py", "images.py"):
        text = (PACKAGE / name).read_text()
        assert not any(size in text for size in ("4096", "0x1000,", "<< 12")), name
