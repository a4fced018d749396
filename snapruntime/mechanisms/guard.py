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
from collections.abc import Sequence

from snapruntime.mechanisms import bpf

Range = tuple[int, int]

#: By CRIU's name: the AUDIT_ARCH_* value, the numbers of madvise, mremap and process_madvise.
ARCHITECTURES = {"X86_64": (bpf.AUDIT["X86_64"], 28, 25, 440), "AARCH64": (bpf.AUDIT["AARCH64"], 233, 216, 440)}

#: More are merged with their neighbours: 15 instructions each, of the 4,096 that the kernel takes; the sandbox's own
#: filter (`snapruntime.mechanisms.seccomp`) may be in the same program.
MAX_RANGES = 240

#: MADV_DONTNEED, MADV_DONTNEED_LOCKED, MADV_GUARD_INSTALL (its removal would let the file show again).
_DROPPING = (4, 24, 102)
#: MREMAP_FIXED | MREMAP_DONTUNMAP
_MOVING = 2 | 4

# Scratch words.
_START_LOW, _START_HIGH, _END_LOW, _END_HIGH, _ANSWER = range(5)

#: Bits 56 and up of an address are tags that the kernel ignores where the processor does (arm64's TBI, Intel's LAM).
_ADDRESS_HIGH = 0x00FFFFFF


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
    """A filter that guards `ranges` (start, end; multiples of the page size) and does nothing else.

    Raises:
        KeyError: an architecture that is not in ARCHITECTURES.
    """
    code = bpf.Program()
    code.add(bpf.LD_DATA, bpf.ARCHITECTURE)
    code.unless(bpf.EQ, ARCHITECTURES[architecture][0], "allow")
    code.add(bpf.LD_DATA, bpf.NUMBER)
    for number, place in places(architecture).items():
        code.when(bpf.EQ, number, place)
    code.go("allow")
    add(code, ranges)
    code.label("allow")
    code.add(bpf.RETURN, bpf.ALLOW)
    return code.assemble()


def places(architecture: str) -> dict[int, str]:
    """The numbers of the guarded calls: the place, of those that `add` adds, where each is to go."""
    return dict(zip(ARCHITECTURES[architecture][1:], ("madvise", "mremap", "process_madvise"), strict=True))


def add(code: bpf.Program, ranges: Sequence[Range]) -> None:
    """Add to a program the places that guard `ranges`; "allow" is where they let a call through."""
    code.label("process_madvise")
    code.add(bpf.LD_DATA, bpf.low(3))
    for advice in _DROPPING:
        code.when(bpf.EQ, advice, "refuse advice")
    code.go("allow")

    code.label("madvise")
    code.add(bpf.LD_IMMEDIATE, bpf.ERRNO | errno.EINVAL)
    code.add(bpf.STORE, _ANSWER)
    code.add(bpf.LD_DATA, bpf.low(2))
    for advice in _DROPPING:
        code.when(bpf.EQ, advice, "look up")
    code.go("allow")

    code.label("mremap")
    code.add(bpf.LD_IMMEDIATE, bpf.ERRNO | errno.ENOMEM)
    code.add(bpf.STORE, _ANSWER)
    code.add(bpf.LD_DATA, bpf.low(3))
    code.when(bpf.ANY_BIT, _MOVING, "look up")
    for word, last in ((bpf.high, False), (bpf.low, True)):
        code.add(bpf.LD_DATA, word(1))
        code.add(bpf.TAX, 0)
        code.add(bpf.LD_DATA, word(2))
        code.when(bpf.GT_X, 0, "look up")
        if not last:
            code.unless(bpf.EQ_X, 0, "allow")
    code.go("allow")

    code.label("look up")
    _load_interval(code)
    _search(code, merged(ranges))

    # The returns are last: the kernel's check takes what follows a return for reachable from it, scratch words unset.
    code.label("refuse range")
    code.add(bpf.LD_SCRATCH, _ANSWER)
    code.add(bpf.RETURN_A, 0)
    code.label("refuse advice")
    code.add(bpf.RETURN, bpf.ERRNO | errno.EINVAL)


def _load_interval(code: bpf.Program) -> None:
    """Argument 0 is where the call's interval begins, argument 1 how long it is; none at all touches nothing."""
    code.add(bpf.LD_DATA, bpf.low(1))
    code.unless(bpf.EQ, 0, "not empty")
    code.add(bpf.LD_DATA, bpf.high(1))
    code.unless(bpf.EQ, 0, "not empty")
    code.go("allow")
    code.label("not empty")
    code.add(bpf.LD_DATA, bpf.high(0))
    code.add(bpf.AND, _ADDRESS_HIGH)
    code.add(bpf.STORE, _START_HIGH)
    code.add(bpf.LD_DATA, bpf.low(1))
    code.add(bpf.TAX, 0)
    code.add(bpf.LD_DATA, bpf.low(0))
    code.add(bpf.STORE, _START_LOW)
    code.add(bpf.ADD_X, 0)
    code.add(bpf.STORE, _END_LOW)
    code.when(bpf.GE_X, 0, "no carry")
    code.add(bpf.LD_IMMEDIATE, 1)
    code.go("carried")
    code.label("no carry")
    code.add(bpf.LD_IMMEDIATE, 0)
    code.label("carried")
    code.add(bpf.TAX, 0)
    code.add(bpf.LD_DATA, bpf.high(1))
    code.add(bpf.ADD_X, 0)
    code.add(bpf.TAX, 0)
    code.add(bpf.LD_SCRATCH, _START_HIGH)
    code.add(bpf.ADD_X, 0)
    code.add(bpf.STORE, _END_HIGH)


def _search(code: bpf.Program, ranges: Sequence[Range]) -> None:
    """Go to "refuse range" where the interval overlaps a range: a search tree, since the program must stay short."""
    if not ranges:
        code.go("allow")
        return
    _when_above(code, _START_LOW, _START_HIGH, ranges[-1][1] - 1, "allow")
    _subtree(code, ranges)


def _subtree(code: bpf.Program, ranges: Sequence[Range]) -> None:
    """Here the interval is known to begin at or before the end of the last of `ranges`."""
    if len(ranges) == 1:
        _when_above(code, _END_LOW, _END_HIGH, ranges[0][0], "refuse range")
        code.go("allow")
        return
    middle = len(ranges) // 2
    upper = f"above {ranges[middle - 1][1]:x}"
    _when_above(code, _START_LOW, _START_HIGH, ranges[middle - 1][1] - 1, upper)
    _subtree(code, ranges[:middle])
    code.label(upper)
    _subtree(code, ranges[middle:])


def _when_above(code: bpf.Program, low: int, high: int, limit: int, label: str) -> None:
    """Go to `label` where the 64-bit number in two scratch words is greater than `limit`."""
    code.add(bpf.LD_SCRATCH, high)
    code.when(bpf.GT, limit >> 32, label)
    code.skip_unless(bpf.EQ, limit >> 32, 3)
    code.add(bpf.LD_SCRATCH, low)
    code.when(bpf.GT, limit & 0xFFFFFFFF, label)
