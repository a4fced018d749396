"""First touch: the pages of its memory that a copy needs for its first call, and images that bring them in before it.

A copy's page tables say what it has touched: pages of its own where it wrote, pages of the page cache where it only
read. That is kept in the data folder, beside the snapshots, since a snapshot is never changed; and it is advice only:
where it is missing, damaged or wrong, a copy faults its pages in one by one.

    HOME/first-touch/SNAPSHOT      SHA-256 of the rest; JSON: copies, written, read (ranges of addresses)

The images that bring pages in are those of the snapshot, with the mappings cut to what was touched, and these parts
marked as if the process had given the kernel the advice MADV_POPULATE_WRITE or _READ (Linux 5.14) about them: CRIU
repeats all advice as the last thing it does to a mapping (criu/pie/restorer.c, one call for each bit of `madv`).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import shutil
import struct
import tempfile
import time
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snapruntime.mechanisms.images import UnknownImageError, dump, load
from snapruntime.mechanisms.mapped import MEMORY, MEMORY_NAME, cut, is_anonymous, is_ordinary
from snapruntime.values.host import Criu

Range = tuple[int, int]

#: Written ranges with up to so many bytes between them become one: a mapping costs CRIU as much as some pages.
_NEAR = 8 << 10
#: Of what is only read, the stretch from the first page touched to the last is brought in where a fifth of it was.
_ENOUGH = 5
#: Where a first call writes more than this, bytes, it is left to it: every copy that waits would hold so much.
_MOST_WRITTEN = 64 << 20
#: Images, without the memory file, are copied up to this size, bytes: into memory.
_MOST_IMAGES = 16 << 20

_PROT_READ, _PROT_WRITE = 1, 2
_POPULATE_READ, _POPULATE_WRITE = 1 << 22, 1 << 23

# ioctl PAGEMAP_SCAN (linux/fs.h, since 6.7), and its categories of pages.
_SCAN = 0xC0606610
_FILE, _PRESENT, _SWAPPED, _ZERO = 1 << 2, 1 << 3, 1 << 4, 1 << 5
_REGIONS = 4096

#: A record that nobody has used for so long is removed.
_OLD_S = 60 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Touched:
    """What copies have touched by the end of their first call, as ranges of addresses, in order.

    Attributes:
        copies: of how many copies this is.
        written: pages that they wrote.
        read: pages that they only read, as far as one can tell: the kernel maps a few more around each.
    """

    copies: int
    written: tuple[Range, ...]
    read: tuple[Range, ...]

    def and_also(self, other: Touched) -> Touched:
        """What either has touched."""
        return Touched(
            self.copies + other.copies,
            tuple(_joined([*self.written, *other.written])),
            tuple(_joined([*self.read, *other.read])),
        )


NOTHING = Touched(0, (), ())


def scan(pid: int) -> Touched:
    """What the process has touched so far.

    Raises:
        OSError: the kernel does not tell (before Linux 6.7), or the process has ended.
    """
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as file:
        ends = [int(line.split()[0].partition("-")[2], 16) for line in file if not line.endswith("[vsyscall]\n")]
    found: dict[bool, list[Range]] = {True: [], False: []}
    regions, start, end = (ctypes.c_uint64 * (3 * _REGIONS))(), 0, max(ends, default=0)
    with open(f"/proc/{pid}/pagemap", "rb") as pagemap:
        while start < end:
            # struct pm_scan_arg: size, flags, start, end, walk_end, vec, vec_len, max_pages, inverted categories, those
            # that a page must have, those of which it must have one, those that are told.
            wanted = (0, 0, _PRESENT | _SWAPPED, _FILE | _ZERO)
            argument = bytearray(
                struct.pack("12Q", 96, 0, start, end, 0, ctypes.addressof(regions), _REGIONS, 0, *wanted)
            )
            count = fcntl.ioctl(pagemap, _SCAN, argument)
            for at in range(0, 3 * count, 3):
                found[regions[at + 2] == 0].append((regions[at], regions[at + 1]))
            (start,) = struct.unpack_from("Q", argument, 32)
    return Touched(1, tuple(_joined(found[True])), tuple(_joined(found[False])))


def keep(home: Path, snapshot: str, touched: Touched) -> None:
    """Keep what is known of a snapshot's copies. Not being able to is no error."""
    body = json.dumps({"copies": touched.copies, "written": touched.written, "read": touched.read}).encode()
    path = _file(home, snapshot)
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=path.parent)
        try:
            with open(fd, "wb") as file:
                file.write(hashlib.sha256(body).digest() + body)
            os.rename(name, path)
        except OSError:  # A full disk: each copy that is learnt from would leave one more.
            os.unlink(name)
            raise
        for other in path.parent.iterdir():
            if other.stat().st_mtime < time.time() - _OLD_S:
                other.unlink(missing_ok=True)


def recall(home: Path, snapshot: str) -> Touched:
    """What was kept; `NOTHING` where nothing was, or it is damaged."""
    path = _file(home, snapshot)
    try:
        kept = path.read_bytes()
        os.utime(path)
        digest, body = kept[: hashlib.sha256().digest_size], kept[hashlib.sha256().digest_size :]
        if hashlib.sha256(body).digest() != digest:
            return NOTHING
        document = json.loads(body)
        written, read = (tuple((int(low), int(high)) for low, high in document[name]) for name in ("written", "read"))
        return Touched(int(document["copies"]), written, read)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return NOTHING


def write_images(criu: Criu, images: Path, touched: Touched, folder: Path) -> bool:
    """Write to `folder`, which is made, images whose restore brings in what was touched by the first process.

    Returns:
        False where there are none: these images cannot be changed, or are too large.

    Raises:
        OSError: `folder` cannot be written to.
    """
    others = [path for path in images.iterdir() if path.name != MEMORY]
    if sum(path.stat().st_size for path in others) > _MOST_IMAGES:
        return False
    if sum(high - low for low, high in touched.written) > _MOST_WRITTEN:
        touched = Touched(touched.copies, (), touched.read)
    mm = images / "mm-1.img"  # The worker's: it is PID 1.
    try:
        document = load(criu, mm)
        (entry,) = document["entries"]
        memory = {
            file["id"]
            for file in load(criu, images / "files.img")["entries"]
            if file.get("reg", {}).get("name") == MEMORY_NAME
        }
        entry["vmas"] = [part for vma in entry["vmas"] for part in _marked(vma, touched, memory)]
    except (UnknownImageError, LookupError, TypeError, ValueError):
        return False
    folder.mkdir(mode=0o700)
    for path in others:
        shutil.copyfile(path, folder / path.name)
    dump(criu, document, folder / mm.name)
    return True


def _marked(vma: dict[str, Any], touched: Touched, memory: Collection[int]) -> Iterator[dict[str, Any]]:
    """A mapping in parts, those that were touched with the advice to bring them in.

    Other files than the memory file may be written to before their page is: it must not be copied sooner.
    """
    if not is_ordinary(vma) or not vma["prot"] & _PROT_READ:
        yield vma
        return

    def part(start: int, end: int, advice: int = 0) -> dict[str, Any]:
        one = cut(vma, start, end)
        return one | {"madv": vma.get("madv", 0) | advice} if advice else one

    at, end = vma["start"], vma["end"]
    ours = is_anonymous(vma) or vma["shmid"] in memory
    written = _within(touched.written, at, end) if ours and vma["prot"] & _PROT_WRITE else []
    for low, high in [*_joined(written, _NEAR), (end, end)]:
        if at < low and (read := _within(touched.read, at, low)):
            # No further than what was touched: a mapping of a file may be longer than the file.
            last = read[-1][1]
            if _ENOUGH * sum(stop - start for start, stop in read) >= last - at:
                yield part(at, last, _POPULATE_READ)
                at = last
        if at < low:
            yield part(at, low)
        if low < high:
            yield part(low, high, _POPULATE_WRITE)
        at = high


def _within(ranges: tuple[Range, ...], start: int, end: int) -> list[Range]:
    """The parts of ranges, which are in order, between two addresses."""
    first = bisect_right(ranges, start, key=lambda one: one[1])
    last = bisect_left(ranges, end, key=lambda one: one[0])
    return [(max(low, start), min(high, end)) for low, high in ranges[first:last]]


def _joined(ranges: Iterable[Range], near: int = 0) -> Iterator[Range]:
    """Ranges in order, those as one that overlap or have `near` bytes or less between them."""
    low = high = -1
    for start, end in sorted(ranges):
        if low >= 0 and start <= high + near:
            high = max(high, end)
            continue
        if low >= 0:
            yield low, high
        low, high = start, end
    if low >= 0:
        yield low, high


def _file(home: Path, snapshot: str) -> Path:
    return home / "first-touch" / snapshot
