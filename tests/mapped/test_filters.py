"""A function that has seccomp filters of its own keeps them, beside the guard."""

from __future__ import annotations

import pytest
from support import Write

from snapruntime import Runtime

SOURCE = """
import ctypes, errno, os, struct, threading

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
SIZE = 64 * os.sysconf("SC_PAGE_SIZE")
memory = libc.mmap(None, SIZE, 3, 0x22, -1, 0)
ctypes.memset(ctypes.c_void_p(memory), 65, SIZE)
ROOM = ctypes.create_string_buffer(4096)
UNAME, SETHOSTNAME = {"x86_64": (63, 170), "aarch64": (160, 161)}[os.uname().machine]
SECCOMP = {"x86_64": 317, "aarch64": 277}[os.uname().machine]


def forbid(number, error, flags=0):
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50000 | error), (0x06, 0, 0, 0x7FFF0000)]
    text = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in code))
    program = struct.pack("<HxxxxxxQ", len(code), ctypes.addressof(text))
    libc.prctl(38, 1, 0, 0, 0)
    assert libc.syscall(SECCOMP, 1, flags, program) == 0, os.strerror(ctypes.get_errno())


def tried(number):
    ctypes.set_errno(0)
    libc.syscall(number, ROOM, 0)
    return errno.errorcode.get(ctypes.get_errno(), "ok")


def look():
    ctypes.set_errno(0)
    libc.madvise(memory, SIZE, 4)
    guard = errno.errorcode.get(ctypes.get_errno(), "ok")
    return [tried(UNAME), tried(SETHOSTNAME), guard, chr(ctypes.string_at(memory, 1)[0])]


class Other(threading.Thread):
    def __init__(self, before=lambda: None):
        super().__init__(daemon=True)
        self.before, self.ready = before, threading.Semaphore(0)
        self.task, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.start()
        self.ready.acquire()

    def run(self):
        self.before()
        self.ready.release()
        self.task.acquire()
        self.result = look()
        self.done.release()

    def ask(self):
        self.task.release()
        self.done.acquire()
        return self.result


#INIT


def lambda_handler(event, context):
    return [look(), other.ask()]
"""

# What uname and sethostname answer: EXDEV and ENOLINK where a filter of the function's own forbids them.
NEITHER, FIRST, BOTH = ["ok", "EPERM"], ["EXDEV", "EPERM"], ["EXDEV", "ENOLINK"]


@pytest.mark.parametrize(
    ("init", "main", "thread"),
    [
        ("other = Other(); forbid(UNAME, 18); forbid(SETHOSTNAME, 67)", BOTH, NEITHER),
        ("forbid(UNAME, 18); other = Other(); forbid(SETHOSTNAME, 67)", BOTH, FIRST),
        ("other = Other(); forbid(UNAME, 18, 1); forbid(SETHOSTNAME, 67, 1)", BOTH, BOTH),
        ("forbid(UNAME, 18); forbid(SETHOSTNAME, 67); other = Other()", BOTH, BOTH),
        ("other = Other(lambda: forbid(UNAME, 18))", NEITHER, FIRST),
        ("forbid(SECCOMP, 1); other = Other()", NEITHER, NEITHER),
    ],
    ids=["main only", "differ", "synchronised", "inherited", "thread only", "none may follow"],
)
def test_filters_of_the_function_go_on(
    runtime: Runtime, write: Write, init: str, main: list[str], thread: list[str]
) -> None:
    function = write(SOURCE.replace("#INIT", init), timeout_s=20.0)
    with runtime.snapshot(function) as snapshot, snapshot.restore() as copy:
        assert snapshot.mapped, snapshot.plain_reason
        assert copy.invoke({}).result == [[*main, "EINVAL", "A"], [*thread, "EINVAL", "A"]]
