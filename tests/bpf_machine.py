"""An interpreter of classic BPF, to ask seccomp filters of either architecture what they would answer."""

from __future__ import annotations

import struct

WORD = 0xFFFFFFFF


def run(program: bytes, number: int, architecture: int, arguments: list[int]) -> int:
    """What the filter answers to a system call; checks what the kernel checks, that scratch is written before read."""
    data = struct.pack("<iIQ6Q", number, architecture, 0, *(value % (1 << 64) for value in arguments))
    code: list[tuple[int, int, int, int]] = list(struct.iter_unpack("<HBBI", program))
    scratch: dict[int, int] = {}
    a = x = at = 0
    while True:
        operation, yes, no, k = code[at]
        at += 1
        match operation:
            case 0x20:
                (a,) = struct.unpack_from("<I", data, k)
            case 0x00:
                a = k
            case 0x60:
                a = scratch[k]
            case 0x02:
                scratch[k] = a
            case 0x07:
                x = a
            case 0x0C:
                a = (a + x) & WORD
            case 0x54:
                a &= k
            case 0x05:
                at += k
            case 0x06:
                return k
            case 0x16:
                return a
            case _:
                tests = {
                    0x15: a == k,
                    0x25: a > k,
                    0x35: a >= k,
                    0x45: bool(a & k),
                    0x1D: a == x,
                    0x2D: a > x,
                    0x3D: a >= x,
                }
                at += yes if tests[operation] else no


def pad(*arguments: int) -> list[int]:
    return [*arguments, *(0,) * (6 - len(arguments))]
