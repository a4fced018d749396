"""What CRIU before 4.2 does not know of memory that its owner must not find again.

Such memory is emptied in forked children (MADV_WIPEONFORK), or dropped by the kernel whenever it likes (MAP_DROPPABLE).
Generators of random numbers keep their state there, so that no two processes go on with the same one: glibc 2.41 and
newer, on Linux 6.11 and newer, that of the vDSO's getrandom(). CRIU 4.1 restores the advice, as it does any other, but
does not save it; and it saves and restores what is in droppable memory. All copies then get the same from os.urandom,
secrets and uuid4. Left empty, such a state is as the kernel may leave it at any time, and is seeded anew
(include/vdso/getrandom.h, lib/vdso/getrandom.c).
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from snapruntime.mechanisms.images import UnknownImageError, dump, load
from snapruntime.values.host import Criu

Range = tuple[int, int]

#: The first CRIU that needs none of this.
_KNOWS = (4, 2, 0)
#: The advice in an image: a bit per number of madvise(2).
_WIPE_ON_FORK = 1 << 18
#: Flags of pagemap entries (images/pagemap.proto): the pages are in the file of pages.
_PE_PRESENT = 1 << 2


def mend_wiped(criu: Criu, images: Path, processes: Mapping[int, int]) -> None:
    """Mend the images of processes that are stopped, so that their memory is still as it was saved.

    Args:
        processes: the PID that each has in the images -> its PID here.

    Raises:
        UnknownImageError: an image cannot be changed.
        OSError: one cannot be written.
    """
    if criu.version >= _KNOWS:
        return
    for path in images.glob("mm-*.img"):
        number = int(path.stem.partition("-")[2])
        if number not in processes:
            raise UnknownImageError(f"{path.name} is of no process that is known")
        wiped, droppable = flagged(Path(f"/proc/{processes[number]}/smaps"))
        if wiped:
            mark_wiped(criu, path, wiped)
        if droppable:
            empty(criu, images, number, droppable)


def flagged(smaps: Path) -> tuple[set[Range], set[Range]]:
    """Start and end of the mappings that are wiped on fork, and of those that are droppable (proc(5): "wf", "dp")."""
    wiped, droppable = set(), set()
    bounds = 0, 0
    for line in smaps.read_text(errors="replace").splitlines():
        if match := re.match("([0-9a-f]+)-([0-9a-f]+) ", line):
            bounds = int(match[1], 16), int(match[2], 16)
        elif line.startswith("VmFlags:"):
            flags = line.split()[1:]
            if "wf" in flags:
                wiped.add(bounds)
            if "dp" in flags:
                droppable.add(bounds)
    return wiped, droppable


def mark_wiped(criu: Criu, path: Path, ranges: Collection[Range]) -> None:
    """Write into the image of a process's mappings that those with just these bounds are to be wiped in children."""
    document = load(criu, path)
    for vma in document["entries"][0]["vmas"]:
        if (vma["start"], vma["end"]) in ranges:
            vma["madv"] = vma.get("madv", 0) | _WIPE_ON_FORK
    dump(criu, document, path)


def empty(criu: Criu, images: Path, number: int, ranges: Collection[Range]) -> None:
    """Overwrite with zeros what was saved of these ranges of the process `number`."""
    head, *entries = load(criu, images / f"pagemap-{number}.img")["entries"]
    page, offset = os.sysconf("SC_PAGE_SIZE"), 0
    with open(images / f"pages-{head['pages_id']}.img", "r+b") as pages:
        for entry in entries:
            if not entry.get("flags", 0) & _PE_PRESENT:
                raise UnknownImageError(f"pagemap-{number}.img has pages that are elsewhere ({entry})")
            start, end = entry["vaddr"], entry["vaddr"] + entry["nr_pages"] * page
            for first, last in ranges:
                low, high = max(start, first), min(end, last)
                if low < high:
                    pages.seek(offset + low - start)
                    pages.write(bytes(high - low))
            offset += end - start
