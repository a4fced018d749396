"""An assembler of classic BPF, as far as seccomp filters need it: instructions, what is where, names for places."""

from __future__ import annotations

import struct

#: By CRIU's name of an architecture: its AUDIT_ARCH_* value (linux/audit.h).
AUDIT = {"X86_64": 0xC000003E, "AARCH64": 0xC00000B7}

# What a filter returns (seccomp(2)); an errno is added to ERRNO.
ALLOW = 0x7FFF0000
ERRNO = 0x00050000

# Instructions (linux/bpf_common.h), and what is where in `struct seccomp_data`.
LD_DATA, LD_IMMEDIATE, LD_SCRATCH, STORE = 0x20, 0x00, 0x60, 0x02
ADD_X, AND, TAX = 0x0C, 0x54, 0x07
GOTO, EQ, GT, GE, ANY_BIT, EQ_X, GT_X, GE_X = 0x05, 0x15, 0x25, 0x35, 0x45, 0x1D, 0x2D, 0x3D
RETURN, RETURN_A = 0x06, 0x16
NUMBER, ARCHITECTURE = 0, 4


def low(argument: int) -> int:
    """Where the lower half of an argument is."""
    return 16 + 8 * argument


def high(argument: int) -> int:
    """Where the upper half of an argument is."""
    return low(argument) + 4


class Program:
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
        self._code.append((GOTO, 0, 0, label))

    def label(self, label: str) -> None:
        self._labels[label] = len(self._code)

    def assemble(self) -> bytes:
        words = bytearray()
        for index, (operation, yes, no, operand) in enumerate(self._code):
            value = self._labels[operand] - index - 1 if isinstance(operand, str) else operand
            words += struct.pack("<HBBI", operation, yes, no, value)
        return bytes(words)
