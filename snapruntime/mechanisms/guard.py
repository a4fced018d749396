"""The seccomp filter that keeps mapped memory honest: a classic BPF program, made for a set of address ranges.

A private mapping of a file differs from anonymous memory in what the kernel shows after it was told to drop pages:
anonymous memory reads zero, the mapping reads the file again, here the snapshot's bytes. Allocators count on zero. So
the calls that would drop pages of such a range are answered with an error, which every caller must be ready for:

    madvise         MADV_DONTNEED, _DONTNEED_LOCKED, _GUARD_INSTALL   EINVAL   where it overlaps a range
    process_madvise the same advice                                    EINVAL   everywhere: it does not show its ranges
    mremap          that grows or moves                                ENOMEM   where it overlaps a range

The last because the filter cannot follow a range to a new place. glibc's realloc copies instead. MADV_FREE,
MADV_REMOVE and MADV_WIPEONFORK the kernel itself refuses for such mappings. Sources: madvise(2), mremap(2), seccomp(2),
Linux' mm/madvise.c.
"""

from __future__ import annotations

import errno
import itertools
import struct
from collections.abc import Sequence

Range = tuple[int, int]

#: By CRIU's name: the AUDIT_ARCH_* value, the numbers of madvise, mremap and process_madvise.
ARCHITECTURES = {"X86_64": (0xC000003E, 28, 25, 440), "AARCH64": (0xC00000B7, 233, 216, 440)}

#: More are merged with their neighbours: 15 instructions each, of the 4,096 that the kernel takes.
MAX_RANGES = 256

#: MADV_DONTNEED, MADV_DONTNEED_LOCKED, MADV_GUARD_INSTALL (its removal would let the file show again).
_DROPPING = (4, 24, 102)
#: MREMAP_FIXED | MREMAP_DONTUNMAP
_MOVING = 2 | 4

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000

# Instructions (linux/bpf_common.h), and what is where in `struct seccomp_data`.
_LD_DATA, _LD_IMMEDIATE, _LD_SCRATCH, _STORE = 0x20, 0x00, 0x60, 0x02
_ADD_X, _AND, _TAX = 0x0C, 0x54, 0x07
_GOTO, _EQ, _GT, _ANY_BIT, _EQ_X, _GT_X, _GE_X = 0x05, 0x15, 0x25, 0x45, 0x1D, 0x2D, 0x3D
_RETURN, _RETURN_A = 0x06, 0x16
_NUMBER, _ARCHITECTURE = 0, 4

# Scratch words.
_START_LOW, _START_HIGH, _END_LOW, _END_HIGH, _ANSWER = range(5)

#: Bits 56 and up of an address are tags that the kernel ignores where the processor does (arm64's TBI, Intel's LAM).
_ADDRESS_HIGH = 0x00FFFFFF


def _low(argument: int) -> int:
    return 16 + 8 * argument


def _high(argument: int) -> int:
    return _low(argument) + 4


def merged(ranges: Sequence[Range], limit: int = MAX_RANGES) -> list[Range]:
    """At most `limit` ranges that cover all of `ranges`; those with the smallest gaps between them become one."""
    ordered = sorted(ranges)
    gaps = sorted(after[0] - before[1] for before, after in itertools.pairwise(ordered))
    surplus = len(ordered) - limit
    widest = gaps[surplus - 1] if surplus > 0 else 0
    found: list[Range] = []
    for start, end in ordered:
        if found and start - found[-1][1] <= widest:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def program(architecture: str, ranges: Sequence[Range]) -> bytes:
    """The filter that guards `ranges` (start, end; multiples of the page size), as the kernel takes it.

    Raises:
        KeyError: an architecture that is not in ARCHITECTURES.
    """
    audit, madvise, mremap, process_madvise = ARCHITECTURES[architecture]
    code = _Program()
    code.add(_LD_DATA, _ARCHITECTURE)
    code.unless(_EQ, audit, "allow")
    code.add(_LD_DATA, _NUMBER)
    code.when(_EQ, madvise, "madvise")
    code.when(_EQ, mremap, "mremap")
    code.when(_EQ, process_madvise, "process_madvise")
    code.go("allow")

    code.label("process_madvise")
    code.add(_LD_DATA, _low(3))
    for advice in _DROPPING:
        code.when(_EQ, advice, "refuse_advice")
    code.go("allow")

    code.label("madvise")
    code.add(_LD_IMMEDIATE, _ERRNO | errno.EINVAL)
    code.add(_STORE, _ANSWER)
    code.add(_LD_DATA, _low(2))
    for advice in _DROPPING:
        code.when(_EQ, advice, "look up")
    code.go("allow")

    code.label("mremap")
    code.add(_LD_IMMEDIATE, _ERRNO | errno.ENOMEM)
    code.add(_STORE, _ANSWER)
    code.add(_LD_DATA, _low(3))
    code.when(_ANY_BIT, _MOVING, "look up")
    for word, last in ((_high, False), (_low, True)):
        code.add(_LD_DATA, word(1))
        code.add(_TAX, 0)
        code.add(_LD_DATA, word(2))
        code.when(_GT_X, 0, "look up")
        if not last:
            code.unless(_EQ_X, 0, "allow")
    code.go("allow")

    code.label("look up")
    _load_interval(code)
    _search(code, merged(ranges))

    # All returns are here: the kernel's check takes what follows a return for reachable from it, scratch words unset.
    code.label("refuse")
    code.add(_LD_SCRATCH, _ANSWER)
    code.add(_RETURN_A, 0)
    code.label("refuse_advice")
    code.add(_RETURN, _ERRNO | errno.EINVAL)
    code.label("allow")
    code.add(_RETURN, _ALLOW)
    return code.assemble()


def _load_interval(code: _Program) -> None:
    """Argument 0 is where the call's interval begins, argument 1 how long it is; none at all touches nothing."""
    code.add(_LD_DATA, _low(1))
    code.unless(_EQ, 0, "not empty")
    code.add(_LD_DATA, _high(1))
    code.unless(_EQ, 0, "not empty")
    code.go("allow")
    code.label("not empty")
    code.add(_LD_DATA, _high(0))
    code.add(_AND, _ADDRESS_HIGH)
    code.add(_STORE, _START_HIGH)
    code.add(_LD_DATA, _low(1))
    code.add(_TAX, 0)
    code.add(_LD_DATA, _low(0))
    code.add(_STORE, _START_LOW)
    code.add(_ADD_X, 0)
    code.add(_STORE, _END_LOW)
    code.when(_GE_X, 0, "no carry")
    code.add(_LD_IMMEDIATE, 1)
    code.go("carried")
    code.label("no carry")
    code.add(_LD_IMMEDIATE, 0)
    code.label("carried")
    code.add(_TAX, 0)
    code.add(_LD_DATA, _high(1))
    code.add(_ADD_X, 0)
    code.add(_TAX, 0)
    code.add(_LD_SCRATCH, _START_HIGH)
    code.add(_ADD_X, 0)
    code.add(_STORE, _END_HIGH)


def _search(code: _Program, ranges: Sequence[Range]) -> None:
    """Go to "refuse" where the interval overlaps a range: a search tree, since the program must stay short."""
    if not ranges:
        code.go("allow")
        return
    _when_above(code, _START_LOW, _START_HIGH, ranges[-1][1] - 1, "allow")
    _subtree(code, ranges)


def _subtree(code: _Program, ranges: Sequence[Range]) -> None:
    """Here the interval is known to begin at or before the end of the last of `ranges`."""
    if len(ranges) == 1:
        _when_above(code, _END_LOW, _END_HIGH, ranges[0][0], "refuse")
        code.go("allow")
        return
    middle = len(ranges) // 2
    upper = f"above {ranges[middle - 1][1]:x}"
    _when_above(code, _START_LOW, _START_HIGH, ranges[middle - 1][1] - 1, upper)
    _subtree(code, ranges[:middle])
    code.label(upper)
    _subtree(code, ranges[middle:])


def _when_above(code: _Program, low: int, high: int, limit: int, label: str) -> None:
    """Go to `label` where the 64-bit number in two scratch words is greater than `limit`."""
    code.add(_LD_SCRATCH, high)
    code.when(_GT, limit >> 32, label)
    code.skip_unless(_EQ, limit >> 32, 3)
    code.add(_LD_SCRATCH, low)
    code.when(_GT, limit & 0xFFFFFFFF, label)


class _Program:
    """Instructions with names for places. Conditional jumps reach 255 instructions only, so each is over a `goto`."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int | str]] = []
        self._labels: dict[str, int] = {}

    def add(self, operation: int, operand: int) -> None:
        self._code.append((operation, 0, 0, operand))

    def when(self, test: int, operand: int, label: str) -> None:
        self._code.append((test, 0, 1, operand))
        self.go(label)

    def unless(self, test: int, operand: int, label: str) -> None:
        self._code.append((test, 1, 0, operand))
        self.go(label)

    def skip_unless(self, test: int, operand: int, count: int) -> None:
        self._code.append((test, 0, count, operand))

    def go(self, label: str) -> None:
        self._code.append((_GOTO, 0, 0, label))

    def label(self, label: str) -> None:
        self._labels[label] = len(self._code)

    def assemble(self) -> bytes:
        words = bytearray()
        for index, (operation, yes, no, operand) in enumerate(self._code):
            value = self._labels[operand] - index - 1 if isinstance(operand, str) else operand
            words += struct.pack("<HBBI", operation, yes, no, value)
        return bytes(words)
