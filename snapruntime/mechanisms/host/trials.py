"""Trials of what this process may do, each in a forked child of its own with namespaces of its own.

Started as a new interpreter by `run_trials`; what a trial mounts, makes or kills goes with the child that did it.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import signal
import stat
from collections.abc import Callable

from snapruntime.mechanisms import linux, seccomp
from snapruntime.mechanisms.cgroup import Cgroups, find_hierarchies
from snapruntime.mechanisms.host.isolated import child_argv, run_isolated
from snapruntime.mechanisms.plan import run_plan

#: Seconds for all trials together; they take 0.1 s.
DEADLINE_S = 60.0

_PRIVATE = linux.MS_REC | linux.MS_PRIVATE
_PTRACE_SEIZE = 0x4206
_OTHER_UID = 65534


def run_trials() -> dict[str, str | None]:
    """Try everything; the name of each trial with what went wrong, None where nothing did."""
    names = list(_trials())
    try:
        code, stdout, stderr = run_isolated(child_argv("trials"), DEADLINE_S)
        answer: dict[str, str | None] = json.loads(stdout)
    except (OSError, ValueError) as error:
        return dict.fromkeys(names, f"could not be tried: {error}")
    if code != 0:
        return dict.fromkeys(names, f"could not be tried: {stderr.strip()[-200:]}")
    return answer


def _trials() -> dict[str, Callable[[], None]]:
    return {
        "pid": _pid_namespace,
        "mnt": lambda: linux.unshare(linux.CLONE_NEWNS),
        "ipc": lambda: linux.unshare(linux.CLONE_NEWIPC),
        "uts": lambda: linux.unshare(linux.CLONE_NEWUTS),
        "net": lambda: linux.unshare(linux.CLONE_NEWNET),
        "time": lambda: linux.unshare(linux.CLONE_NEWTIME),
        "run": _tmpfs_on_run,
        "root": _root_of_our_own,
        "overlay": _overlay,
        "device": _device,
        "ptrace": _ptrace,
        "other_uid": _other_uid,
        "filter": _filter,
        "memory": lambda: _limit("memory"),
        "cpu": lambda: _limit("cpu"),
        "pids": lambda: _limit("pids"),
    }


def main() -> None:
    """In the new interpreter: run each trial in a fork, print the outcomes as JSON."""
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    print(json.dumps({name: _in_child(trial) for name, trial in _trials().items()}))


def _in_child(trial: Callable[[], None]) -> str | None:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        try:
            trial()
        except BaseException as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            os.write(write_end, reason.encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        message = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"  # as a seccomp filter does
    return message.decode(errors="replace") or None


def _own_mounts() -> None:
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("none", "/", None, _PRIVATE)


def _tmpfs(target: str) -> None:
    linux.mount("tmpfs", target, "tmpfs", linux.MS_NOSUID, "mode=0755,size=1m")


def _tmpfs_on_run() -> None:
    _own_mounts()
    _tmpfs("/run")


def _pid_namespace() -> None:
    """A PID namespace, with the /proc that belongs to it, as a worker's must be."""
    linux.unshare(linux.CLONE_NEWPID | linux.CLONE_NEWNS)

    def first() -> None:
        linux.mount("none", "/", None, _PRIVATE)
        linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)

    message = _in_child(first)
    if message is not None:
        raise OSError(message)


def _root_of_our_own() -> None:
    _own_mounts()
    _tmpfs("/run")
    os.mkdir("/run/usr")
    linux.mount("/usr", "/run/usr", None, linux.MS_BIND)
    os.mkdir("/run/old")
    linux.pivot_root("/run", "/run/old")


def _overlay() -> None:
    _own_mounts()
    _tmpfs("/run")
    for name in ("lower", "upper", "work", "top"):
        os.mkdir(f"/run/{name}")
    linux.mount("overlay", "/run/top", "overlay", 0, "lowerdir=/run/lower,upperdir=/run/upper,workdir=/run/work")


def _device() -> None:
    _own_mounts()
    _tmpfs("/run")
    os.mknod("/run/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.close(os.open("/run/null", os.O_RDWR))


def _other_uid() -> None:
    """Become another user and back to nobody's capabilities, as a worker does."""
    os.setgroups([])
    os.setresgid(_OTHER_UID, _OTHER_UID, _OTHER_UID)
    os.setresuid(_OTHER_UID, _OTHER_UID, _OTHER_UID)


def _filter() -> None:
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.filter_calls(seccomp.program(platform.machine().upper()))


def _limit(controller: str) -> None:
    """Put a process into a group of its own with limits, as a run does; version 2's controllers stay enabled."""
    found = [hierarchy for hierarchy in find_hierarchies() if controller in hierarchy.controllers]
    if not found:
        raise OSError("no control groups with it are mounted, or none of ours may be made there")
    groups = Cgroups(found)
    try:
        if controller in groups.unlimited:
            raise OSError("no group can be made there")
        reason = _in_child(lambda: run_plan(groups.surround("trial", 128)))
        run_plan(groups.remove("trial"))
    finally:
        groups.close()
    if reason is not None:
        raise OSError(reason)


def _ptrace() -> None:
    """Seize another process as CRIU does: parent and tracer with the user of the traced one as their real one."""
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(told, b".")
        signal.pause()
    os.read(ready, 1)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    try:
        if libc.ptrace(_PTRACE_SEIZE, pid, None, None) != 0:
            raise OSError(f"ptrace(SEIZE): {os.strerror(ctypes.get_errno())}")
    finally:
        os.kill(pid, signal.SIGKILL)
