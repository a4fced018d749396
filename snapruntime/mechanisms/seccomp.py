"""The seccomp filter that every function runs under: what no function needs, and an attacker would begin with.

All but a few of these the kernel refuses to processes without capabilities anyway. The filter refuses them before the
kernel's own code is reached, and whatever a later flaw in that code may be. It is a list of the forbidden and not of
the allowed: functions bring libraries that nobody here knows, and kernels bring calls that libraries try first.

Answers: EPERM where Linux would say so to a process without privileges; ENOSYS where libraries ask whether the
kernel has something and go on without (clone3, whose flags a filter cannot see; io_uring, which CRIU cannot save);
success, with nothing done, where one sets the limit of its core files.

CRIU saves the filter with the process, as if the function had installed it, and puts it back in each copy.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from snapruntime.mechanisms import bpf, guard

_REFUSED = bpf.ERRNO | errno.EPERM
_UNKNOWN = bpf.ERRNO | errno.ENOSYS

#: Calls that are refused: name -> their numbers on x86_64 and arm64 (asm/unistd_64.h, asm-generic/unistd.h); None
#: where the architecture has no such call.
REFUSED: dict[str, tuple[int | None, int | None]] = {
    # mounts, and other roots
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "setns": (308, 268),
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    # files without a path, which leads out of any root
    "open_by_handle_at": (304, 265),
    # the kernel itself, and the machine
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "syslog": (103, 116),
    "reboot": (169, 142),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    # keys, which belong to users and not to namespaces
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # what all of the host shares
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
}

#: Calls that this kernel does not have, as far as functions can tell.
UNKNOWN: dict[str, tuple[int, int]] = {
    "clone3": (435, 435),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
}

_UNSHARE, _CLONE, _SOCKET, _SETRLIMIT, _PRLIMIT = (272, 97), (56, 220), (41, 198), (160, 164), (302, 261)
_FALLOCATE = (285, 47)

#: CLONE_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET; and CLONE_NEWTIME, which clone cannot make:
#: there the bit is part of a signal's number.
_NEW_NAMESPACES = 0x7E020000
_NEW_TIME = 0x80
#: RLIMIT_CORE, which stays as it is set (1: see `snapruntime.mechanisms.sandbox`). Programs that set it to 0, as those
#: that know secrets do, are told that it is so.
_CORE = 4
#: FALLOC_FL_PUNCH_HOLE. Whatever else fallocate does takes room on a disk at once, sooner than anybody could look
#: (`snapruntime.mechanisms.quota`). The C library writes zeros instead where a file system has no such call.
_PUNCH_HOLE = 0x02
#: Sockets to the machine's hypervisor or to its guests: no network namespace holds them.
_AF_VSOCK = 40
#: The x32 calls of x86_64: the same, under other numbers.
_X32 = 0x40000000


def program(architecture: str, guarded: Sequence[guard.Range] = ()) -> bytes:
    """The filter, as the kernel takes it.

    Args:
        architecture: CRIU's name for it: "X86_64", "AARCH64".
        guarded: ranges of memory that it is to guard too (`snapruntime.mechanisms.guard`): each filter more costs a
            copy a quarter of a millisecond, however short it is.

    Raises:
        KeyError: another architecture.
    """
    column = list(bpf.AUDIT).index(architecture)
    places: dict[int | None, str] = {calls[column]: "refuse" for calls in REFUSED.values()}
    places |= {calls[column]: "unknown" for calls in UNKNOWN.values()}
    places |= {_UNSHARE[column]: "unshare", _CLONE[column]: "clone", _SOCKET[column]: "socket"}
    places |= {_SETRLIMIT[column]: "setrlimit", _PRLIMIT[column]: "prlimit", _FALLOCATE[column]: "fallocate"}
    if guarded:
        places.update(guard.places(architecture).items())
    code = bpf.Program()
    code.add(bpf.LD_DATA, bpf.ARCHITECTURE)
    code.unless(bpf.EQ, bpf.AUDIT[architecture], "unknown")
    code.add(bpf.LD_DATA, bpf.NUMBER)
    if architecture == "X86_64":
        code.when(bpf.GE, _X32, "unknown")
    _search(code, sorted((number, place) for number, place in places.items() if number is not None))

    for name, flags in (("unshare", _NEW_NAMESPACES | _NEW_TIME), ("clone", _NEW_NAMESPACES)):
        code.label(name)
        code.add(bpf.LD_DATA, bpf.low(0))
        code.when(bpf.ANY_BIT, flags, "refuse")
        code.go("allow")
    code.label("socket")
    code.add(bpf.LD_DATA, bpf.low(0))
    code.unless(bpf.EQ, _AF_VSOCK, "allow")
    code.add(bpf.RETURN, bpf.ERRNO | errno.EAFNOSUPPORT)
    if guarded:
        guard.add(code, guarded)

    code.label("setrlimit")
    code.add(bpf.LD_DATA, bpf.low(0))
    code.when(bpf.EQ, _CORE, "as if")
    code.go("allow")
    code.label("prlimit")
    code.add(bpf.LD_DATA, bpf.low(1))
    code.unless(bpf.EQ, _CORE, "allow")
    for half in (bpf.low(2), bpf.high(2)):  # Without a new limit it only asks.
        code.add(bpf.LD_DATA, half)
        code.unless(bpf.EQ, 0, "as if")
    code.go("allow")

    code.label("fallocate")
    code.add(bpf.LD_DATA, bpf.low(1))
    code.when(bpf.ANY_BIT, _PUNCH_HOLE, "allow")
    code.add(bpf.RETURN, bpf.ERRNO | errno.EOPNOTSUPP)

    code.label("as if")
    code.add(bpf.RETURN, bpf.ERRNO)
    code.label("refuse")
    code.add(bpf.RETURN, _REFUSED)
    code.label("unknown")
    code.add(bpf.RETURN, _UNKNOWN)
    code.label("allow")
    code.add(bpf.RETURN, bpf.ALLOW)
    return code.assemble()


def _search(code: bpf.Program, places: Sequence[tuple[int, str]]) -> None:
    """Go to the place of the number, "allow" where it has none.

    A tree: the kernel runs a filter for all numbers when it is installed, to know those that are always allowed (and
    need no run of it any more), and CRIU installs it in each copy.
    """
    if len(places) <= 3:
        for number, place in places:
            code.when(bpf.EQ, number, place)
        code.go("allow")
        return
    middle = len(places) // 2
    upper = f"from {places[middle][0]}"
    code.when(bpf.GE, places[middle][0], upper)
    _search(code, places[:middle])
    code.label(upper)
    _search(code, places[middle:])
