"""Operations on mounts and files as data: a plan can be printed, sent to the spawner, and run there.

A plan is a list of operations; an operation is a list whose first item names it, the rest being its arguments, so
that a plan survives JSON. Building plans is `snapruntime.mechanisms.sandbox`'s business. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import shutil
import signal
import socket
import stat
import time
from collections.abc import Callable
from typing import Any

from snapruntime.mechanisms import linux

Operation = list[Any]
Plan = list[Operation]

#: How long the kernel may take to let go of a control group whose processes have been killed, seconds.
_GROUP_EMPTY_S = 5.0


def run_plan(plan: Plan) -> None:
    """Run each operation in order; the first that fails raises `OSError` naming it and its arguments."""
    for name, *arguments in plan:
        OPERATIONS[name](*arguments)


def mount_points_below(root: str) -> list[str]:
    """The mount points at or below `root` in this mount namespace, parents first."""
    found = []
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            # The kernel writes blanks and backslashes as octal numbers (proc(5)).
            raw = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), line.split(b" ")[4])
            point = os.fsdecode(raw)
            if point == root or point.startswith(root.rstrip("/") + "/"):
                found.append(point)
    return found


def place_fd(fd: int, target: int) -> None:
    """Move descriptor `fd` to the number `target`, to be kept over exec; dup2 leaves close-on-exec where they agree."""
    if fd == target:
        os.set_inheritable(fd, True)
        return
    os.dup2(fd, target, inheritable=True)
    os.close(fd)


def _bind(source: str, target: str, flags: int) -> None:
    """Bind `source` on `target` with everything mounted below it, and give each part the mount flags `flags`."""
    linux.mount(source, target, flags=linux.MS_BIND | linux.MS_REC)
    for point in mount_points_below(target):
        # A remount must repeat the flags that the mount is locked to have, or the kernel refuses it in a container.
        linux.mount("none", point, flags=linux.MS_BIND | linux.MS_REMOUNT | flags | _locked_flags(point))


def _locked_flags(point: str) -> int:
    flags = os.statvfs(point).f_flag
    pairs = ((os.ST_NOSUID, linux.MS_NOSUID), (os.ST_NODEV, linux.MS_NODEV), (os.ST_NOEXEC, linux.MS_NOEXEC))
    kept = sum(mount_flag for statvfs_flag, mount_flag in pairs if flags & statvfs_flag)
    # MS_NOATIME, MS_NODIRATIME and MS_RELATIME have the same values in statvfs(3) and mount(2) but for RELATIME.
    return kept | flags & (os.ST_NOATIME | os.ST_NODIRATIME) | (1 << 21 if flags & os.ST_RELATIME else 0)


def _mount_point(path: str, like: str) -> None:
    """Make what can be mounted on at `path`: a folder where `like` is a folder, an empty file where it is a file."""
    if os.path.isdir(like):
        os.makedirs(path, 0o755, exist_ok=True)
        return
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDONLY, 0o644))


def _device(path: str, major: int, minor: int) -> None:
    """Make a character device node, or bind the host's where device nodes may not be made (no CAP_MKNOD)."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        os.chmod(path, 0o666)
    except PermissionError:
        _mount_point(path, "/dev/null")
        linux.mount(f"/dev/{os.path.basename(path)}", path, flags=linux.MS_BIND)


def _overlay(lower: str, target: str, scratch: str, size: int) -> None:
    """Mount on `target` a private, writable view of the folder `lower`, whose changes stay in memory at `scratch`.

    Nothing of `lower` is copied. Where overlayfs is not to be had (some kernels, some nested containers) its content
    is copied instead: right, but no longer independent of its size.
    """
    # Files without content cost the kernel memory too: no more of them than there are pages of 4 KiB.
    options = f"size={size},nr_inodes={size >> 12},mode=0700"
    linux.mount("tmpfs", scratch, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, options)
    upper, work = os.path.join(scratch, "upper"), os.path.join(scratch, "work")
    os.mkdir(upper)
    os.mkdir(work)
    # What the root of an overlay looks like is decided by its upper folder.
    status = os.stat(lower)
    os.chown(upper, status.st_uid, status.st_gid)
    os.chmod(upper, stat.S_IMODE(status.st_mode))
    try:
        linux.mount(
            "overlay",
            target,
            "overlay",
            linux.MS_NOSUID | linux.MS_NODEV,
            f"lowerdir={lower},upperdir={upper},workdir={work}",
        )
    except OSError as error:
        if error.errno not in (errno.ENODEV, errno.EINVAL, errno.EPERM):
            raise
        shutil.copytree(lower, upper, symlinks=True, dirs_exist_ok=True)
        shutil.copystat(lower, upper)
        linux.mount(upper, target, flags=linux.MS_BIND)


def _stdin(path: str) -> None:
    """Open `path` as fd 0: CRIU wants every descriptor to come from the process's own mount namespace."""
    place_fd(os.open(path, os.O_RDONLY), 0)


def _open_folder(path: str, fd: int) -> None:
    """Make the folder `path` where it is missing, and hand it to the program as descriptor `fd`."""
    os.makedirs(path, 0o700, exist_ok=True)
    place_fd(os.open(path, os.O_RDONLY | os.O_DIRECTORY), fd)


def _umount(target: str) -> None:
    """Take a mount away, with all below it; one that is gone already is no fault."""
    try:
        linux.umount(target)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise


def _umount_all(folder: str) -> None:
    for point in reversed(mount_points_below(folder)):
        _umount(point)


def _mkdir(path: str, mode: int) -> None:
    os.makedirs(path, 0o755, exist_ok=True)
    os.chmod(path, mode)


def _symlink(target: str, path: str) -> None:
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    os.symlink(target, path)


def _rmtree(path: str) -> None:
    """Remove a folder of the spawner's own tmpfs; whatever is still mounted below it belongs to others and stays."""
    try:
        device = os.lstat(path).st_dev
    except FileNotFoundError:
        return
    for entry in os.scandir(path):
        status = entry.stat(follow_symlinks=False)
        if status.st_dev != device:
            continue
        if stat.S_ISDIR(status.st_mode):
            _rmtree(entry.path)
        else:
            os.unlink(entry.path)
    with contextlib.suppress(OSError):
        os.rmdir(path)


def _pivot_root(root: str) -> None:
    """Make `root` this process's `/` and let go of everything else (the idiom of pivot_root(2), no old-root folder)."""
    os.chdir(root)
    linux.pivot_root(".", ".")
    linux.umount(".", linux.MNT_DETACH)
    os.chdir("/")


def _mount(source: str, target: str, fstype: str, flags: int, data: str) -> None:
    linux.mount(source, target, fstype, flags, data)


def _become(uid: int, gid: int) -> None:
    """Give up every privilege: capabilities, groups, root's identity, and the hope to regain them through exec."""
    linux.drop_bounding_set()
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if (os.getresuid(), os.getresgid()) != ((uid,) * 3, (gid,) * 3):  # As where one of them was -1.
        raise OSError(errno.EINVAL, f"user {uid} and group {gid} cannot be taken")
    linux.clear_capabilities()
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)


def _limits(limits: dict[str, int]) -> None:
    """Set resource limits, by their names without RLIMIT_, for good: the soft ones and the hard."""
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def _hide(path: str, nothing: str) -> None:
    """Cover the folder or file `path` with an empty one that nobody may read; `nothing` is where such a file can be."""
    if os.path.isdir(path):
        linux.mount("tmpfs", path, "tmpfs", linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV, "mode=0,size=4k")
        return
    os.close(os.open(nothing, os.O_CREAT | os.O_RDONLY, 0))
    _bind(nothing, path, linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV)


def _seccomp(program: str) -> None:
    """Put the seccomp filter `program`, in hexadecimal digits, over this process."""
    linux.filter_calls(bytes.fromhex(program))


def _join(pid: int, names: list[str]) -> None:
    """Enter the namespaces `names` of the process `pid`, by their names in /proc/PID/ns."""
    for name in names:
        _enter(f"/proc/{pid}/ns/{name}")


def _join_unused_ipc(pid: int) -> None:
    """Enter the IPC namespace of the process `pid` if there is nothing of System V's in it.

    CRIU saves the namespaces of a process that it is not in itself. It need not, where there is nothing to save.
    """
    with open("/proc/self/ns/ipc", "rb") as own:
        _enter(f"/proc/{pid}/ns/ipc")
        # Each has a line with the names of its columns; they show the namespace of whoever reads.
        if any(_lines(f"/proc/sysvipc/{kind}") > 1 for kind in ("msg", "sem", "shm")):
            linux.setns(own.fileno())


def _enter(path: str) -> None:
    with open(path, "rb") as namespace:
        linux.setns(namespace.fileno())


def remove_cgroup(path: str) -> None:
    """Remove a control group without children, and end whatever is still in it.

    Raises:
        OSError: it would not go in time.
    """
    deadline = time.monotonic() + _GROUP_EMPTY_S
    while True:
        try:
            os.rmdir(path)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        _end_members(path)
        time.sleep(0.001)  # The dead leave it one by one; v1 tells nobody.


def _end_members(group: str) -> None:
    """SIGKILL everything in a control group; v2 does it by itself."""
    with contextlib.suppress(OSError):
        _write(f"{group}/cgroup.kill", "1")
        return
    for pid in _members(group) - {0}:  # 0 stands for processes that have no number here.
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(pid)
            try:
                # Still in there: so it is not another process that has got the number meanwhile.
                if pid in _members(group):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            finally:
                os.close(pidfd)


def _members(group: str) -> set[int]:
    with open(f"{group}/cgroup.procs", encoding="ascii") as file:
        return {int(line) for line in file}


def _write(path: str, text: str) -> None:
    """Write to a file of the kernel's; there is one, or the kernel is not as it was."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    except OSError as error:  # It names no file by itself.
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(fd)


def _lines(path: str) -> int:
    with open(path, "rb") as file:
        return len(file.readlines())


OPERATIONS: dict[str, Callable[..., None]] = {
    "become": _become,
    "bind": _bind,
    "device": _device,
    "hide": _hide,
    "hostname": socket.sethostname,
    "join": _join,
    "join_unused_ipc": _join_unused_ipc,
    "limits": _limits,
    "loopback": linux.raise_loopback,
    "mkdir": _mkdir,
    "mount": _mount,
    "mount_point": _mount_point,
    "open_folder": _open_folder,
    "overlay": _overlay,
    "pivot_root": _pivot_root,
    "remove_cgroup": remove_cgroup,
    "rmtree": _rmtree,
    "seccomp": _seccomp,
    "stdin": _stdin,
    "symlink": _symlink,
    "umount": _umount,
    "umount_all": _umount_all,
    "write": _write,
}
