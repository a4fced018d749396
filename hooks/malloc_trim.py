"""Give memory that init freed back to the kernel before the snapshot.

Without it: the free parts of glibc's heap are in the snapshot, which is larger by them. Take it first of the hooks, so
that it runs last before the snapshot.
"""

from __future__ import annotations

import ctypes

from snapruntime import register_before_snapshot


@register_before_snapshot
def trim() -> None:
    """Where the C library is not glibc (musl), there is no such function, and no need."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
