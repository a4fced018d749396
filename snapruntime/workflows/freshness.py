"""Whether a snapshot may still be used: is everything that it was made from unchanged?

Two kinds of fact. The *identity* is what was asked for and where: handler, interpreter, environment, options, CRIU,
kernel, processor, the worker's own code; it is compared as it stands. The *inputs* are the files that init read or
mapped, those that it could not open since they were not there, and the names in folders that it listed or that an
import could have found; a file whose size or times differ is compared by content, so that a mere `touch` or a fresh
checkout keeps the snapshot. What init asks for by stat(2) alone (os.path.exists) Python tells nobody about.
"""

from __future__ import annotations

import hashlib
import os
import platform
import stat
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from snapruntime.mechanisms import seccomp
from snapruntime.mechanisms.host_files import UNREAD, Reading, opened, proper
from snapruntime.values.errors import RestoreError
from snapruntime.values.host import Criu, dotted
from snapruntime.values.model import Function

WORKER_FOLDER = Path(__file__).resolve().parents[1] / "worker"
#: The ready-made hooks: `snapruntime.hooks`, in the source tree a link to the top-level folder.
HOOKS = (Path(__file__).resolve().parents[1] / "hooks").resolve()

#: Digest of a file that changed while it was read: it equals nothing, so the next run makes the snapshot anew.
_UNSETTLED = "changed while init ran"
_IMPORTABLE = (".py", ".pyc", ".so", ".pth", ".zip")


def identity_of(
    function: Function, criu: Criu, *, plain_images: bool = False, credentials: bool = False
) -> dict[str, Any]:
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
            "network": function.network,
            "user": [function.uid, function.gid],
            "hook": list(function.hooks),
            "plain-images": plain_images,
            "credentials": credentials,
        },
        "worker code of snapruntime": _worker_code(),
        "seccomp filter": hashlib.sha256(seccomp.program(platform.machine().upper())).hexdigest(),
        "CRIU": dotted(criu.version),
        "kernel": platform.release(),
        "processor": _processor(),
    }


def handler_file(function: Function) -> Path:
    """The file of the handler's module; the folder of the code, where a module is not as plain as that."""
    module = Path(function.task_root, *function.module.replace(".", "/").split("/"))
    files = (module.with_name(f"{module.name}.py"), module / "__init__.py", Path(function.task_root))
    return next(file for file in files if file.exists() or file == files[-1])


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
    for path in sorted([*WORKER_FOLDER.glob("*.py"), *HOOKS.glob("*.py")]):
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


def record_inputs(
    paths: Iterable[str],
    search_path: Iterable[str],
    since_ns: int,
    shown: Collection[str] = (),
    watch: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The state of what init looked at, to be compared by `input_changes`.

    Args:
        paths: files, folders that were listed, what is not there, and (with a slash at the end) folders where imports
            were looked for, as the function says: what else it names is left out.
        search_path: more such folders, those of every process with this interpreter.
        since_ns: when init began, `time.time_ns()`: what changed since then is not what init read.
        shown: folders that the function has under the host's names, though they may lie in /tmp.
        watch: called again and again; what it raises ends it.
    """
    shown = {*shown, *map(os.path.realpath, shown)}
    reading = Reading(watch)

    def one(path: str) -> tuple[str, str, list[Any]] | None:
        watch()
        try:
            with opened(path, shown) as (fd, status):
                if stat.S_ISDIR(status.st_mode):
                    kind, digest = "listed", _digest_of_names(os.listdir(fd))
                else:
                    kind, digest = "files", reading.digest(fd)
        except FileNotFoundError:
            return "absent", path, []
        except (OSError, ValueError):  # The latter for a name that can be none as well.
            return None
        changed = max(status.st_mtime_ns, status.st_ctime_ns) >= since_ns
        return kind, path, [*_marks(status), _UNSETTLED if changed else digest]

    inputs: dict[str, dict[str, Any]] = {"files": {}, "listed": {}, "absent": {}}
    # The worker's own code, which is part of the identity, lies in a folder of the sandbox's own as well.
    named = {(path.endswith("/"), proper(path, shown)) for path in paths}
    wanted = sorted(path for is_searched, path in named if path and not is_searched)
    searched = {*search_path, *(path for is_searched, path in named if path and is_searched)}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for found in pool.map(one, wanted):
            if found is not None:
                kind, path, state = found
                inputs[kind][path] = state
    return {**inputs, "names": {folder: _names_in(folder) for folder in sorted(searched)}}


def input_changes(inputs: dict[str, Any], watch: Callable[[], None] = lambda: None) -> list[str]:
    """What of the recorded is not as it was, in words; at most a few. For `watch` see `record_inputs`."""
    changes = []
    reading = Reading(watch)
    for path, (*marks, digest) in inputs["files"].items():
        try:
            status = os.stat(path)
        except OSError:
            changes.append(f"{path} is gone")
            continue
        if _marks(status) != marks or digest == _UNSETTLED:
            try:
                with opened(path) as (fd, _):
                    same = status.st_size == marks[0] and reading.digest(fd) == digest != UNREAD
            except (OSError, ValueError):  # Whatever has the name now.
                same = False
            if not same:
                changes.append(f"{path} changed")
        if len(changes) > 4:
            return [*changes[:4], "and more"]
    changes += [f"{path} is there now" for path in inputs["absent"] if os.path.exists(path)][:4]
    for folder, (*marks, digest) in inputs["listed"].items():
        if not _has_same_names(folder, marks, digest):
            changes.append(f"init listed {folder}, where something was added or removed")
    for folder, names in inputs["names"].items():
        if _names_in(folder) != names:
            changes.append(f"modules were added to or removed from {folder}")
    return changes


def _has_same_names(folder: str, marks: list[int], digest: str) -> bool:
    if _marks_of(folder) == marks and digest != _UNSETTLED:
        return True  # A folder's times tell of what is added or removed: hardly any has to be listed again.
    try:
        return _digest_of_names(os.listdir(folder)) == digest
    except OSError:
        return False


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


def _names_in(folder: str) -> str:
    """A digest of what an import could find in `folder`: a new json.py beside the handler changes what it imports."""
    try:
        with os.scandir(folder) as entries:
            return _digest_of_names(name for entry in entries if (name := _as_import(entry)))
    except (OSError, ValueError):  # The latter for a name that can be none.
        return ""


def _as_import(entry: os.DirEntry[str]) -> str:
    """What an import takes a folder's entry for; empty where it is nothing to it.

    A folder yields to data.py beside it, and to a data anywhere later, until there is an __init__.py in it.
    """
    if entry.name.endswith(_IMPORTABLE):
        return entry.name
    if not (entry.name.isidentifier() and entry.is_dir()):
        return ""
    return f"{entry.name}/" if os.path.exists(f"{entry.path}/__init__.py") else entry.name


def _digest_of_names(names: Iterable[str]) -> str:
    """Of a folder's content, but for the folder in which Python keeps what it compiled."""
    text = "\0".join(sorted(name for name in names if name != "__pycache__"))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
