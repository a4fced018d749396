"""The spawner: the one process that forks, in rooms of its own, so that nothing of ours outlives the supervisor.

It is PID 1 of a PID namespace and has a mount namespace to itself. Every worker, CRIU and restored copy lives below
it: when it ends, for whatever reason, the kernel kills them all and drops every mount that was made for them. It ends
when the supervisor does (end of file on its socket, and the parent-death signal for the case that it was stopped).

It is single-threaded and small, so it may run Python between fork and exec, which a supervisor with threads may not.

Protocol (this host only, same version on both ends): one SOCK_SEQPACKET socket. A request is one packet, of
one byte and these descriptors: first a memfd with the JSON request, then a SOCK_SEQPACKET socket of the
request's own (the *line*), then descriptors to hand on. Answers are JSON packets on the line. The line is also a
lease: when the supervisor closes its end of a process's line, that process is killed.

Requests:
  {"op": "run", "plan": [...]}                      -> {"ok": true} | {"error": {...}}
  {"op": "mounts", "below": PATH}                   -> {"ok": true, "mounts": [PATH, ...]}
  {"op": "spawn", "argv", "environment", "fds": [TARGET, ...], "real": [UID, GID] | null,
   "namespaces": FLAGS, "plan": [...],
   "socket": [TARGET, TYPE] | null, "criu": BOOL}   -> {"pid": N} + pidfd; {"socket": INODE} + its other end where
                                                       asked for; then {"exit": STATUS, "maxrss_kb": N}, or
                                                       {"error": {...}} where exec failed
  {"op": "adopt", "pid": N}                         -> as spawn, for a process that CRIU made our child
  {"op": "sweep", "inode": N}                       -> {"ok": true}; kills children that nobody adopted and which hold
                                                       the memfd N (CRIU's log): what a CRIU that failed left
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import sys
from typing import Any

from snapruntime.mechanisms import linux
from snapruntime.mechanisms.plan import mount_points_below, place_fd, run_plan

#: Where the spawner keeps what it mounts; on a tmpfs that only its own mount namespace has.
ROOM = "/run/snapruntime"
#: Folders of the host that the spawner has its own of, and where it sees the host's.
_HOST = {"/run": f"{ROOM}/host-run", "/tmp": f"{ROOM}/host-tmp"}

Line = socket.socket


def host_path(path: str) -> str:
    """Where the spawner, and CRIU below it, see what the host calls `path`. To be asked outside of the spawner."""
    path = os.path.realpath(path)  # A link may lead into one of the folders.
    for folder, place in _HOST.items():
        if path == folder or path.startswith(folder + "/"):
            return place + path.removeprefix(folder)
    return path


def _describe(error: BaseException) -> dict[str, Any]:
    return {"type": type(error).__name__, "message": str(error), "errno": getattr(error, "errno", None)}


def _send(line: Line, message: dict[str, Any], fds: list[int] | None = None) -> None:
    # Where the supervisor gave the process up there is nobody to tell; its line's hang-up is what we act on.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError, BlockingIOError):
        socket.send_fds(line, [json.dumps(message).encode()], fds or [], socket.MSG_DONTWAIT)


def _close_others(keep: set[int]) -> None:
    low = 0
    for fd in sorted(keep):
        if low < fd:  # CPython takes closerange(0, 0) for "all".
            os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, 1 << 20)


def _place_fds(sources: list[int], targets: list[int], line: Line) -> int:
    """Move `sources` to the numbers `targets`, close all else, and return the new number of the line's descriptor.

    Two passes, as a source may have a number that is another's target.
    """
    high = max([*targets, *sources, line.fileno(), 10]) + 1
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, high) for fd in sources]
    line_fd = fcntl.fcntl(line.fileno(), fcntl.F_DUPFD_CLOEXEC, high)
    for fd, target in zip(moved, targets, strict=True):
        place_fd(fd, target)
    _close_others({0, 1, 2, line_fd, *targets})
    return line_fd


#: What the spawner ignores: it ends with its supervisor. And what Python does, which writes to closed sockets.
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


def _become_child(request: dict[str, Any], fds: list[int], line: Line) -> None:
    """In the forked child: fds, namespaces, plan, exec. Never returns."""
    line_fd = line.fileno()
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        for number in (signal.SIGCHLD, *_IGNORED, *_IGNORED_BY_PYTHON):
            signal.signal(number, signal.SIG_DFL)
        line_fd = _place_fds(fds, request["fds"], line)
        os.setsid()
        if request["namespaces"]:
            linux.unshare(request["namespaces"])
        if request["socket"] is not None:
            # Made by the process itself: CRIU looks descriptors up in its peer's /proc/PID/fd, so the peer be CRIU; and
            # it sees the unix sockets of one network namespace only, so a worker's must be of the worker's.
            target, kind = request["socket"]
            ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
            answer = {"socket": os.fstat(ours.fileno()).st_ino}
            place_fd(ours.detach(), target)
            with socket.socket(fileno=os.dup(line_fd)) as told:
                _send(told, answer, [theirs.detach()])
        run_plan(request["plan"])
        if request["real"] is not None:
            # CRIU without CAP_SYS_RESOURCE may read the limits only of processes whose user is its real one.
            uid, gid = request["real"]
            os.setresgid(gid, 0, 0)
            os.setresuid(uid, 0, 0)
        os.execve(request["argv"][0], request["argv"], request["environment"])
    except BaseException as error:
        socket.socket(fileno=line_fd).send(json.dumps({"error": _describe(error)}).encode())
    finally:
        os._exit(127)


def _fork_in_pid_namespace(request: dict[str, Any], fds: list[int], line: Line) -> int:
    """Fork a child that is PID 1 of a new PID namespace; return its PID as seen here.

    unshare(CLONE_NEWPID) cannot be repeated in one process, so a go-between does it. The go-between's end makes the
    new process our child: we are PID 1 here.
    """
    read_end, write_end = os.pipe()
    try:
        between = os.fork()
    except OSError:  # No process may be made now; that must not cost descriptors each time.
        os.close(read_end)
        os.close(write_end)
        raise
    if between == 0:
        try:
            linux.unshare(linux.CLONE_NEWPID)
            pid = os.fork()
            if pid == 0:
                os.close(write_end)
                _become_child(request | {"namespaces": request["namespaces"] & ~linux.CLONE_NEWPID}, fds, line)
            os.write(write_end, str(pid).encode())
        except BaseException as error:
            _send(line, {"error": _describe(error)})
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(between, 0)
    if not answer:
        raise ChildProcessError("the kernel gave no new PID namespace")
    return int(answer)


def _memfd_inode(path: str) -> int | None:
    """Which memfd the descriptor at `path` is; None where it is something else, or closed meanwhile."""
    try:
        return os.stat(path).st_ino if os.readlink(path).startswith("/memfd:") else None
    except OSError:
        return None


def _kill(pid: int) -> None:
    """End a child that has not been collected, so that the PID cannot be another process's by now."""
    with contextlib.suppress(PermissionError):  # No CAP_KILL: it ends by the end of its channel, or with us.
        os.kill(pid, signal.SIGKILL)


class Spawner:
    """The loop: requests, deaths of children, hang-ups of lines. Each is an event of one poll object."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.lines: dict[int, Line] = {}  # fd of a line -> the line
        self.processes: dict[int, int] = {}  # PID -> fd of its line
        self.criu: set[int] = set()  # those of them that may make more children of ours
        self.unadopted: dict[int, set[int]] = {}  # dead children that nobody adopted -> CRIUs that were about then
        # poll(2) refuses to work where there are more descriptors than RLIMIT_NOFILE, which may be lowered at any time.
        self.poll = select.epoll()
        self.poll.register(control, select.EPOLLIN)
        # Open for good: the dead must be collected where no further descriptor is to be had, too.
        self.children = os.open("/proc/self/task/1/children", os.O_RDONLY | os.O_CLOEXEC)
        wake, self.wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.wake = wake
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)
        self.poll.register(wake, select.EPOLLIN)

    def run(self) -> None:
        while True:
            for fd, event in self.poll.poll():
                if fd == self.wake:
                    while True:
                        try:
                            if not os.read(self.wake, 4096):
                                break
                        except BlockingIOError:
                            break
                    self._reap()
                elif fd == self.control.fileno():
                    if not self._request():
                        return
                elif fd in self.lines and event & (select.EPOLLHUP | select.EPOLLERR | select.EPOLLIN):
                    self._hang_up(fd)

    def _request(self) -> bool:
        try:
            data, fds, _, _ = socket.recv_fds(self.control, 16, 64, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:  # The supervisor was killed with an answer unread.
            return False
        if not data:
            return False
        if len(fds) < 2:  # Out of descriptors: the kernel kept back what came with the request. Its line is closed.
            for fd in fds:
                os.close(fd)
            return True
        payload, line_fd, *rest = fds
        line = socket.socket(fileno=line_fd)
        try:
            with open(payload, "rb") as file:
                request = json.loads(file.read())
            self._answer(request, line, rest)
        except Exception as error:
            _send(line, {"error": _describe(error)})
        finally:
            for fd in rest:
                os.close(fd)
            if line.fileno() not in self.lines:
                line.close()
        return True

    def _answer(self, request: dict[str, Any], line: Line, fds: list[int]) -> None:
        match request["op"]:
            case "run":
                run_plan(request["plan"])
                _send(line, {"ok": True})
            case "mounts":
                _send(line, {"ok": True, "mounts": mount_points_below(request["below"])})
            case "spawn":
                if request["namespaces"] & linux.CLONE_NEWPID:
                    pid = _fork_in_pid_namespace(request, fds, line)
                else:
                    pid = os.fork()
                    if pid == 0:
                        _become_child(request, fds, line)
                self._adopt(pid, line, is_criu=request["criu"])
            case "adopt":
                self._adopt(request["pid"], line)
            case "sweep":
                self._sweep(request["inode"])
                _send(line, {"ok": True})
            case op:
                raise ValueError(f"unknown request {op!r}")

    def _adopt(self, pid: int, line: Line, *, is_criu: bool = False) -> None:
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            _kill(pid)  # Nobody will have a lease on it.
            raise
        self.unadopted.pop(pid, None)
        _send(line, {"pid": pid}, [pidfd])
        os.close(pidfd)
        self.lines[line.fileno()] = line
        self.processes[pid] = line.fileno()
        if is_criu:
            self.criu.add(pid)
        self.poll.register(line, select.EPOLLIN)
        self._reap()  # It may have ended before we knew of it.

    def _reap(self) -> None:
        """Collect the dead.

        What CRIU restored is nobody's until it is adopted, which happens before that CRIU is given up. So the dead
        whom nobody adopted never will be once every CRIU that was about when they died has ended: helpers of CRIU's,
        and what failed restores left. (There may always be a CRIU about, waiting for its request.)
        """
        for pid in list(self.processes):
            done, status, usage = os.wait4(pid, os.WNOHANG)
            if done:
                line = self._forget(pid)
                _send(line, {"exit": status, "maxrss_kb": usage.ru_maxrss})
                line.close()
        for pid in self._children():
            with contextlib.suppress(ChildProcessError):
                if pid in self.processes or os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                    continue
                left = self.unadopted[pid] = self.unadopted.get(pid, self.criu) & self.criu
                if not left:
                    os.waitpid(pid, 0)
                    del self.unadopted[pid]

    def _children(self) -> list[int]:
        os.lseek(self.children, 0, os.SEEK_SET)
        text = b""
        while part := os.read(self.children, 1 << 16):
            text += part
        return [int(pid) for pid in text.split()]

    def _sweep(self, inode: int) -> None:
        """Kill what a CRIU that failed left: such a process still holds CRIU's log, which it has until it is restored.

        (What CRIU is to hand to it, it has only late: before that CRIU keeps it in a socket of its own.)
        """
        for pid in self._children():
            if pid in self.processes:
                continue
            with contextlib.suppress(OSError):
                if any(_memfd_inode(f"/proc/{pid}/fd/{fd}") == inode for fd in os.listdir(f"/proc/{pid}/fd")):
                    os.kill(pid, signal.SIGKILL)

    def _forget(self, pid: int) -> Line:
        fd = self.processes.pop(pid)
        self.criu.discard(pid)
        with contextlib.suppress(FileNotFoundError):  # It was hung up.
            self.poll.unregister(fd)
        return self.lines.pop(fd)

    def _hang_up(self, fd: int) -> None:
        """The supervisor gave up its lease on a process: kill it, and let its death be seen as any other's."""
        self.poll.unregister(fd)
        for pid, line_fd in self.processes.items():
            if line_fd == fd:
                _kill(pid)


def _enter_rooms() -> None:
    """Mounts of our own: what is mounted here, nobody else sees, and it is gone when the last of us is.

    Two folders become ours. CRIU keeps its kernel probes in /run/criu.kdat, and only if that is a tmpfs; and it makes
    folders in /tmp that it leaves there when it is killed. The host's own stay reachable through `host_path`.
    """
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    # Built on /proc, which is mounted anew in the end: built in place, the binds would show our tmpfs.
    linux.mount("tmpfs", "/proc", "tmpfs", linux.MS_NOSUID, "mode=0755")
    for folder, place in _HOST.items():
        place = "/proc" + place.removeprefix("/run")
        os.makedirs(place)
        linux.mount(folder, place, flags=linux.MS_BIND | linux.MS_REC)
    linux.mount("/proc", "/run", flags=linux.MS_MOVE)
    linux.mount("tmpfs", "/tmp", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=0700")
    linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)


def _wait_for(pid: int) -> None:
    """Wait for the end of our child: one that was stopped is to go on when our parent has ended, or says so."""
    with contextlib.suppress(OSError):  # No descriptors: then who stopped it has to.
        child = os.pidfd_open(pid)

        def go_on(*_: object) -> None:
            with contextlib.suppress(ProcessLookupError):  # It may have ended, and been collected.
                signal.pidfd_send_signal(child, signal.SIGCONT)

        signal.signal(signal.SIGCONT, go_on)
        poll = select.poll()
        for watched in (child, os.pidfd_open(os.getppid())):
            poll.register(watched, select.POLLIN)
        poll.poll()
        go_on()
    os.waitpid(pid, 0)


def main() -> None:
    """Start as `python -m snapruntime.mechanisms.spawner FD`, FD being the control socket."""
    control = socket.socket(fileno=int(sys.argv[1]))
    os.umask(0o022)  # Folders that we make for functions must be open to their unprivileged user.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # Where our caller ignores it, the kernel collects our children.
    try:
        linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWPID)
        pid = os.fork()
    except OSError as error:
        _send(control, {"error": _describe(error)})
        sys.exit(3)
    if pid:
        # Our own end must end the namespace too: the supervisor's SIGKILL of this process is SIGKILL for its child.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        control.close()
        _wait_for(pid)
        return
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError):  # A kernel without keys, or a container that keeps them from us.
        linux.leave_session_keyring()
    with open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write("snap-spawner")
    # Once here, so that no process has to look: what our caller ignores (a shell's background job, nohup), no function
    # expects to be ignored.
    for number in signal.valid_signals() - set(_IGNORED_BY_PYTHON):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    try:
        _enter_rooms()
        spawner = Spawner(control)
    except OSError as error:
        _send(control, {"error": _describe(error)})
        sys.exit(3)
    _send(control, {"ok": True})
    spawner.run()


if __name__ == "__main__":
    main()
