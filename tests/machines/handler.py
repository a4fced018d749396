"""What `snapruntime run` is tried with on each machine: both kinds of hook, and memory of init that is dropped."""

# mypy: ignore-errors

import ctypes
import errno
import mmap

from snapshot_restore_py import register_after_restore, register_before_snapshot

DONTNEED = 4
libc = ctypes.CDLL(None, use_errno=True)
libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

block = mmap.mmap(-1, 16 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
block.write(b"A" * (16 << 20))
address = ctypes.addressof(ctypes.c_char.from_buffer(block))
ran = []


@register_before_snapshot
def before():
    ran.append("before")


@register_after_restore
def after():
    ran.append("after")


def lambda_handler(event, context):
    """What ran, and what came of dropping memory that is a mapping of the snapshot's file in a copy."""
    failed = libc.madvise(address, len(block), DONTNEED)
    return {
        "hooks": ran,
        "madvise": errno.errorcode[ctypes.get_errno()] if failed else "done",
        "memory": "".join(sorted({chr(block[at]) for at in range(0, len(block), 4096)})),
    }
