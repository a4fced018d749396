"""Have SQLite seed its generator anew in each copy.

Without it: once init has used it, `random()` and `randomblob()` in SQL give the same values in all copies (SQLite looks
at the PID, which is 1 in every copy, and only when it opens a file).
"""

from __future__ import annotations

import ctypes
import sys

from snapruntime import register_after_restore, register_before_snapshot

_libraries: list[ctypes.CDLL] = []


@register_before_snapshot
def find() -> None:
    """Find the library that Python's sqlite3 module uses, be it shared or linked into the module."""
    module = sys.modules.get("_sqlite3")
    if module is not None and getattr(module, "__file__", None):
        # A handle on the module finds the symbols of the libraries that it is linked with as well.
        _libraries[:] = [ctypes.CDLL(module.__file__)]


@register_after_restore
def reseed() -> None:
    """A request for no bytes resets the generator (sqlite3_randomness in SQLite's documentation)."""
    for library in _libraries:
        library.sqlite3_randomness(0, None)
