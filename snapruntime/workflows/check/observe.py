"""What one process is and does, to be compared with others: objects, answer, log, files, requests to others."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from snapruntime.values.life import State
from snapruntime.values.model import Invocation
from snapruntime.workflows.check.answers import scan_of, seen_of
from snapruntime.workflows.instance import Instance

#: What is read of a process's /tmp: so many files, of each so many bytes, in so many folders of so many names.
_MAX_FILES, _MAX_BYTES, _MAX_FOLDERS, _MAX_NAMES = 200, 1 << 18, 100, 1000
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: What is always another, and says nothing: times in Lambda's own log lines, addresses in the repr of objects.
_NOISE = (
    (re.compile(r"\t\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z\t"), "\t<time>\t"),
    (re.compile(r'"timestamp": ?"[^"]*"'), '"timestamp": "<time>"'),
    (re.compile(r"\b0x[0-9a-f]{6,}\b"), "<address>"),
)
#: Where Linux puts objects and the stacks of threads, on x86-64 and on arm64: an id() or the identity of a thread is
#: another at each start and the same in all copies, and nobody takes it for unique. They are multiples of 16.
_ADDRESSES = tuple(
    range(first << 40, end << 40, 16) for first, end in ((0x55, 0x57), (0x7E, 0x80), (0xAA, 0xAB), (0xFF, 0x100))
)
_LONG = re.compile(r"\b[0-9]{14,15}\b")


@dataclass(frozen=True, slots=True)
class Run:
    """One event answered by one process.

    Attributes:
        scan: its objects before it got the event, see `snapruntime.worker.check.scan`; None where it did not tell.
        invocation: the answer.
        values: what it gave out, flat: "response.id" -> value; see `flatten`.
        texts: what it wrote: "log" and "/tmp/NAME" -> lines.
        dead: uses of connections that had died: [{error, place}].
        told: whether it told what it sent to others, where it was asked.
    """

    scan: dict[str, Any] | None
    invocation: Invocation
    values: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    dead: list[dict[str, Any]] = field(default_factory=list)
    told: bool = True


def observe(start: Callable[[], Instance], event: bytes, *, look: bool = True, scan: bool = True) -> Run:
    """What a process that waits for its first event is, and what it does with it.

    Args:
        start: makes one. Where a look at the first ended it, as an object of its can, a second is not looked at.
        look: whether it is looked at at all.
        scan: whether its objects are asked for, where it is; else only what it sends to others is.

    Raises: what `start` does.
    """
    if look:
        with start() as process:
            objects = scan_of(process.look("scan")) if scan else None
            process.look("watch")
            if process.state is not State.DEAD:
                return _run(process, event, objects, watched=not scan or objects is not None)
    with start() as process:
        return _run(process, event, None, watched=False)


def _run(process: Instance, event: bytes, scan: dict[str, Any] | None, *, watched: bool) -> Run:
    invocation = process.invoke(event)
    gone = invocation.error is not None and invocation.error.get("errorType") in (
        "Sandbox.Timedout",
        "Runtime.ExitError",
    )
    silent = gone or not watched
    seen = None if silent else seen_of(process.look("seen"))
    ids = invocation.request_id
    values: dict[str, Any] = {}
    if invocation.payload is not None:
        values.update(flatten("response", _parsed(invocation.payload), ids))
    for number, request in enumerate((seen or {}).get("requests", [])):
        name = f"request[{number}]"
        values.update(flatten(f"{name}.target", request["target"], ids))
        values.update(flatten(f"{name}.headers", request["headers"], ids))
    texts = {"log": _lines(invocation.logs, ids)}
    if process.state is not State.DEAD:
        for path, content in _files_of(process):
            try:
                values.update(flatten(path, json.loads(content), ids))
            except (ValueError, RecursionError):
                texts[path] = _lines(content.decode("utf-8", "replace"), ids)
    return Run(scan, invocation, values, texts, (seen or {}).get("dead", []), silent or seen is not None)


def _parsed(payload: bytes) -> Any:
    try:
        return json.loads(payload)
    except (ValueError, RecursionError):
        return payload.decode("utf-8", "replace")


def flatten(path: str, value: Any, request_id: str = "") -> Iterator[tuple[str, Any]]:
    """The parts of a JSON value that have none: ("response.items[0].id", "…"); the request's own id is taken out."""
    todo = [(path, value)]
    for path, part in todo:  # Grows while it is walked, so that depth has no limit.
        if isinstance(part, dict):
            todo += [(f"{path}.{key}", inner) for key, inner in part.items()]
        elif isinstance(part, list):
            todo += [(f"{path}[{index}]", inner) for index, inner in enumerate(part)]
        elif isinstance(part, str):
            yield path, _without_noise(part, request_id)
        elif part is not None:
            yield path, "<address>" if type(part) is int and _is_address(part) else part


def _is_address(number: int) -> bool:
    return any(number in addresses for addresses in _ADDRESSES)


def _without_noise(text: str, request_id: str) -> str:
    if request_id:
        text = text.replace(request_id, "<request id>")
    for pattern, instead in _NOISE:
        text = pattern.sub(instead, text)
    return _LONG.sub(lambda found: "<address>" if _is_address(int(found[0])) else found[0], text)


def _lines(text: str, request_id: str) -> list[str]:
    return [line for line in _without_noise(text, request_id).splitlines() if line.strip()]


def _files_of(process: Instance) -> Iterator[tuple[str, bytes]]:
    """The regular files in a process's /tmp: ("/tmp/NAME", the first bytes)."""
    try:
        top = os.open(f"/proc/{process.pid}/root/tmp", _FOLDER)
    except OSError:
        return
    try:
        if process.alive():  # Else the PID may have been another's by then.
            yield from files_below(top)
    finally:
        os.close(top)


def files_below(top: int) -> Iterator[tuple[str, bytes]]:
    """The regular files below the folder that the descriptor `top` has open, as of /tmp: ("/tmp/NAME", first bytes).

    The function can put a symlink or a FIFO in the place of any name between two looks at it: each is taken by the
    descriptor of its folder, without following, held by O_PATH, which opens nothing, and judged before it is opened.
    """
    count, device = 0, os.fstat(top).st_dev
    with contextlib.ExitStack() as opened:
        todo = [("/tmp", top)]
        for path, folder in todo:  # Grows while it is walked.
            with os.scandir(folder) as entries:
                names = sorted(entry.name for entry in itertools.islice(entries, _MAX_NAMES))
            for name in names:
                try:
                    held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                except OSError:
                    continue  # It has gone since.
                below, found = f"{path}/{name}", os.fstat(held)
                with contextlib.ExitStack() as looked, contextlib.suppress(OSError):
                    looked.callback(os.close, held)
                    if stat.S_ISREG(found.st_mode) and count < _MAX_FILES:
                        count += 1
                        with open(f"/proc/self/fd/{held}", "rb") as file:
                            yield below, file.read(_MAX_BYTES)
                    # The function's own code may be shown below /tmp; that is another mount.
                    elif stat.S_ISDIR(found.st_mode) and found.st_dev == device and len(todo) < _MAX_FOLDERS:
                        inner = os.open(f"/proc/self/fd/{held}", _FOLDER & ~os.O_NOFOLLOW)
                        opened.callback(os.close, inner)
                        todo.append((below, inner))


@dataclass(frozen=True, slots=True)
class Memory:
    """What a process holds, KB (smaps_rollup): resident, and written to by itself."""

    resident: int
    dirty: int


def memory_of(pid: int) -> Memory:
    found = {"Rss": 0, "Private_Dirty": 0}
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii", errors="replace") as file:
        for line in file:
            name, _, rest = line.partition(":")
            if name in found:
                found[name] = int(rest.split()[0])
    return Memory(found["Rss"], found["Private_Dirty"])
