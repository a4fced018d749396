"""Why a process could not be saved, in the user's words: which descriptor, what it is, who opened it, what to do."""

from __future__ import annotations

import contextlib
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
from snapruntime.values.host import CRIU_PREFERRED, dotted
from snapruntime.worker.wire import WireError
from snapruntime.workflows.launch import Launched

_ASK_DEADLINE_S = 5.0

#: Address families that CRIU says by number and people know by name (bits/socket.h).
_FAMILIES = {15: "AF_KEY", 31: "Bluetooth (AF_BLUETOOTH)", 29: "CAN (AF_CAN)", 38: "kernel crypto (AF_ALG)"}
_FAMILIES |= {40: "virtual machine (AF_VSOCK)", 44: "AF_XDP"}
#: Types of unix sockets, likewise (bits/socket_type.h).
_TYPES = {1: "stream", 2: "datagram", 5: "seqpacket"}
#: SO_PASSCRED, SO_PASSSEC: see `snapruntime.mechanisms.provision.candidates.shortcoming`.
_ASKS_IN_VAIN = re.compile(r"Can't get 1:(16|34) opt: Operation not supported")
#: How CRIU's log lists the unix sockets of the function's network namespace.
_UNIX = re.compile(r"Collected: ino (\d+) peer_ino (\d+) family +1 type +(\d+) state +\d+ name (.*)")

#: Ready-made hooks, by the package whose objects hold what they close.
_READY_MADE = {"psycopg": "postgresql", "psycopg2": "postgresql", "redis": "redis"}
_READY_MADE |= {"http": "http_client", "urllib3": "http_client", "logging": "logging"}
#: The same by where libpq's sockets are (unix_socket_directories of PostgreSQL), should no object of Python's show it.
_LIBPQ = re.compile(r"\.s\.PGSQL\.\d+")

_HOOKS = """\
Close it before the snapshot, and open it again after the restore. In the function's module:
    {imports}

    @register_before_snapshot
    def close_before_snapshot():
        {close}

    @register_after_restore
    def open_after_restore():
        {again}"""


@dataclass(frozen=True, slots=True)
class _Descriptor:
    """An open descriptor of the function: whose, its number, where it leads, what that is."""

    pid: int
    fd: int
    target: str
    what: str


def explain_refusal(error: CriuError, log: str, worker: Launched, module: str) -> SnapshotError:
    """The error to raise for a checkpoint that CRIU refused. The worker runs again, and is asked about descriptors.

    Args:
        error: what CRIU said.
        log: CRIU's whole log.
        module: the function's, as Lambda writes it.
    """
    if _ASKS_IN_VAIN.search(log):
        return SnapshotError(
            "The function has network sockets open, and this CRIU cannot save them on Linux 6.16 and newer; "
            f"{dotted(CRIU_PREFERRED)} can.",
            hint="Run `snapruntime setup`, which installs a newer CRIU where the mirror has it. Or close them in a "
            "before-snapshot hook.",
        )
    said = "; ".join(error.log[:3])
    culprit = _culprit(log, worker)
    if culprit is None:
        return SnapshotError(
            f"{error.message}: {said}",
            hint="Run again with --debug for all of CRIU's log. Close in a before-snapshot hook what it names.",
        )
    return _about(culprit, worker, module, f" CRIU says: {said}")


def explain_half_connection(inode: int, log: str, worker: Launched, module: str) -> SnapshotError:
    """The error to raise for a unix socket `inode` whose other end is outside the function. See `explain_refusal`."""
    for found in _descriptors(worker, log):
        if found.target == f"socket:[{inode}]":
            return _about(found, worker, module, "")
    return SnapshotError(
        f"The function cannot be saved: a unix socket of it (inode {inode}) is connected to a process outside.",
        hint="Close it in a before-snapshot hook, and connect again in an after-restore hook.",
    )


def _about(culprit: _Descriptor, worker: Launched, module: str, said: str) -> SnapshotError:
    owners, place, library = _ask(worker, culprit)
    ready_made = _READY_MADE.get(library.partition(".")[0]) or ("postgresql" if _LIBPQ.search(culprit.what) else "")
    parts = [
        f"The function cannot be saved: its descriptor {culprit.fd} is {culprit.what}, which cannot be in a snapshot."
    ]
    if owners:
        parts.append(f"It is held by {owners[0].replace(':', '.', 1)}" + (f" and opened at {place}." if place else "."))
    elif place:
        parts.append(f"It was opened at {place}.")
    if culprit.pid != worker.process.pid:
        parts.append(f"It belongs to a child process ({_command(culprit.pid)}).")
        hint = "End that process in a before-snapshot hook, and start it again in an after-restore hook."
    elif ready_made:
        hint = (
            f"The ready-made hook `{ready_made}` gives it back before the snapshot: --hook {ready_made}, or in the "
            f"function's module: from snapruntime.hooks import {ready_made}"
        )
    else:
        hint = _hooks(culprit.fd, owners[0].partition(" (")[0] if owners else "", place, module.replace("/", "."))
    return SnapshotError(" ".join(parts) + said, hint=hint, code="Snapruntime.UnsavableDescriptor")


def _hooks(fd: int, owner: str, place: str | None, module: str) -> str:
    """The hooks to add to `module`, as code that works there.

    Args:
        owner: "module:attribute", or what kind of object it is where no name leads to it.
        place: the line that opened it.
    """
    imports = ["from snapshot_restore_py import register_after_restore, register_before_snapshot"]
    where, colon, name = owner.partition(":")
    again = [f"# Open it again here, as {place} does." if place else "# Open it again here."]
    if not colon:
        imports.insert(0, "import os")
        close = f"os.close({fd})"
    elif where == module:
        close = f"{name}.close()"
        if name.isidentifier():
            again.insert(0, f"global {name}")
    else:
        imports.insert(0, f"import {where}")
        close = f"{where}.{name}.close()"
    if not again[0].startswith("global"):
        again.append("pass")
    return _HOOKS.format(imports="\n    ".join(imports), close=close, again="\n        ".join(again))


def _culprit(log: str, worker: Launched) -> _Descriptor | None:
    """The descriptor that CRIU was at when it gave up."""
    if "send_fds failed" in log:
        # CRIU's parasite sends all descriptors over a socket; io_uring's the kernel does not let pass.
        for found in _descriptors(worker, log):
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
    if last is None or "Can't dump page" in log:  # Memory is dumped after the descriptors.
        return None
    if "Dump files" not in log and "Can't dump" not in log and "external" not in log.lower():
        return None
    family = re.search(r"Unknown socket collected \(family (\d+)\)", log)
    for found in _descriptors(worker, log):
        if found.target in worker.channel_names:
            continue  # Ours: CRIU was at it when something else went wrong, and the function must not close it.
        if (found.pid == worker.process.pid or last[0] != worker.process.inner_pid) and found.fd == last[1]:
            # CRIU names the family only.
            what = f"a {_FAMILIES.get(int(family[1]), f'family {family[1]}')} socket" if family else found.what
            return _Descriptor(found.pid, found.fd, found.target, what)
    return None


def _descriptors(worker: Launched, log: str) -> Iterator[_Descriptor]:
    """All descriptors of the worker and its children, with what CRIU's log says of them."""
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
            yield _Descriptor(process.pid, number, target, _kind(process.pid, target, log))


def _kind(pid: int, target: str, log: str) -> str:
    if target.startswith("anon_inode:"):
        return f"an {target.removeprefix('anon_inode:').strip('[]')} object of the kernel"
    if match := re.fullmatch(r"socket:\[(\d+)\]", target):
        return _socket(pid, int(match[1]), log)
    if target.startswith("pipe:"):
        return "a pipe to a process outside"
    return f"the file {target}"


def _socket(pid: int, inode: int, log: str) -> str:
    """What kind of socket it is, and to whom a unix socket is connected."""
    unix = {int(found[1]): found for found in _UNIX.finditer(log)}
    if found := unix.get(inode):
        kind = f"a unix {_TYPES.get(int(found[3]), '')} socket".replace("  ", " ")
        peer = int(found[2])
        if not peer:
            # Of a connection that was not accepted yet, the kernel shows no other end.
            return kind
        # The other end is in the log only where it is in the function's own network namespace.
        name = unix[peer][4] if peer in unix else _bound_to(peer)
        return f"{kind}, connected to {name if name not in ('', 'null') else 'a process'} outside the function"
    for protocol in ("tcp", "udp", "raw", "icmp", "netlink", "packet"):
        for table in (protocol, f"{protocol}6"):
            with contextlib.suppress(OSError):
                if re.search(rf"\b{inode}\b", Path(f"/proc/{pid}/net/{table}").read_text("utf-8", "replace")):
                    return f"a {protocol.upper()} socket"
    return "a socket"


def _bound_to(inode: int) -> str:
    """The path that a unix socket of the host is bound to, where it has one."""
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as file:
        for line in file:
            fields = line.split(maxsplit=7)
            if len(fields) == 8 and fields[6] == str(inode):
                return fields[7].strip()
    return ""


def _ask(worker: Launched, culprit: _Descriptor) -> tuple[list[str], str | None, str]:
    """Let the worker look for the objects that hold the descriptor, the line that opened it, and whose library keeps
    it (see `snapruntime.worker.inputs`); empty where it does not know."""
    if culprit.pid != worker.process.pid:
        return [], None, ""
    deadline = time.monotonic() + _ASK_DEADLINE_S
    try:
        worker.channel.send(({"type": "describe_fd", "fd": culprit.fd}, b""), deadline=deadline)
        answer, _ = worker.channel.receive("fd_owner", deadline=deadline)
    except (TimeoutError, Disconnected, WireError):
        return [], None, ""
    place = answer.get("opened_at")
    owners = [str(owner) for owner in answer["owners"]]
    return owners, str(place) if place else None, str(answer["library"])


def _command(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline()) or str(pid)
    except psutil.Error:
        return str(pid)
