"""Reseed every OpenSSL that init loaded, those that wheels bring along among them (psycopg, psycopg2, …).

Without it: what such a library has drawn from its generator at init it draws on from in all copies, TLS keys and nonces
among it; it looks at the PID, which is 1 in every copy. The runtime itself reseeds that of Python's ssl module and that
of the cryptography package.
"""

from __future__ import annotations

import ctypes
import os

from snapruntime import register_after_restore, register_before_snapshot

_libraries: list[ctypes.CDLL] = []


@register_before_snapshot
def find() -> None:
    """By the files that are mapped: one that is linked into a module, its names hidden, cannot be reached."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        paths = {line.rstrip("\n").partition("/")[2] for line in file if "/libcrypto" in line}
    libraries = [ctypes.CDLL(f"/{path}") for path in sorted(paths)]
    _libraries[:] = [library for library in libraries if hasattr(library, "RAND_add")]


@register_after_restore
def reseed() -> None:
    """The generators of other threads follow the one that gets this."""
    for library in _libraries:
        library.RAND_add(os.urandom(48), 48, ctypes.c_double(48))
