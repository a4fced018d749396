"""This process's own memory: what it has, and giving back what is free of it."""

from __future__ import annotations

import ctypes
import gc
import os

_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """What is in memory of this process (proc(5), statm)."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE


def give_back(*, cycles: bool) -> None:
    """Give the kernel what is free: glibc gives back only what is at the end of a heap, and so one small piece there
    keeps all that a flood of large requests once took. Takes milliseconds; other threads go on.

    Args:
        cycles: first free what only refers to itself. Each connection that a client breaks off leaves such: Python
            looks for what is old of it only after many more have come. Other threads wait some tens of milliseconds.
    """
    if cycles:
        gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # Not where the C library is another (musl).
        trim(0)
