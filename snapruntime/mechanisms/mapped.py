"""Mapped memory: images rewritten once, so that CRIU maps a snapshot's memory instead of reading it.

CRIU's images keep memory as pages that every restore reads into new memory. Here they are moved into one file, and the
mappings they belong to become private mappings of it: a copy shares the file's pages in the page cache with all others
until it writes to one. A restore then costs the same for a megabyte as for a gigabyte. CRIU itself is not changed; it
gets the file as an inherited descriptor (`MEMORY_KEY`), so that a snapshot's folder can be moved.

What is moved: private anonymous mappings, as far as they have content, and what was written to of private mappings of
files. The stretches that were never touched stay what they are, anonymous memory or the file's own pages. Short ones go
along where that can make no difference: in anonymous memory, as zeros, and in mappings of files that no copy can write
to (libraries), as the file's content. How large that may make the memory file is bounded (`pieces.SLACK`).

All that is not known to be safe stays as CRIU wrote it: stacks that grow, locked, huge, executable or wiped-on-fork
memory, everything shared. What such a mapping would do otherwise than the memory it stands for,
`snapruntime.mechanisms.guard` keeps from happening.

Where an image holds something unknown, nothing is changed at all (`CannotMapError` says why).
"""

from __future__ import annotations

import base64
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from snapruntime.mechanisms import guard, seccomp
from snapruntime.mechanisms.images import UnknownImageError, dump, load
from snapruntime.mechanisms.lean import fold_mounts, forget_build_ids
from snapruntime.mechanisms.pieces import SLACK, Part, Piece, Run, plan, without
from snapruntime.values.host import Criu

#: The memory file's name in the folder of the images; its name for CRIU, and the key it is handed over by.
MEMORY, MEMORY_NAME, MEMORY_KEY = "memory", "/snapmem", "snapmem"

# criu/include/image.h: the status of a mapping.
_REGULAR, _HEAP, _FILE_PRIVATE, _ANONYMOUS_PRIVATE, _GUARD = 1, 1 << 5, 1 << 6, 1 << 9, 1 << 16
# mmap(2): MAP_PRIVATE, MAP_ANONYMOUS, and those beside them that change nothing for us: MAP_NORESERVE, MAP_STACK.
_MAP_PRIVATE, _MAP_ANONYMOUS, _MAP_HARMLESS = 0x02, 0x20, 0x4000 | 0x20000
_PROT_EXEC = 4
#: madvise(2), bits by number: DONTFORK, MERGEABLE, HUGEPAGE, NOHUGEPAGE, DONTDUMP; the kernel takes them for private
#: mappings of files too (mm/ksm.c, vma_ksm_compatible: it merges pages of one's own only).
_MADVICE_HARMLESS = sum(1 << advice for advice in (10, 12, 14, 15, 16))
# criu/include/pagemap.h: a page's flags. PE_LAZY only says that userfaultfd could bring it.
_PE_LAZY, _PE_PRESENT = 2, 4
# seccomp(2): SECCOMP_FILTER_FLAG_TSYNC; _SPEC_ALLOW, since the worker ran without speculation limits too.
_TSYNC, _SPECULATION = 1, 4

#: The kernel's limit is 65530 mappings per process (vm.max_map_count).
_MAPPINGS = 16384


class CannotMapError(Exception):
    """The images have something that is not known here; they are as they were."""


def map_memory(
    criu: Criu, images: Path, host_pids: Callable[[int], int | None], own_mounts: Collection[str]
) -> dict[str, Any]:
    """Rewrite the images in the folder `images`; returns facts for the manifest.

    The processes must still be there, stopped: the files they map are read by way of them.

    Args:
        criu: what wrote the images.
        images: their folder; only whole sets of images ever stand under its name.
        host_pids: the PID that a process of the images has here.
        own_mounts: the mount points that are another mount in each copy.

    Raises:
        CannotMapError: nothing was changed; says why.
        OSError: the disk is full, or fails.
    """
    if os.statvfs(images).f_flag & os.ST_NOEXEC:
        raise CannotMapError(f"{images} is on a file system mounted noexec; memory could not be made executable")
    work = images.with_name(f"{images.name}.mapped")
    work.mkdir(mode=0o700)
    try:
        facts = _Rewriting(criu, images, work, host_pids).run(own_mounts)
        for path in images.iterdir():
            if not (work / path.name).exists():
                os.link(path, work / path.name)
        plain = images.with_name(f"{images.name}.plain")
        images.rename(plain)
        work.rename(images)
        shutil.rmtree(plain)
        return facts
    except (UnknownImageError, FileNotFoundError) as error:
        raise CannotMapError(str(error)) from error
    except (LookupError, TypeError, ValueError) as error:
        raise CannotMapError(f"the images have an unknown form: {error!r}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def is_ordinary(vma: dict[str, Any]) -> bool:
    """Whether a mapping of the images is private memory, anonymous or of a file, with nothing else to it.

    It is not where it is a stack that grows, locked, huge, wiped on fork, or something that is not known here.
    """
    if vma.get("madv", 0) & ~_MADVICE_HARMLESS:
        return False
    kinds = {
        _REGULAR | _ANONYMOUS_PRIVATE: _MAP_PRIVATE | _MAP_ANONYMOUS,
        _REGULAR | _FILE_PRIVATE: _MAP_PRIVATE,
    }
    return bool(vma["flags"] & ~_MAP_HARMLESS == kinds.get(vma["status"] & ~_HEAP))


def is_anonymous(vma: dict[str, Any]) -> bool:
    """Whether a mapping of the images is of no file."""
    return bool(vma["flags"] & _MAP_ANONYMOUS)


def cut(vma: dict[str, Any], start: int, end: int) -> dict[str, Any]:
    """A part of a mapping of the images."""
    offset = vma["pgoff"] if is_anonymous(vma) else vma["pgoff"] + start - vma["start"]
    return vma | {"start": start, "end": end, "pgoff": offset}


class _Rewriting:
    """One set of images on its way; writes to `work` only."""

    def __init__(self, criu: Criu, images: Path, work: Path, host_pids: Callable[[int], int | None]) -> None:
        self._criu = criu
        self._images = images
        self._work = work
        self._host_pids = host_pids
        self._page = os.sysconf("SC_PAGE_SIZE")
        self._files = self._load("files.img")
        self._regular = {entry["id"] for entry in self._files["entries"] if entry["type"] == "REG"}
        self._next_file = max((entry["id"] for entry in self._files["entries"]), default=0) + 1
        self._seccomp = self._load("seccomp.img")
        self._filters: list[dict[str, Any]] = self._seccomp["entries"][0].get("seccomp_filters", [])
        self._guarded = 0
        self._slack = SLACK

    def _load(self, name: str) -> dict[str, Any]:
        return load(self._criu, self._images / name)

    def _dump(self, document: dict[str, Any], name: str) -> None:
        dump(self._criu, document, self._work / name)

    def run(self, own_mounts: Collection[str]) -> dict[str, Any]:
        processes = [entry for entry in self._load("pstree.img")["entries"] if self._has_memory(entry["pid"])]
        with open(self._work / MEMORY, "wb") as memory:
            for process in processes:
                self._move(process["pid"], process["threads"], memory)
            size = memory.tell()
        if not size:
            raise CannotMapError("none of its memory is of a kind that can be")
        (self._work / MEMORY).chmod(0o400)
        folded = self._leave_out(own_mounts)
        self._dump(self._files, "files.img")
        if self._filters:  # pycriu cannot write an empty list.
            self._seccomp["entries"][0]["seccomp_filters"] = self._filters
            self._dump(self._seccomp, "seccomp.img")
        return {"bytes": size, "guarded": self._guarded, "folded_mounts": folded}

    def _leave_out(self, own_mounts: Collection[str]) -> bool:
        """What each restore would do again; see `snapruntime.mechanisms.lean`."""
        forget_build_ids(self._files)
        names = [path.name for path in self._images.glob("mountpoints-*.img")]
        if len(names) != 1:
            return False
        mounts = self._load(names[0])
        folded = fold_mounts(mounts, self._files, own_mounts)
        if folded:
            self._dump(mounts, names[0])
        return folded

    def _has_memory(self, pid: int) -> bool:
        return (self._images / f"mm-{pid}.img").exists()  # A zombie has none.

    def _move(self, pid: int, threads: list[int], memory: BinaryIO) -> None:
        mm, pagemap = self._load(f"mm-{pid}.img"), self._load(f"pagemap-{pid}.img")
        entry = mm["entries"][0]
        pages_name = f"pages-{pagemap['entries'][0]['pages_id']}.img"
        runs = list(self._runs(pagemap["entries"][1:]))
        guards = [(vma["start"], vma["end"]) for vma in entry["vmas"] if vma["status"] & _GUARD]
        parts = {
            index: part
            for index, vma, inside in _with_runs(entry["vmas"], runs)
            if (part := self._part(pid, vma, inside, guards))
        }
        pieces, self._slack = plan(parts, self._slack)
        if len(entry["vmas"]) + 2 * sum(map(len, pieces.values())) > _MAPPINGS:
            raise CannotMapError("the memory is in too many parts")
        # One entry per process: CRIU takes mappings of a parent and its child with the same file for the same memory.
        file_id = self._add_file()
        with open(self._images / pages_name, "rb") as pages:
            offsets = {
                index: self._write(pid, entry["vmas"][index], found, pages, memory) for index, found in pieces.items()
            }
            entry["vmas"] = [
                part
                for index, vma in enumerate(entry["vmas"])
                for part in _split(vma, pieces.get(index, []), offsets.get(index, []), file_id)
            ]
            everything = [piece for found in pieces.values() for piece in found]
            pagemap["entries"][1:] = self._keep(runs, everything, pages, pages_name)
        self._dump(mm, f"mm-{pid}.img")
        self._dump(pagemap, f"pagemap-{pid}.img")
        self._guard(threads, [(piece.start, piece.end) for piece in everything])

    def _runs(self, entries: list[dict[str, Any]]) -> Iterator[Run]:
        offset = 0
        for entry in entries:
            flags = entry.get("flags", 0)
            if entry.get("in_parent") or flags & ~_PE_LAZY != _PE_PRESENT or "nr_pages" not in entry:
                raise CannotMapError(f"pages of an unknown kind ({entry})")
            size = entry["nr_pages"] * self._page
            yield Run(entry["vaddr"], entry["vaddr"] + size, offset, flags)
            offset += size

    def _part(self, pid: int, vma: dict[str, Any], runs: list[Run], guards: list[tuple[int, int]]) -> Part | None:
        """What of a mapping can be moved: nothing, where it is not known to be safe."""
        if not runs or vma["prot"] & _PROT_EXEC or not is_ordinary(vma):
            return None
        start, end = vma["start"], vma["end"]
        inside = [guarded for guarded in guards if start < guarded[1] and guarded[0] < end]
        if is_anonymous(vma):
            return Part(start, end, runs, inside)
        if vma["shmid"] not in self._regular:
            return None
        return Part(start, end, runs, inside, vma["pgoff"], self._fixed(pid, vma))

    def _fixed(self, pid: int, vma: dict[str, Any]) -> int:
        """Up to where a mapping shows a file that no copy can write to; its start where one could.

        Beyond the end of the file it is the kernel that answers, with SIGBUS: that cannot be moved.
        """
        fd = self._open_mapped(pid, vma)
        if fd == -1:
            return int(vma["start"])
        try:
            size = os.fstat(fd).st_size - vma["pgoff"] if os.fstatvfs(fd).f_flag & os.ST_RDONLY else 0
            return int(min(vma["end"], vma["start"] + -(-max(0, size) // self._page) * self._page))
        finally:
            os.close(fd)

    def _open_mapped(self, pid: int, vma: dict[str, Any]) -> int:
        """The file that a mapping is of, opened by way of the process; -1 where it cannot be, or is none."""
        host_pid = self._host_pids(pid)
        if host_pid is None:
            return -1
        try:
            fd = os.open(f"/proc/{host_pid}/map_files/{vma['start']:x}-{vma['end']:x}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return -1
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            return -1
        return fd

    def _write(
        self, pid: int, vma: dict[str, Any], pieces: list[Piece], pages: BinaryIO, memory: BinaryIO
    ) -> list[int]:
        """Append the content of a mapping's pieces to the memory file; returns where each begins there."""
        if all(piece.file is None for piece in pieces):
            return [self._append(piece, pages, memory) for piece in pieces]
        fd = self._open_mapped(pid, vma)
        if fd == -1:
            raise CannotMapError("a file that is mapped cannot be opened any more")
        try:
            return [self._append(piece, pages, memory, fd) for piece in pieces]
        finally:
            os.close(fd)

    def _append(self, piece: Piece, pages: BinaryIO, memory: BinaryIO, fd: int = -1) -> int:
        memory.flush()
        out, base = memory.fileno(), memory.tell()
        if piece.file is not None:
            _copy(fd, piece.file, out, base, piece.end - piece.start, short=True)
        for run in piece.runs:
            _copy(pages.fileno(), run.offset, out, base + run.start - piece.start, run.end - run.start)
        memory.truncate(base + piece.end - piece.start)
        memory.seek(0, os.SEEK_END)
        return base

    def _keep(self, runs: list[Run], moved: list[Piece], pages: BinaryIO, pages_name: str) -> list[dict[str, Any]]:
        """Write the pages that CRIU is still to read; returns their entries."""
        entries = []
        with open(self._work / pages_name, "wb") as out:
            at = 0
            for run in without(runs, moved):
                size = run.end - run.start
                _copy(pages.fileno(), run.offset, out.fileno(), at, size)
                at += size
                entries.append(
                    {"vaddr": run.start, "compat_nr_pages": 0, "flags": run.flags, "nr_pages": size // self._page}
                )
        return entries

    def _add_file(self) -> int:
        file_id, self._next_file = self._next_file, self._next_file + 1
        owner = {"uid": 0, "euid": 0, "signum": 0, "pid_type": 0, "pid": 0}
        regular = {"id": file_id, "flags": os.O_RDONLY, "pos": 0, "fown": owner, "name": MEMORY_NAME, "mnt_id": -1}
        self._files["entries"].append({"type": "REG", "id": file_id, "reg": regular})
        return file_id

    def _guard(self, threads: list[int], ranges: list[guard.Range]) -> None:
        """Put the filter into every thread, before those that the function has itself."""
        if not ranges:
            return
        cores = {thread: self._load(f"core-{thread}.img") for thread in threads}
        leader, *others = [cores[thread]["entries"][0] for thread in threads]
        architecture = leader["mtype"]
        registers = leader.get("thread_info", {}).get("gpregs", {})
        if architecture not in guard.ARCHITECTURES or registers.get("mode", "NATIVE") != "NATIVE":
            raise CannotMapError(f"there is no guard for processes of the architecture {architecture}")
        states = [core["thread_core"] for core in (leader, *others)]
        modes = {state.get("seccomp_mode", "disabled") for state in states}
        if not modes <= {"disabled", "filter"}:
            raise CannotMapError(f"a thread has seccomp mode {', '.join(sorted(modes))}")
        self._guarded += len(guard.merged(ranges))
        if all(state.get("seccomp_mode", "disabled") == "disabled" for state in states[1:]):
            # They have no filter, or the leader's own are to be handed to them: so is this one.
            self._chain(states[0], architecture, ranges, _TSYNC | _SPECULATION)
        elif not any(flags & _TSYNC for state in states for flags in self._flags_of(state)):
            for state in states:
                self._chain(state, architecture, ranges, _SPECULATION)
        else:
            raise CannotMapError("its threads have seccomp filters that CRIU would hand on and others beside them")
        for thread, core in cores.items():
            self._dump(core, f"core-{thread}.img")

    def _flags_of(self, state: dict[str, Any]) -> Iterator[int]:
        index: int | None = state["seccomp_filter"] if state.get("seccomp_mode") == "filter" else None
        while index is not None:
            yield self._filters[index].get("flags", 0)
            index = self._filters[index].get("prev")

    def _chain(self, state: dict[str, Any], architecture: str, ranges: list[guard.Range], flags: int) -> None:
        # CRIU installs a thread's own entry first, then that entry's `prev`, and so on: a filter that was installed
        # earlier cannot forbid this one.
        chained: dict[str, Any] = {}
        program = guard.program(architecture, ranges)
        if state.get("seccomp_mode") == "filter":
            chained, its = {"prev": state["seccomp_filter"]}, self._filters[state["seccomp_filter"]]
            if "prev" not in its and base64.decodebytes(its["filter"].encode()) == seccomp.program(architecture):
                # All it has is the sandbox's: both become one.
                chained, program, flags = {}, seccomp.program(architecture, ranges), flags | its.get("flags", 0)
        self._filters.append({"filter": base64.encodebytes(program).decode(), **chained, "flags": flags})
        state["seccomp_mode"], state["seccomp_filter"] = "filter", len(self._filters) - 1


def _with_runs(vmas: list[dict[str, Any]], runs: list[Run]) -> Iterator[tuple[int, dict[str, Any], list[Run]]]:
    """Each mapping with the pages in it; runs go on from one mapping into the next."""
    at = 0
    for index, vma in enumerate(vmas):
        if vma["status"] & _GUARD:
            continue
        inside = []
        while at < len(runs) and runs[at].end <= vma["start"]:
            at += 1
        look = at
        while look < len(runs) and runs[look].start < vma["end"]:
            run = runs[look]
            inside.append(run.part(max(run.start, vma["start"]), min(run.end, vma["end"])))
            look += 1
        yield index, vma, inside


def _split(vma: dict[str, Any], pieces: list[Piece], offsets: list[int], file_id: int) -> Iterator[dict[str, Any]]:
    """A mapping as its moved pieces and what is left of it between them."""
    at = vma["start"]
    for piece, offset in zip(pieces, offsets, strict=True):
        if at < piece.start:
            yield cut(vma, at, piece.start)
        yield vma | {
            "start": piece.start,
            "end": piece.end,
            "pgoff": offset,
            "shmid": file_id,
            "flags": vma["flags"] & ~_MAP_ANONYMOUS,
            "status": _REGULAR | _FILE_PRIVATE,
            "fdflags": os.O_RDONLY,
        }
        at = piece.end
    if at < vma["end"]:
        yield cut(vma, at, vma["end"])


def _copy(source: int, at: int, target: int, to: int, size: int, *, short: bool = False) -> None:
    """Copy bytes between files; with `short`, the source may end earlier."""
    done = 0
    while done < size:
        data = os.pread(source, min(size - done, 4 << 20), at + done)
        if not data:
            if short:
                return
            raise CannotMapError("a file of pages is shorter than its map says")
        written = 0
        while written < len(data):
            written += os.pwrite(target, memoryview(data)[written:], to + done + written)
        done += len(data)
