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
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from snapruntime.mechanisms import linux
from snapruntime.mechanisms.pids import pid_of
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


def too_many_files(what: object) -> HostError:
    """The error where this process, the spawner or CRIU is refused a descriptor: of the host, and of no snapshot."""
    return HostError(
        f"The host refused what was asked of it: {what}",
        hint="Allow more open files (ulimit -n), or run fewer copies at once.",
    )


class SpawnerError(SnapruntimeError):
    """The spawner could not do what it was asked; `errno` is the kernel's answer, where there was one."""

    default_code = "Snapruntime.Spawner"

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__(f"{description['message']}")
        self.errno: int | None = description.get("errno")


class NotStartedError(SpawnerError):
    """A new process ended before its program began: one of the operations before that failed."""

    default_code = "Snapruntime.NotStarted"


class SpawnerTimeoutError(SpawnerError):
    """The spawner did not do it in time: it has been stopped, or waits for a disk."""

    default_code = "Snapruntime.SpawnerTimeout"

    def __init__(self) -> None:
        super().__init__({"message": "the spawner process did not answer in time", "errno": errno.ETIMEDOUT})


class Process:
    """A process below the spawner: a worker, CRIU, or a copy.

    Attributes:
        spawner: the one that it is below.
        pid: its PID as this process sees it.
        inner_pid: its PID as the spawner, and so CRIU, sees it.
        pidfd: refers to the process for as long as this object is open; becomes readable when the process ends.
        socket: a socket to the process, where one was asked for.
        socket_inode: the inode of its other end, which is the process's.
    """

    def __init__(self, spawner: Spawner, line: socket.socket, *, with_socket: bool = False) -> None:
        self.spawner = spawner
        self._line = line
        self._exit: Exit | None = None
        self.pid = self.inner_pid = self.pidfd = self.socket_inode = -1
        self.socket: socket.socket | None = None
        try:
            # The spawner and the new process write to the same line, in either order.
            while self.pidfd < 0 or (with_socket and self.socket is None):
                answer, fds = _receive(line, REQUEST_DEADLINE_S)
                if not fds and ("pid" in answer or "socket" in answer):
                    # The kernel keeps back what we have no number free for; closing the line ends the process.
                    raise SpawnerError({"message": os.strerror(errno.EMFILE), "errno": errno.EMFILE})
                if "pid" in answer:
                    self.inner_pid = int(answer["pid"])
                    (self.pidfd,) = fds
                elif "socket" in answer:
                    self.socket, self.socket_inode = socket.socket(fileno=fds[0]), int(answer["socket"])
                else:
                    raise SpawnerError(answer.get("error") or {"message": "the process ended before it had begun"})
            self.pid = pid_of(self.pidfd)
        except BaseException:
            line.close()
            if self.pidfd >= 0:
                os.close(self.pidfd)
            if self.socket is not None:
                self.socket.close()
            raise

    def wait(self, timeout: float) -> Exit | None:
        """Wait until the process has ended; None where it has not within `timeout` seconds.

        Raises:
            NotStartedError: what was to be executed could not be.
            SpawnerError: the spawner itself has ended.
        """
        if self._exit is None:
            try:
                answer, _ = _receive(self._line, timeout)
            except SpawnerTimeoutError:
                return None
            if "error" in answer:
                raise NotStartedError(answer["error"])
            status = int(answer["exit"])
            self._exit = Exit(
                os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
                os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
                int(answer["maxrss_kb"]),
            )
        return self._exit

    def alive(self) -> bool:
        """Whether it has not ended yet, so that its PID is still its own."""
        if self.pidfd < 0:
            return False
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return not poll.poll(0)

    def kill(self) -> None:
        """SIGKILL; a process that has ended already is no error."""
        if self.pidfd < 0:
            return
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return
        except PermissionError:  # We have lost CAP_KILL, and it is another user's. The spawner can: the lease is up.
            self._line.shutdown(socket.SHUT_WR)

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
            if self.socket is not None:
                self.socket.close()
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
        linux.allow_open_files()  # CRIU fails with less, and the spawner inherits ours.
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    # -P: without it the current folder, which may be a function's, comes before the standard library.
                    [sys.executable, "-P", "-S", "-m", "snapruntime.mechanisms.spawner", str(theirs.fileno())],
                    env={"PATH": os.defpath, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            except OSError as error:
                self._control.close()
                raise HostError(f"Cannot start a process: {error}") from error
        self._closers: set[weakref.WeakMethod[Callable[[], None]]] = set()
        self._start_lock = threading.Lock()
        self._undone: deque[Plan] = deque(maxlen=256)  # More than ever wait, where it is not for good.
        self._started = False

    def _await_start(self) -> None:
        """The spawner starts while its owner reads the snapshot; only the first request waits for it."""
        with self._start_lock:
            if self._started:
                return
            try:
                answer, _ = _receive(self._control, REQUEST_DEADLINE_S)
            except SpawnerError as error:
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
        with contextlib.ExitStack() as undo:
            payload = os.memfd_create("request", os.MFD_CLOEXEC)
            undo.callback(os.close, payload)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.enter_context(theirs)
            try:
                os.write(payload, json.dumps(request).encode())
                os.lseek(payload, 0, os.SEEK_SET)
                self._send([payload, theirs.fileno(), *fds])
            except OSError as error:
                ours.close()
                said = f"the spawner process has ended ({error})"
                raise SpawnerError({"message": said, "errno": error.errno}) from error
            except SpawnerTimeoutError:
                ours.close()
                raise
        return ours

    def _send(self, fds: list[int]) -> None:
        """One packet to the spawner: where it does not read, the socket is full after some hundred of them."""
        if self.closed:
            raise OSError(errno.EBADF, "it has been closed")
        poll = select.poll()
        poll.register(self._control, select.POLLOUT)
        deadline = time.monotonic() + REQUEST_DEADLINE_S
        while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            with contextlib.suppress(BlockingIOError):  # Another thread's packet took the room.
                socket.send_fds(self._control, [b"."], fds, socket.MSG_DONTWAIT)
                return
        raise SpawnerTimeoutError

    def run(self, plan: Plan) -> None:
        """Run a plan in the spawner itself: what it mounts stays until it is unmounted or the spawner ends.

        Raises:
            SpawnerError: an operation failed; those before it have been done.
        """
        with self._request({"op": "run", "plan": plan}) as line:
            answer, _ = _receive(line, REQUEST_DEADLINE_S)
        if "error" in answer:
            raise SpawnerError(answer["error"])

    def undo(self, plan: Plan) -> None:
        """Run a plan that takes something away. What cannot be done now (no descriptors) is done with the next.

        Where the spawner has ended there is nothing to take away. Raises nothing.
        """
        waiting = [plan]
        with contextlib.suppress(IndexError):
            while True:
                waiting.append(self._undone.popleft())
        for one in waiting:
            try:
                self.run(one)
            except SpawnerError as error:
                if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.EBADF):
                    self._undone.append(one)
            except HostError:  # It never came to life.
                return

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
        real: tuple[int, int] | None = None,
        socket_fd: int | None = None,
        socket_type: int = socket.SOCK_STREAM,
        criu: bool = False,
    ) -> Process:
        """Start a program.

        Args:
            argv: the program, by its absolute path as seen after `plan`, and its arguments.
            environment: all of its environment.
            fds: number in the program -> descriptor of ours. It gets no others but 0, 1 and 2.
            plan: operations to run before the program, inside its namespaces.
            namespaces: CLONE_NEW* flags of the namespaces it gets to itself.
            real: its real user and group where they are not to be root's (the effective ones stay).
            socket_fd: make a socket pair in its namespaces, whose one end is this number in the program, the other
                `Process.socket`.
            socket_type: of what type.
            criu: it may make more children of the spawner's.
        """
        request = {
            "op": "spawn",
            "argv": list(argv),
            "environment": dict(environment),
            "fds": list(fds),
            "plan": plan or [],
            "namespaces": namespaces,
            "real": real,
            "socket": None if socket_fd is None else [socket_fd, socket_type],
            "criu": criu,
        }
        return Process(self, self._request(request, list(fds.values())), with_socket=socket_fd is not None)

    def adopt(self, inner_pid: int) -> Process:
        """Take on a process that CRIU restored as the spawner's child."""
        return Process(self, self._request({"op": "adopt", "pid": inner_pid}))

    def path(self, inside: str) -> Path:
        """The file that the spawner, and CRIU below it, know as `inside`."""
        self._await_start()
        return Path(f"/proc/{self._process.pid}/root{inside}")

    def sweep(self, inode: int) -> None:
        """Kill what a CRIU that failed may have left, known by a memfd that it holds: that of CRIU's log."""
        with self._request({"op": "sweep", "inode": inode}) as line:
            _receive(line, REQUEST_DEADLINE_S)

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._control.fileno() < 0

    def alive(self) -> bool:
        """Whether its process is there: killed from outside, it takes all that it started with it."""
        return self._process.poll() is None

    def at_end(self, close: Callable[[], None]) -> None:
        """Have a method called when the spawner has been closed, if its object still is there then."""
        self._closers.add(weakref.WeakMethod(close, self._closers.discard))

    def close(self) -> None:
        """End the spawner; with it end all processes below it and all mounts made for them.

        Then whoever holds descriptors of such a process closes them (`at_end`).
        """
        self._control.close()
        self._process.send_signal(signal.SIGCONT)  # Somebody may have stopped it; it was waited for in vain.
        try:
            self._process.wait(REQUEST_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # Our own child, not waited for yet: the PID is its own.
            with contextlib.suppress(subprocess.TimeoutExpired):  # Held up in the kernel; it ends as soon as it can.
                self._process.wait(REQUEST_DEADLINE_S)
        for closer in list(self._closers):
            if (close := closer()) is not None:
                with contextlib.suppress(SnapruntimeError):
                    close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _receive(line: socket.socket, timeout: float) -> tuple[dict[str, Any], list[int]]:
    """One answer and its descriptors. Raises SpawnerTimeoutError, or SpawnerError where the spawner is gone."""
    poll = select.poll()
    poll.register(line, select.POLLIN)
    if not poll.poll(max(0.0, timeout) * 1000):
        raise SpawnerTimeoutError
    data, fds, _, _ = socket.recv_fds(line, 1 << 16, 4, socket.MSG_CMSG_CLOEXEC)
    if not data:
        raise SpawnerError({"message": "the spawner process has ended, or lacks descriptors"})
    return json.loads(data), list(fds)
