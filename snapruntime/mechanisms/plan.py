"""Operations on mounts and files as data: a plan can be printed, sent to the spawner, and run there.

A plan is a list of operations; an operation is a list whose first item names it, the rest being its arguments, so
that a plan survives JSON. Building plans is `snapruntime.mechanisms.sandbox`'s business. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
from collections.abc import Callable
from typing import Any

from snapruntime.mechanisms import linux

Operation = list[Any]
Plan = list[Operation]


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
    linux.mount("tmpfs", scratch, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, f"size={size},mode=0700")
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
    linux.clear_capabilities()
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)


OPERATIONS: dict[str, Callable[..., None]] = {
    "become": _become,
    "bind": _bind,
    "device": _device,
    "mkdir": _mkdir,
    "mount": _mount,
    "mount_point": _mount_point,
    "open_folder": _open_folder,
    "overlay": _overlay,
    "pivot_root": _pivot_root,
    "rmtree": _rmtree,
    "stdin": _stdin,
    "symlink": _symlink,
    "umount": _umount,
    "umount_all": _umount_all,
}
