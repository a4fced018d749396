"""Whether a snapshot may still be used: is everything that it was made from unchanged?

Two kinds of fact. The *identity* is what was asked for and where: handler, interpreter, environment, options, CRIU,
kernel, processor, the worker's own code; it is compared as it stands. The *inputs* are the files that init read or
mapped, with the names that an import could have found; a file whose size or times differ is compared by content, so
that a mere `touch` or a fresh checkout keeps the snapshot.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from snapruntime.mechanisms.sandbox import RUNTIME_FOLDER
from snapruntime.values.errors import RestoreError
from snapruntime.values.host import Criu, dotted
from snapruntime.values.model import Function

WORKER_FOLDER = Path(__file__).resolve().parents[1] / "worker"

#: Digest of a file that changed while it was read: it equals nothing, so the next run makes the snapshot anew.
_UNSETTLED = "changed while init ran"
_IMPORTABLE = (".py", ".pyc", ".so", ".pth", ".zip")


def identity_of(function: Function, criu: Criu, *, plain_images: bool = False) -> dict[str, Any]:
    """What a snapshot of `function` on this host depends on, besides files. JSON."""
    return {
        "handler": [function.task_root, function.module, function.attribute],
        # By its folder and file: python, python3 and python3.11 of one virtual environment are the same.
        "interpreter": [os.path.dirname(function.python), os.path.realpath(function.python)],
        "environment": dict(function.environment),
        "options": {
            "name": function.name,
            "version": function.version,
            "memory": function.memory_mb,
            "ro": list(function.read_only),
            "rw": list(function.writable),
            "user": [function.uid, function.gid],
            "plain-images": plain_images,
        },
        "worker code": _worker_code(),
        "CRIU": dotted(criu.version),
        "kernel": platform.release(),
        "processor": _processor(),
    }


def identity_changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs between two identities, in words."""
    changes = []
    for name in new:
        before, now = old.get(name), new[name]
        if before == now:
            continue
        if isinstance(before, dict) and isinstance(now, dict):
            kind = "environment variable " if name == "environment" else "option --"
            keys = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
            # Values may be secrets: only names are told.
            changes += [f"{kind}{key} {_how(key in before, key in now)}" for key in keys]
        elif name in ("CRIU", "kernel"):
            changes.append(f"{name} changed from {before} to {now}")
        else:
            changes.append(f"the {name} changed")
    return changes


def _how(was: bool, now: bool) -> str:
    return "changed" if was and now else "was added" if now else "was removed"


@cache
def _worker_code() -> str:
    digest = hashlib.sha256()
    for path in sorted(WORKER_FOLDER.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@cache
def _processor() -> str:
    """The instruction set: libraries choose their code by it at import, and the choice is in the snapshot."""
    facts = {}
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features", "CPU implementer", "CPU part"):
                facts[name.strip()] = value.strip()
    return f"{platform.machine()} {hashlib.sha256(repr(sorted(facts.items())).encode()).hexdigest()[:16]}"


def record_inputs(files: Iterable[str], search_path: Iterable[str], since_ns: int) -> dict[str, Any]:
    """The state of the files that init read, to be compared by `input_changes`.

    Args:
        files: absolute paths.
        search_path: the folders that imports were looked for in.
        since_ns: when init began, `time.time_ns()`: a file changed since then is not what init read.
    """

    def one(path: str) -> tuple[str, list[Any]] | None:
        try:
            status = os.stat(path)
            if not os.path.isfile(path):
                return None
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, ValueError):  # The latter for a name that can be none; the function sends them.
            return None
        changed = max(status.st_mtime_ns, status.st_ctime_ns) >= since_ns
        return path, [*_marks(status), _UNSETTLED if changed else digest]

    paths = sorted({path for path in files if not _is_ours(path)})
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = dict(item for item in pool.map(one, paths) if item is not None)
    return {"files": found, "names": {folder: _names_in(folder) for folder in search_path}}


def input_changes(inputs: dict[str, Any]) -> list[str]:
    """Which of the recorded files are not as they were, in words; at most a few."""
    changes = []
    for path, (*marks, digest) in inputs["files"].items():
        try:
            status = os.stat(path)
        except OSError:
            changes.append(f"{path} is gone")
            continue
        if _marks(status) != marks or digest == _UNSETTLED:
            try:
                with open(path, "rb") as file:
                    same = status.st_size == marks[0] and hashlib.file_digest(file, "sha256").hexdigest() == digest
            except OSError:
                same = False
            if not same:
                changes.append(f"{path} changed")
        if len(changes) > 4:
            return [*changes[:4], "and more"]
    for folder, names in inputs["names"].items():
        if _names_in(folder) != names:
            changes.append(f"modules were added to or removed from {folder}")
    return changes


class MappedFiles:
    """The files that a snapshot's process has mapped, and which each copy maps again."""

    def __init__(self, manifest: dict[str, Any]) -> None:
        """To be called right after `input_changes` found none."""
        self._seen = {path: _marks_of(path) for path in manifest["mapped_files"] if path in manifest["inputs"]["files"]}

    def check(self) -> None:
        """Look whether they are the files of before; about 2 µs each.

        Raises:
            RestoreError: one is not. Code and data of two versions in one process would go wrong in any way.
        """
        for path, marks in self._seen.items():
            if _marks_of(path) != marks:
                raise RestoreError(
                    f"{path} is not the file any more that the snapshot's process has mapped.",
                    hint="The snapshot must be made anew: run again, or open it again with Runtime.snapshot.",
                )


def _marks_of(path: str) -> list[int] | None:
    try:
        return _marks(os.stat(path))
    except OSError:
        return None


def _marks(status: os.stat_result) -> list[int]:
    # The time of change cannot be set back, as that of modification can (touch -r, rsync -t).
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _is_ours(path: str) -> bool:
    """The worker's own code is part of the identity; what lies in the sandbox's own folders is no file of the host."""
    return path.startswith((RUNTIME_FOLDER, "/proc/", "/dev/", "/sys/", "/run/"))


def _names_in(folder: str) -> str:
    """A digest of what an import could find in `folder`: a new json.py beside the handler changes what it imports."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(
                entry.name
                for entry in entries
                if entry.name.endswith(_IMPORTABLE)
                or (entry.name.isidentifier() and entry.name != "__pycache__" and entry.is_dir())
            )
    except OSError:
        return ""
    return hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:16]
