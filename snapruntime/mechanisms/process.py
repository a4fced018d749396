"""The supervisor's end of the spawner: start processes, follow them by pidfd, be told how they ended.

A `Process` is a lease. Closing it kills what it stands for; so does the end of the supervisor, however it ends.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from snapruntime.mechanisms.plan import Plan
from snapruntime.values.errors import HostError, SnapruntimeError

#: How long the spawner may take for one request, in seconds. It only forks and mounts; a slow disk is the worst case.
REQUEST_DEADLINE_S = 30.0

DOCTOR_HINT = "`snapruntime doctor` says what this host lacks."


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended.

    Attributes:
        status: its exit status, or None where a signal ended it.
        signal: the signal that ended it, or None.
        max_rss_kb: the most memory it ever had resident, KiB (its own pages; not those of its children).
    """

    status: int | None
    signal: int | None
    max_rss_kb: int

    def __str__(self) -> str:
        if self.signal is not None:
            return f"signal: {signal.strsignal(self.signal) or self.signal}".lower()
        return f"exit status {self.status}"


class SpawnerError(SnapruntimeError):
    """The spawner could not do what it was asked; `errno` is the kernel's answer, where there was one."""

    default_code = "Snapruntime.Spawner"

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__(f"{description['message']}")
        self.errno: int | None = description.get("errno")


class Process:
    """A process below the spawner: a worker, CRIU, or a copy.

    Attributes:
        pid: its PID as this process sees it.
        inner_pid: its PID as the spawner, and so CRIU, sees it.
        pidfd: refers to the process for as long as this object is open; becomes readable when the process ends.
        rpc: a SOCK_SEQPACKET socket to the process, where one was asked for.
    """

    def __init__(self, line: socket.socket, *, rpc: bool = False) -> None:
        self._line = line
        self._exit: Exit | None = None
        self.pid = self.inner_pid = self.pidfd = -1
        self.rpc: socket.socket | None = None
        try:
            # The spawner and the new process write to the same line, in either order.
            while self.pidfd < 0 or (rpc and self.rpc is None):
                answer, fds = _receive(line, REQUEST_DEADLINE_S)
                if not fds and ("pid" in answer or "rpc" in answer):
                    # The kernel keeps back what we have no number free for; closing the line ends the process.
                    raise SpawnerError({"message": os.strerror(errno.EMFILE), "errno": errno.EMFILE})
                if "pid" in answer:
                    self.inner_pid = int(answer["pid"])
                    (self.pidfd,) = fds
                elif "rpc" in answer:
                    self.rpc = socket.socket(fileno=fds[0])
                else:
                    raise SpawnerError(answer.get("error") or {"message": "the process ended before it had begun"})
            self.pid = _pid_of(self.pidfd)
        except BaseException:
            line.close()
            if self.pidfd >= 0:
                os.close(self.pidfd)
            raise

    def wait(self, timeout: float | None) -> Exit | None:
        """Wait until the process has ended; None where it has not within `timeout` seconds.

        Raises:
            SpawnerError: what was to be executed could not be, or the spawner itself has ended.
        """
        if self._exit is None:
            try:
                answer, _ = _receive(self._line, timeout)
            except TimeoutError:
                return None
            if "error" in answer:
                raise SpawnerError(answer["error"])
            status = int(answer["exit"])
            self._exit = Exit(
                os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
                os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
                int(answer["maxrss_kb"]),
            )
        return self._exit

    def kill(self) -> None:
        """SIGKILL; a process that has ended already is no error."""
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Kill the process if it is alive, wait for its end, and give its descriptors back."""
        if self.pidfd < 0:
            return
        try:
            if self._exit is None:
                self.kill()
                with contextlib.suppress(SpawnerError):
                    self.wait(REQUEST_DEADLINE_S)
        finally:
            self._line.close()
            if self.rpc is not None:
                self.rpc.close()
            os.close(self.pidfd)
            self.pidfd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Spawner:
    """Starts the spawner process and speaks with it. Safe for use by several threads.

    Raises:
        HostError: this host does not let us have namespaces and mounts of our own.
    """

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    # -P: without it the current folder, which may be a function's, comes before the standard library.
                    [sys.executable, "-P", "-S", "-m", "snapruntime.mechanisms.spawner", str(theirs.fileno())],
                    env={"PATH": os.defpath, "PYTHONPATH": str(Path(__file__).parents[2])},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            except OSError as error:
                self._control.close()
                raise HostError(f"Cannot start a process: {error}") from error
        self._start_lock = threading.Lock()
        self._started = False

    def _await_start(self) -> None:
        """The spawner starts while its owner reads the snapshot; only the first request waits for it."""
        with self._start_lock:
            if self._started:
                return
            try:
                answer, _ = _receive(self._control, REQUEST_DEADLINE_S)
            except (SpawnerError, TimeoutError) as error:
                raise HostError(f"The spawner process did not start: {error}", hint=DOCTOR_HINT) from error
            if "error" in answer:
                raise HostError(
                    f"This host does not allow namespaces and mounts of our own: {answer['error']['message']}",
                    hint=f"Run as root; in a container, with --privileged. {DOCTOR_HINT}",
                )
            self._started = True

    def _request(self, request: dict[str, Any], fds: Sequence[int] = ()) -> socket.socket:
        """Send a request; its answers come on the returned line."""
        self._await_start()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        payload = os.memfd_create("request", os.MFD_CLOEXEC)
        try:
            os.write(payload, json.dumps(request).encode())
            os.lseek(payload, 0, os.SEEK_SET)
            socket.send_fds(self._control, [b"."], [payload, theirs.fileno(), *fds])
        except OSError as error:
            ours.close()
            raise SpawnerError({"message": f"the spawner process has ended ({error})"}) from error
        finally:
            os.close(payload)
            theirs.close()
        return ours

    def run(self, plan: Plan) -> None:
        """Run a plan in the spawner itself: what it mounts stays until it is unmounted or the spawner ends.

        Raises:
            SpawnerError: an operation failed; those before it have been done.
        """
        with self._request({"op": "run", "plan": plan}) as line:
            answer, _ = _receive(line, REQUEST_DEADLINE_S)
        if "error" in answer:
            raise SpawnerError(answer["error"])

    def mounts(self, below: str) -> list[str]:
        """The mount points at or below `below` in the spawner's mount namespace, parents first."""
        with self._request({"op": "mounts", "below": below}) as line:
            answer, _ = _receive(line, REQUEST_DEADLINE_S)
        if "error" in answer:
            raise SpawnerError(answer["error"])
        return list(answer["mounts"])

    def spawn(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        fds: Mapping[int, int],
        plan: Plan | None = None,
        namespaces: int = 0,
        ruid: int | None = None,
        rpc_fd: int | None = None,
    ) -> Process:
        """Start a program.

        Args:
            argv: the program, by its absolute path as seen after `plan`, and its arguments.
            environment: all of its environment.
            fds: number in the program -> descriptor of ours. It gets no others but 0, 1 and 2.
            plan: operations to run before the program, inside its namespaces.
            namespaces: CLONE_NEW* flags of the namespaces it gets to itself.
            ruid: its real user and group where they are not to be root's (the effective ones stay).
            rpc_fd: make a socket pair, whose one end is this number in the program, the other `Process.rpc`.
        """
        request = {
            "op": "spawn",
            "argv": list(argv),
            "environment": dict(environment),
            "fds": list(fds),
            "plan": plan or [],
            "namespaces": namespaces,
            "ruid": ruid,
            "rpc_fd": rpc_fd,
        }
        return Process(self._request(request, list(fds.values())), rpc=rpc_fd is not None)

    def adopt(self, inner_pid: int) -> Process:
        """Take on a process that CRIU restored as the spawner's child."""
        return Process(self._request({"op": "adopt", "pid": inner_pid}))

    def path(self, inside: str) -> Path:
        """The file that the spawner, and CRIU below it, know as `inside`."""
        self._await_start()
        return Path(f"/proc/{self._process.pid}/root{inside}")

    def sweep(self, inode: int) -> None:
        """Kill what a CRIU that failed may have left, known by a memfd that it holds: that of CRIU's log."""
        with self._request({"op": "sweep", "inode": inode}) as line:
            _receive(line, REQUEST_DEADLINE_S)

    def close(self) -> None:
        """End the spawner; with it end all processes below it and all mounts made for them."""
        self._control.close()
        try:
            self._process.wait(REQUEST_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def host_pids(pid: int) -> dict[int, int]:
    """The processes at and below `pid`: from the PID that each has in its own PID namespace to the one it has here."""
    found: dict[int, int] = {}
    waiting = [pid]
    while waiting:
        process = waiting.pop()
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{process}/status").read_text("utf-8", "replace")
            inner = next(line.split()[-1] for line in status.splitlines() if line.startswith("NSpid:"))
            found[int(inner)] = process
            for children in Path(f"/proc/{process}/task").glob("*/children"):
                waiting += map(int, children.read_text("ascii").split())
    return found


def _receive(line: socket.socket, timeout: float | None) -> tuple[dict[str, Any], list[int]]:
    """One answer and its descriptors. Raises TimeoutError, or SpawnerError where the spawner is gone."""
    poll = select.poll()
    poll.register(line, select.POLLIN)
    if not poll.poll(None if timeout is None else max(0.0, timeout) * 1000):
        raise TimeoutError("the spawner did not answer in time")
    data, fds, _, _ = socket.recv_fds(line, 1 << 16, 4, socket.MSG_CMSG_CLOEXEC)
    if not data:
        raise SpawnerError({"message": "the spawner process has ended"})
    return json.loads(data), list(fds)


def _pid_of(pidfd: int) -> int:
    """The PID, in this process's own PID namespace, of what `pidfd` refers to; -1 or 0 where that is unknown."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        for line in file:
            if line.startswith("Pid:"):
                return int(line.split()[1])
    return 0
