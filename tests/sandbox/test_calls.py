"""The seccomp filter: what it refuses, on both architectures, and what goes on."""

from __future__ import annotations

import platform

import pytest
from bpf_machine import pad, run

from snapruntime.mechanisms import bpf, seccomp

from .conftest import Attempt

ALLOW, EPERM, ENOSYS, EAFNOSUPPORT, EOPNOTSUPP = 0x7FFF0000, 0x00050001, 0x00050026, 0x00050061, 0x0005005F
HERE = list(bpf.AUDIT).index(platform.machine().upper())
NEW_USER, NEW_NET, NEW_TIME, FILES = 0x10000000, 0x40000000, 0x80, 0x400


@pytest.mark.parametrize("architecture", list(bpf.AUDIT))
def test_what_is_on_the_list_is_refused_and_nothing_else(architecture: str) -> None:
    program, column, audit = seccomp.program(architecture), list(bpf.AUDIT).index(architecture), bpf.AUDIT[architecture]
    expected = {calls[column]: EPERM for calls in seccomp.REFUSED.values()}
    expected |= {calls[column]: ENOSYS for calls in seccomp.UNKNOWN.values()}
    expected[(285, 47)[column]] = EOPNOTSUPP  # fallocate, to which the pad gives no flags.
    for number in range(600):
        assert run(program, number, audit, pad()) == expected.get(number, ALLOW), number
    for other in {*bpf.AUDIT.values(), 0x40000003, 0x40000028} - {audit}:
        assert run(program, 1, other, pad()) == ENOSYS, "calls of the 32-bit kind, or another machine's"
    if architecture == "X86_64":
        assert run(program, 0x40000000 | 1, audit, pad()) == ENOSYS, "x32"


@pytest.mark.parametrize(
    ("architecture", "setrlimit", "prlimit", "fallocate"), [("X86_64", 160, 302, 285), ("AARCH64", 164, 261, 47)]
)
def test_calls_that_are_answered_by_their_arguments(
    architecture: str, setrlimit: int, prlimit: int, fallocate: int
) -> None:
    program, audit, core, files, done = seccomp.program(architecture), bpf.AUDIT[architecture], 4, 7, 0x00050000
    assert [run(program, setrlimit, audit, pad(which)) for which in (core, files)] == [done, ALLOW]
    for pointer in (1, 1 << 40):
        assert [run(program, prlimit, audit, pad(0, which, pointer)) for which in (core, files)] == [done, ALLOW]
    assert run(program, prlimit, audit, pad(0, core, 0)) == ALLOW, "it only asks"
    answers = [run(program, fallocate, audit, pad(3, mode)) for mode in (0, 1, 3, 16)]
    assert answers == [EOPNOTSUPP, EOPNOTSUPP, ALLOW, EOPNOTSUPP]


@pytest.mark.parametrize(
    ("architecture", "unshare", "clone", "socket"), [("X86_64", 272, 56, 41), ("AARCH64", 97, 220, 198)]
)
def test_calls_that_are_refused_by_their_arguments(architecture: str, unshare: int, clone: int, socket: int) -> None:
    program, audit = seccomp.program(architecture), bpf.AUDIT[architecture]
    for bit in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert run(program, unshare, audit, pad(bit | FILES)) == EPERM
        assert run(program, clone, audit, pad(bit | 17)) == EPERM
    assert run(program, unshare, audit, pad(NEW_TIME)) == EPERM
    assert run(program, unshare, audit, pad(FILES)) == ALLOW
    assert run(program, clone, audit, pad(0x3D0F00 | NEW_TIME)) == ALLOW, "a thread; 0x80 is part of a signal here"
    assert run(program, socket, audit, pad(40)) == EAFNOSUPPORT
    assert {run(program, socket, audit, pad(family)) for family in (1, 2, 10, 16)} == {ALLOW}


def test_refused_calls(attempt: Attempt) -> None:
    numbers = {name: calls[HERE] for name, calls in seccomp.REFUSED.items() if calls[HERE] is not None}
    assert attempt("calls", numbers, 0, 0, 0, 0, 0, 0) == dict.fromkeys(numbers, "EPERM")
    numbers = {name: calls[HERE] for name, calls in seccomp.UNKNOWN.items()}
    assert attempt("calls", numbers, 0, 0, 0, 0, 0, 0) == dict.fromkeys(numbers, "ENOSYS")


def test_no_new_namespaces(attempt: Attempt) -> None:
    unshare, clone = ((272, 56), (97, 220))[HERE]
    for flag in (NEW_USER, NEW_NET, NEW_USER | NEW_NET, NEW_TIME):
        assert attempt("call", unshare, flag) == "EPERM"
    assert attempt("call", clone, NEW_USER | 17) == "EPERM"
    assert attempt("call", unshare, FILES) == 0


def test_no_socket_to_the_hypervisor(attempt: Attempt) -> None:
    assert attempt("vsock") == "OSError EAFNOSUPPORT"


@pytest.mark.skipif(HERE != 0, reason="x86_64 only")
@pytest.mark.may_skip("calls of the 32-bit kind are x86_64's")
def test_no_way_around_by_another_kind_of_call(attempt: Attempt) -> None:
    assert attempt("call", 0x40000000 | 39) == "ENOSYS", "getpid of x32"
    assert attempt("child", "int80") in ("-38", "SIGSEGV"), "-ENOSYS, or a kernel without such calls"


def test_ordinary_work_goes_on(attempt: Attempt) -> None:
    assert attempt("ordinary_work") == ["hi\n", "posix"]
