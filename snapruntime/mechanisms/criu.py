"""The only caller of CRIU: one `criu swrk` process per request, spoken to by its RPC protocol (images/rpc.proto).

`start` forks a CRIU that waits for its request, so that the request itself costs no exec; the descriptors that a copy
inherits must exist by then. `dump` and `restore` send the one request. Every call has a deadline, since a capability
that is missing can make CRIU hang instead of fail.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import re
import select
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from snapruntime.mechanisms.channel import WATCH_INTERVAL_S
from snapruntime.mechanisms.plan import Operation
from snapruntime.mechanisms.process import Process, Spawner, SpawnerError, too_many_files
from snapruntime.mechanisms.spawner import host_path
from snapruntime.values.errors import HostError, SnapruntimeError
from snapruntime.values.host import Criu, dotted

_RPC_FD, _IMAGES_FD, _WORK_FD, _LOG_FD, _STDOUT_FD, _OPTIONS_FD = 3, 4, 5, 2, 1, 6
#: The first number free for descriptors that a copy inherits.
FIRST_INHERITED_FD = 10

#: A deleted file that was still open is kept in the images whole: up to what Lambda gives /tmp (512 MB).
_GHOST_LIMIT = 512 << 20

#: Let CRIU follow what it restores to its last system call by PTRACE_SYSCALL, as where processors have no breakpoints,
#: and not by a hardware breakpoint (criu/include/fault-injection.h). The first of these after a second without any
#: makes the kernel wait for all processors (kernel/events/core.c, account_event): some 10 ms of a restore.
_NO_BREAKPOINTS = {"CRIU_FAULT": "130"}
#: The first CRIU whose protocol knows leave_stopped, log_to_stderr, and a network lock that is none. Older ones take
#: the first from a configuration file, and the second as a log file of the name "-", which means their standard output.
_WHOLE_PROTOCOL = (3, 19, 0)
_DUMP_OPTIONS = b"leave-stopped\n"

#: Of either end of a log, bytes.
_LOG_SHOWN = 1 << 20

_import_lock = threading.Lock()


class CriuError(SnapruntimeError):
    """CRIU refused, failed, or did not answer in time.

    Attributes:
        log: the lines of CRIU's own log that name errors, oldest first.
        full_log: that log, as `CriuWorker.log` gives it.
    """

    default_code = "Snapruntime.Criu"

    def __init__(self, message: str, log: Sequence[str], full_log: str = "") -> None:
        super().__init__(message)
        self.log = tuple(log)
        self.full_log = full_log


@dataclass(frozen=True, slots=True)
class ExternalMount:
    """A mount that CRIU neither saves nor makes, but is handed.

    Attributes:
        key: its name in the images.
        point: where the process sees it.
        source: where CRIU finds it at the restore, in the spawner's mount namespace.
    """

    key: str
    point: str
    source: str


def import_pycriu(criu: Criu) -> Any:
    """Import the `pycriu` that belongs to `criu`: its messages must be those of that version.

    Raises:
        HostError: it is not there, or cannot be imported.
    """
    with _import_lock:
        if "pycriu" not in sys.modules:
            if criu.pycriu is not None:
                sys.path.append(str(criu.pycriu))
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)  # Protobuf's, about how it was generated.
                    module = importlib.import_module("pycriu")
                if not (hasattr(module, "rpc") and hasattr(module, "images")):
                    # Of half an installation: what is empty, or a bare folder, Python imports as well.
                    raise ImportError("parts of it are missing")
            except ImportError as error:
                sys.modules.pop("pycriu", None)  # The next try shall find it mended.
                raise HostError(
                    f"The Python module pycriu, which belongs to {criu.describe()}, cannot be imported: {error}",
                    hint="Run `snapruntime setup`; it brings pycriu where it is missing.",
                ) from error
            finally:
                if criu.pycriu is not None:
                    sys.path.remove(str(criu.pycriu))
        return sys.modules["pycriu"]


def command_line(criu: Criu) -> list[str]:
    """How the spawner starts CRIU: `Criu.argv` with the files where the spawner sees them."""
    return [host_path(part) if part.startswith("/") else part for part in criu.argv]


class CriuWorker:
    """A `criu swrk` that waits for its one request. Closing it kills it; what it restored goes on."""

    def __init__(
        self,
        spawner: Spawner,
        criu: Criu,
        images_fd: int,
        *,
        user: tuple[int, int],
        inherit: Sequence[int] = (),
        namespaces: int = 0,
        plan: Sequence[Operation] = (),
    ) -> None:
        """Start CRIU.

        Args:
            spawner: its parent, and that of what it restores.
            criu: which CRIU.
            images_fd: the folder of the images.
            user: the real user and group it runs as: those of the processes it is for.
            inherit: descriptors to keep for a restored process, in the order of `restore`'s keys.
            namespaces: CLONE_NEW* flags of the namespaces it gets to itself, and so what it restores.
            plan: what it does first. CRIU saves no namespace that it is in itself, nor makes it at a restore: what
                it restores inherits it.
        """
        self._criu = criu
        self._spawner = spawner
        self._old = criu.version < _WHOLE_PROTOCOL
        self._log_fd = os.memfd_create("criu-log", os.MFD_CLOEXEC)
        fds = {_LOG_FD: self._log_fd, _IMAGES_FD: images_fd}
        fds |= {FIRST_INHERITED_FD + index: fd for index, fd in enumerate(inherit)}
        try:
            with contextlib.ExitStack() as passed_on:
                if self._old:
                    options_fd = os.memfd_create("criu-options", os.MFD_CLOEXEC)
                    passed_on.callback(os.close, options_fd)
                    os.write(options_fd, _DUMP_OPTIONS)
                    fds |= {_STDOUT_FD: self._log_fd, _OPTIONS_FD: options_fd}
                self._process: Process = spawner.spawn(
                    [*command_line(criu), "swrk", str(_RPC_FD)],
                    environment={"PATH": os.defpath, "HOME": "/", **_NO_BREAKPOINTS},
                    fds=fds,
                    plan=[["open_folder", WORK_FOLDER, _WORK_FD], *plan],
                    namespaces=namespaces,
                    real=user,
                    socket_fd=_RPC_FD,
                    socket_type=socket.SOCK_SEQPACKET,
                    criu=True,
                )
        except BaseException:
            os.close(self._log_fd)
            raise

    def probe_kernel(self, deadline: float) -> None:
        """Let CRIU find out what this kernel can do; it keeps the answer in the spawner's /run for all that follow.

        This must be the first request below a spawner, and by root in every respect: one of the probes initialises
        libxtables, which exits (status 111) where real and effective user differ.

        Raises:
            CriuError: CRIU cannot work here.
        """
        rpc = import_pycriu(self._criu).rpc
        request = rpc.criu_req(type=rpc.FEATURE_CHECK)
        request.features.mem_track = True
        self._call(request, deadline)

    def dump(
        self,
        inner_pid: int,
        *,
        mounts: Sequence[ExternalMount],
        externals: Sequence[str],
        deadline: float,
        watch: Callable[[], None],
    ) -> None:
        """Write the images of the process tree at `inner_pid`, which is left stopped. On an error it goes on running.

        Args:
            watch: is called every `WATCH_INTERVAL_S` meanwhile; what it raises ends CRIU, and is raised.

        Raises:
            CriuError: with the error lines of CRIU's log.
            HostError: it was refused a descriptor, which says nothing of the process or its images.
        """
        rpc = import_pycriu(self._criu).rpc
        request = self._request(rpc, rpc.DUMP, log_level=4, deadline=deadline)
        request.opts.pid = inner_pid
        if self._old:
            request.opts.config_file = f"/proc/self/fd/{_OPTIONS_FD}"
        else:
            request.opts.leave_stopped = True
        request.opts.ext_unix_sk = True
        request.opts.link_remap = True
        request.opts.ghost_limit = _GHOST_LIMIT
        request.opts.external.extend(externals)
        request.opts.external.extend(f"mnt[{mount.point}]:{mount.key}" for mount in mounts)
        self._call(request, deadline, watch)

    def restore(
        self,
        *,
        root: str,
        mounts: Sequence[ExternalMount],
        inherited: Sequence[str],
        deadline: float,
        folded_mounts: bool = False,
        log_level: int = 1,
    ) -> Process:
        """Bring the images to life, as a child of the spawner's.

        Args:
            root: the mount that becomes the copy's `/`.
            mounts: where the other mounts come from.
            inherited: CRIU's keys (`socket:[INODE]`, …) of the descriptors given as `inherit`, in that order.
            deadline: `time.monotonic()` at which CRIU is given up.
            folded_mounts: the mounts below `root` come with it (`snapruntime.mechanisms.lean.fold_mounts`).
            log_level: 1 logs errors only. 4 logs all, and costs milliseconds.

        Raises:
            CriuError: with the error lines of CRIU's log; also where what came to life has ended at once.
            HostError: it was refused a descriptor, which says nothing of the process or its images.
            SpawnerError: the spawner cannot take it on.
        """
        rpc = import_pycriu(self._criu).rpc
        request = self._request(rpc, rpc.RESTORE, log_level=log_level, deadline=deadline)
        request.opts.root = root
        request.opts.rst_sibling = True
        request.opts.mntns_compat_mode = folded_mounts
        request.opts.external.extend(f"mnt[{mount.key}]:{mount.source}" for mount in mounts)
        for index, key in enumerate(inherited):
            request.opts.inherit_fd.add(key=key, fd=FIRST_INHERITED_FD + index)
        pid = int(self._call(request, deadline).restore.pid)
        try:
            return self._spawner.adopt(pid)
        except SpawnerError as error:
            if error.errno != errno.ESRCH:
                raise
            raise self._failed("What CRIU had restored had ended before it could be taken on") from error

    def _request(self, rpc: Any, kind: int, *, log_level: int, deadline: float) -> Any:
        request = rpc.criu_req(type=kind)
        opts = request.opts
        opts.images_dir_fd = _IMAGES_FD
        opts.work_dir_fd = _WORK_FD
        opts.log_level = log_level
        opts.timeout = max(1, int(deadline - time.monotonic()) + 1)
        # A connection's other end belongs to the process that was dumped, not to each copy: it comes back closed.
        opts.tcp_close = True
        opts.file_locks = True
        opts.manage_cgroups_mode = rpc.IGNORE
        if self._old:
            opts.log_file = "-"
        else:
            opts.log_to_stderr = True
            opts.network_lock = rpc.SKIP
        return request

    def _call(self, request: Any, deadline: float, watch: Callable[[], None] | None = None) -> Any:
        rpc = self._process.socket
        assert rpc is not None
        what = {1: "checkpoint", 2: "restore"}.get(request.type, "probe of this kernel")
        try:
            rpc.send(request.SerializeToString())
        except OSError:
            data: bytes | None = b""
        else:
            data = self._answer(rpc, deadline, watch)
        if data is None:
            self._process.kill()
            raise self._failed(f"CRIU did not finish the {what} in time and was stopped")
        if not data:
            ended = self._process.wait(5.0)
            raise self._failed(f"CRIU {dotted(self._criu.version)} ended during the {what} ({ended})")
        response = import_pycriu(self._criu).rpc.criu_resp()
        response.ParseFromString(data)
        if not response.success:
            raise self._failed(f"CRIU {dotted(self._criu.version)} refused the {what}")
        return response

    def _answer(self, rpc: socket.socket, deadline: float, watch: Callable[[], None] | None) -> bytes | None:
        """What CRIU answers; nothing where it ended instead, None where it does neither in time."""
        poll = select.poll()
        poll.register(rpc, select.POLLIN)
        # Half-restored processes hold the socket's other end too: its end of file does not tell of CRIU's own end.
        poll.register(self._process.pidfd, select.POLLIN)
        try:
            if not _await(poll, deadline, watch):
                return None
        except BaseException:  # Whatever `watch` raises: it is no word of CRIU's.
            self._process.kill()
            self._sweep()
            raise
        try:
            return rpc.recv(1 << 16, socket.MSG_DONTWAIT)
        except OSError:
            return b""

    def _failed(self, message: str) -> CriuError | HostError:
        """The error to raise, once nothing is left of what CRIU was at."""
        self._sweep()
        lines = self.error_lines()
        # Of a limit so low that its own descriptors have no room below it, CRIU has words of its own (servicefd.c).
        if any("Too many open files" in line or "service_fd_base" in line for line in lines):
            return too_many_files(f"{message}: {'; '.join(lines[:3])}")
        return CriuError(message, lines, self.log())

    def _sweep(self) -> None:
        """End what CRIU was at: half-restored processes, helpers of its own."""
        with contextlib.suppress(SpawnerError, OSError):
            self._spawner.sweep(os.fstat(self._log_fd).st_ino)

    def log(self) -> str:
        """What CRIU has logged so far; of much, the first and the last `_LOG_SHOWN` bytes.

        It has a line for each mapping, of which a function may have millions.
        """
        size = os.fstat(self._log_fd).st_size
        if size <= 2 * _LOG_SHOWN:
            data = os.pread(self._log_fd, size, 0)
        else:
            left_out = f"\n... {size - 2 * _LOG_SHOWN} bytes are left out here ...\n".encode()
            ends = (os.pread(self._log_fd, _LOG_SHOWN, at) for at in (0, size - _LOG_SHOWN))
            data = left_out.join(ends)
        return data.decode("utf-8", "replace")

    def error_lines(self) -> list[str]:
        """The log's lines that name errors, without CRIU's time stamps; warnings where there is no error."""
        lines = [re.sub(r"^\([\d.]+\)\s*", "", line).strip() for line in self.log().splitlines()]
        # It always tries to raise its own limit, and needs no more descriptors than it has.
        errors = [line for line in lines if "Error (" in line and "RLIMIT_NOFILE for self" not in line]
        return errors or [line for line in lines if "Warn" in line][-5:]

    def close(self) -> None:
        """End this CRIU if it still runs."""
        if self._log_fd >= 0:
            self._process.close()
            os.close(self._log_fd)
            self._log_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


#: Where CRIU writes its statistics; on the spawner's own tmpfs, so that they never pile up.
WORK_FOLDER = "/run/snapruntime/criu-work"


def _await(poll: select.poll, deadline: float, watch: Callable[[], None] | None) -> bool:
    """Whether there was an answer, or an end, by the deadline."""
    while True:
        left = max(0.0, deadline - time.monotonic())
        if poll.poll((left if watch is None else min(left, WATCH_INTERVAL_S)) * 1000):
            return True
        if left == 0 or watch is None:
            return False
        watch()
