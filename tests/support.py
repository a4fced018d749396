"""Helpers of the tests: functions written to disk, and a census of everything that must not be left behind."""

from __future__ import annotations

import os
import re
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

import psutil

from snapruntime import Function, Runtime, resolve_function

#: Mounts that we or our tests may have made; others may come and go on a host that does other things meanwhile.
_OURS = re.compile("snapruntime|criu|pytest-")


class Write(Protocol):
    """The fixture `write`."""

    def __call__(self, source: str, /, **options: object) -> Function: ...


def write_files(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write files below `folder` for everybody to read, whatever the umask and pytest's own folders' modes are."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        for parent in path.relative_to(folder).parents:
            (folder / parent).chmod(0o755)
        path.write_bytes(content if isinstance(content, bytes) else textwrap.dedent(content).lstrip("\n").encode())
        path.chmod(0o644)


def write_function(
    folder: Path,
    source: str,
    *,
    name: str = "handler.py",
    files: Mapping[str, str | bytes] | None = None,
    **options: object,
) -> Function:
    """Write a function's code to `folder`, and resolve it.

    Args:
        source: the handler's module; is dedented, and begins with its first line that is not empty.
        name: its file.
        files: further files: path below the folder -> content.
        options: for `resolve_function`.
    """
    write_files(folder, {name: source, **(files or {})})
    return resolve_function(folder / name, **options)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Census:
    """What could be left behind, counted; two are compared with `left_since`."""

    processes: frozenset[str]
    descriptors: frozenset[str]
    mounts: frozenset[str]
    temporary: frozenset[str]
    shared_memory: frozenset[str]
    staging: frozenset[str]

    def left_since(self, before: Census) -> list[str]:
        """What is there now and was not before; each with its kind."""
        return [
            f"{field.name}: {thing}"
            for field in fields(self)
            for thing in sorted(getattr(self, field.name) - getattr(before, field.name))
        ]


def census(homes: Iterable[Path] = ()) -> Census:
    """Count processes, descriptors, mounts and files of ours. The dead who wait to be collected do not count.

    Args:
        homes: data folders whose snapshots in the making are counted.
    """
    return Census(
        processes=frozenset(_processes()),
        descriptors=frozenset(_descriptors()),
        mounts=frozenset(line for line in Path("/proc/self/mounts").read_text().splitlines() if _OURS.search(line)),
        temporary=frozenset(name for name in os.listdir("/tmp") if name.startswith(".criu")),
        shared_memory=frozenset(os.listdir("/dev/shm")),
        staging=frozenset(str(path) for home in homes for path in home.glob("snapshots/*/.new-*")),
    )


def _processes() -> Iterable[str]:
    """Our descendants, and any spawner or CRIU that has lost its parent; read in one go, as each test does it."""
    stats: dict[int, tuple[int, str, str]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                text = Path(f"/proc/{name}/stat").read_text(errors="replace")
            except OSError:
                continue  # Gone meanwhile.
            command, _, rest = text.partition("(")[2].rpartition(")")
            fields = rest.split()
            stats[int(name)] = int(fields[1]), fields[0], command
    ours = {os.getpid()}
    found = ours
    while found:
        found = {pid for pid, (parent, _, _) in stats.items() if parent in ours} - ours
        ours |= found
    for pid, (parent, state, command) in stats.items():
        orphan = parent == 1 and command in ("snap-spawner", "criu")
        if state != "Z" and (orphan or (pid in ours and pid != os.getpid())):
            yield f"{pid} {command}"


def _descriptors() -> Iterable[str]:
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # The one that lists the folder.
        if not target.startswith("/proc/"):
            yield f"{name} -> {target}"


def spawner_of(runtime: Runtime) -> psutil.Process:
    """The process that has all others below it: PID 1 of their PID namespace."""
    (inner,) = psutil.Process(runtime._spawner._process.pid).children()
    return inner


def wait_until(condition: Callable[[], bool], what: str, *, seconds: float = 10.0) -> None:
    """Wait for something that the kernel does in its own time and tells nobody about.

    Raises:
        AssertionError: it did not come about.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)


def assert_nothing_left(before: Census, homes: Iterable[Path] = (), *, seconds: float = 5.0) -> None:
    """Wait until all that came since `before` is gone; what is not after `seconds` is named."""
    homes = tuple(homes)
    left: list[str] = []

    def clean() -> bool:
        left[:] = census(homes).left_since(before)
        return not left

    try:
        wait_until(clean, "everything of ours is gone", seconds=seconds)
    except AssertionError:
        raise AssertionError("left behind:\n" + "\n".join(left)) from None
