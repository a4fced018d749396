"""Why a process could not be saved, in the user's words: which descriptor, what it is, who opened it, what to do."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from snapruntime.mechanisms.channel import Disconnected
from snapruntime.mechanisms.criu import CriuError
from snapruntime.values.errors import SnapshotError
from snapruntime.worker.wire import WireError
from snapruntime.workflows.launch import Launched

_ASK_DEADLINE_S = 5.0

#: Address families that CRIU says by number and people know by name (bits/socket.h).
_FAMILIES = {15: "AF_KEY", 31: "Bluetooth (AF_BLUETOOTH)", 29: "CAN (AF_CAN)", 38: "kernel crypto (AF_ALG)"}
_FAMILIES |= {40: "virtual machine (AF_VSOCK)", 44: "AF_XDP"}


@dataclass(frozen=True, slots=True)
class _Descriptor:
    """An open descriptor of the function: whose, its number, where it leads, what that is."""

    pid: int
    fd: int
    target: str
    what: str


def explain_refusal(error: CriuError, log: str, worker: Launched) -> SnapshotError:
    """The error to raise for a checkpoint that CRIU refused. The worker runs again, and is asked about descriptors.

    Args:
        error: what CRIU said.
        log: CRIU's whole log.
    """
    said = "; ".join(error.log[:3])
    culprit = _culprit(log, worker)
    if culprit is None:
        return SnapshotError(
            f"{error.message}: {said}",
            hint="Run again with --debug for all of CRIU's log. Close in a before-snapshot hook what it names.",
        )
    return _about(culprit, worker, f" CRIU says: {said}")


def explain_half_connection(inode: int, peer: int, worker: Launched) -> SnapshotError:
    """The error to raise for a unix socket `inode` whose other end, `peer`, is outside the function."""
    for found in _descriptors(worker):
        if found.target == f"socket:[{inode}]":
            what = f"a unix socket connected to {_name_of(peer)}, outside the function"
            return _about(_Descriptor(found.pid, found.fd, found.target, what), worker, "")
    return SnapshotError(
        f"The function cannot be saved: a unix socket of it (inode {inode}) is connected to a process outside.",
        hint="Close it in a before-snapshot hook, and connect again in an after-restore hook.",
    )


def _about(culprit: _Descriptor, worker: Launched, said: str) -> SnapshotError:
    owners, place = _ask(worker, culprit)
    owner = owners[0].partition(" (")[0] if owners else ""
    parts = [
        f"The function cannot be saved: its descriptor {culprit.fd} is {culprit.what}, which cannot be in a snapshot."
    ]
    if owners:
        parts.append(f"It is held by {owners[0]}" + (f" and opened at {place}." if place else "."))
    elif place:
        parts.append(f"It was opened at {place}.")
    if culprit.pid != worker.process.pid:
        parts.append(f"It belongs to a child process ({_command(culprit.pid)}).")
    close = f"{owner}.close()" if owner else f"os.close({culprit.fd})"
    return SnapshotError(
        " ".join(parts) + said,
        hint="Close it before the snapshot, and open it again after the restore:\n"
        "    @register_before_snapshot\n"
        "    def close_before_snapshot():\n"
        f"        {close}",
        code="Snapruntime.UnsavableDescriptor",
    )


def _culprit(log: str, worker: Launched) -> _Descriptor | None:
    """The descriptor that CRIU was at when it gave up."""
    if "send_fds failed" in log:
        # CRIU's parasite sends all descriptors over a socket; io_uring's the kernel does not let pass.
        for found in _descriptors(worker):
            if "io_uring" in found.target:
                return found
    last: tuple[int, int] | None = None
    for line in log.splitlines():
        if match := re.search(r"\b(\d+) fdinfo (\d+): pos", line):
            last = int(match[1]), int(match[2])
        elif "Error (" in line and "rlimit" not in line:
            break
    else:
        return None
    if last is None:
        return None
    if "Dump files" not in log and "Can't dump" not in log and "external" not in log.lower():
        return None
    family = re.search(r"Unknown socket collected \(family (\d+)\)", log)
    for found in _descriptors(worker):
        if (found.pid == worker.process.pid or last[0] != worker.process.inner_pid) and found.fd == last[1]:
            # CRIU names the family only.
            what = f"a {_FAMILIES.get(int(family[1]), f'family {family[1]}')} socket" if family else found.what
            return _Descriptor(found.pid, found.fd, found.target, what)
    return None


def _descriptors(worker: Launched) -> Iterator[_Descriptor]:
    """All descriptors of the worker and its children."""
    try:
        root = psutil.Process(worker.process.pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.Error:
        return
    for process in processes:
        folder = Path(f"/proc/{process.pid}/fd")
        try:
            numbers = sorted(int(entry.name) for entry in folder.iterdir())
        except OSError:
            continue
        for number in numbers:
            try:
                target = os.readlink(folder / str(number))
            except OSError:
                continue
            yield _Descriptor(process.pid, number, target, _kind(target))


def _kind(target: str) -> str:
    if target.startswith("anon_inode:"):
        return f"an {target.removeprefix('anon_inode:').strip('[]')} object of the kernel"
    if target.startswith("socket:"):
        return "a socket"
    if target.startswith("pipe:"):
        return "a pipe to a process outside"
    return f"the file {target}"


def _name_of(inode: int) -> str:
    """The path that a unix socket is bound to, where it has one."""
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as file:
        for line in file:
            fields = line.split(maxsplit=7)
            if len(fields) == 8 and fields[6] == str(inode):
                return fields[7].strip()
    return "a process"


def _ask(worker: Launched, culprit: _Descriptor) -> tuple[list[str], str | None]:
    """Let the worker look for the objects that hold the descriptor."""
    if culprit.pid != worker.process.pid:
        return [], None
    deadline = time.monotonic() + _ASK_DEADLINE_S
    try:
        worker.channel.send({"type": "describe_fd", "fd": culprit.fd}, deadline=deadline)
        answer, _ = worker.channel.receive("fd_owner", deadline=deadline)
    except (TimeoutError, Disconnected, WireError):
        return [], None
    place = answer.get("opened_at")
    return [str(owner) for owner in answer["owners"]], str(place) if place else None


def _command(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline()) or str(pid)
    except psutil.Error:
        return str(pid)
