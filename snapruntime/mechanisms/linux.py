"""Linux system calls that Python's `os` module does not wrap, one small function each.

Standard library only, and quick to import: the spawner runs this before every worker. Each wrapper raises `OSError`
with the call's name and arguments in its text, since "Operation not permitted" alone helps nobody.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import socket
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_NEWTIME = 0x00000080

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000

MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

#: Open files that a process has at least: what a Lambda function may have (developer guide, "Lambda quotas"), and more
#: than CRIU needs, which keeps some hundred numbers below its limit to itself (criu/servicefd.c).
OPEN_FILES = 1024

_CAPABILITY_VERSION_3 = 0x20080522

#: seccomp(2) and keyctl(2), which glibc does not wrap, on x86_64 and arm64.
_SECCOMP, _KEYCTL = {"x86_64": (317, 250), "aarch64": (277, 219)}.get(os.uname().machine, (-1, -1))
_SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_SPEC_ALLOW = 1, 4
_KEYCTL_JOIN_SESSION_KEYRING = 1
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.unshare.argtypes = (ctypes.c_int,)
_libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
_libc.pivot_root.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
_libc.fstatfs.argtypes = (ctypes.c_int, ctypes.c_char_p)
_libc.capset.argtypes = (ctypes.c_char_p, ctypes.c_char_p)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    """Leave the namespaces named by `flags` (unshare(2)); CLONE_NEWPID takes effect for later children."""
    _check(_libc.unshare(flags), f"unshare({flags:#x})")


def setns(fd: int, flags: int = 0) -> None:
    """Enter the namespace that `fd` refers to (setns(2))."""
    _check(_libc.setns(fd, flags), f"setns({fd})")


def mount(source: str, target: str, fstype: str | None = None, flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    _check(
        _libc.mount(
            os.fsencode(source), os.fsencode(target), os.fsencode(fstype) if fstype else None, flags, data.encode()
        ),
        f"mount {fstype or 'bind'} {source} on {target}",
    )


def umount(target: str, flags: int = MNT_DETACH | UMOUNT_NOFOLLOW) -> None:
    """umount2(2); lazily by default, as what is mounted belongs to a process that is gone or going."""
    _check(_libc.umount2(os.fsencode(target), flags), f"umount {target}")


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    _check(_libc.pivot_root(os.fsencode(new_root), os.fsencode(put_old)), f"pivot_root {new_root}")


def filesystem_type(fd: int) -> int:
    """The magic number (linux/magic.h) of the file system that an open file is on, also one opened by O_PATH."""
    buffer = ctypes.create_string_buffer(256)  # struct statfs has 120 bytes; its first word is the type.
    _check(_libc.fstatfs(fd, buffer), f"fstatfs({fd})")
    return int(struct.unpack_from("=q", buffer)[0])


def prctl(option: int, arg2: int = 0, arg3: int = 0) -> int:
    """prctl(2)."""
    return _check(_libc.prctl(option, arg2, arg3, 0, 0), f"prctl({option}, {arg2})")


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that forked it ends. Programs that it executes keep that.

    Args:
        parent: the PID of the process that forked it, which may have ended already.
    """
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def drop_bounding_set() -> None:
    """Let no program executed from here on gain any capability. Needs CAP_SETPCAP."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        last = int(file.read())
    for capability in range(last + 1):
        prctl(PR_CAPBSET_DROP, capability)


def clear_capabilities() -> None:
    """Take every capability from this process: its ambient, effective, permitted and inheritable sets."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, struct.pack("6I", 0, 0, 0, 0, 0, 0)), "capset(0)")


def filter_calls(program: bytes) -> None:
    """Put a seccomp filter over this process for good; it needs no_new_privs, or CAP_SYS_ADMIN.

    The filter shall not cost the processor's speculation, as it does by default before Linux 5.16.
    """
    text = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(text))
    _check(
        _libc.syscall(_SECCOMP, _SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_SPEC_ALLOW, header), "seccomp(filter)"
    )


def leave_session_keyring() -> None:
    """Get a session keyring of our own, so that nobody below us finds what is in the one we were started with."""
    _check(_libc.syscall(_KEYCTL, _KEYCTL_JOIN_SESSION_KEYRING, None), "keyctl(join session keyring)")


def raise_loopback() -> None:
    """Bring up `lo` in this network namespace (netdevice(7)): 127.0.0.1 and ::1 are there from now on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        name, flags = struct.unpack("16sh14x", fcntl.ioctl(handle, _SIOCGIFFLAGS, struct.pack("16sh14x", b"lo", 0)))
        fcntl.ioctl(handle, _SIOCSIFFLAGS, struct.pack("16sh14x", name, flags | _IFF_UP))


def allow_open_files() -> None:
    """Raise this process's soft limit of open files to `OPEN_FILES`, as far as the hard one lets it (getrlimit(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
