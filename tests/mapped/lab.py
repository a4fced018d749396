"""A function for the tests of mapped memory: init makes memory of every kind, each event does one thing to it.

Runs in the worker; the tests read what it returns. `b"A"` is in what was there at the snapshot.
"""

# mypy: ignore-errors

import ctypes
import errno
import importlib.util
import os
import signal
import socket
import threading

PAGE = os.sysconf("SC_PAGE_SIZE")
PAGES = 64
DONTNEED, FREE, REMOVE, WIPEONFORK, DONTNEED_LOCKED, GUARD_INSTALL = 4, 8, 9, 18, 24, 102
MERGEABLE = 12
PRIVATE, SHARED, FIXED, ANONYMOUS, NORESERVE, STACK = 0x02, 0x01, 0x10, 0x20, 0x4000, 0x20000
NONE, READ, WRITE, EXEC = 0, 1, 2, 4
MAYMOVE, MREMAP_FIXED, DONTUNMAP = 1, 2, 4

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = libc.sbrk.restype = ctypes.c_void_p
libc.malloc.restype = libc.realloc.restype = libc.calloc.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long, ctypes.c_long)[:6]
libc.mremap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)
libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
libc.sbrk.argtypes = (ctypes.c_long,)
libc.malloc.argtypes = (ctypes.c_size_t,)
libc.calloc.argtypes = (ctypes.c_size_t, ctypes.c_size_t)
libc.realloc.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
libc.free.argtypes = (ctypes.c_void_p,)


def map_pages(count, prot=READ | WRITE, flags=PRIVATE | ANONYMOUS, fd=-1, at=None):
    address = libc.mmap(at, count * PAGE, prot, flags, fd, 0)
    assert address not in (None, ctypes.c_void_p(-1).value), os.strerror(ctypes.get_errno())
    return address


def fill(address, count, byte=b"A"):
    ctypes.memset(address, byte[0], count * PAGE)


def seen(address, size):
    """The different bytes in a range, in order of value."""
    return "".join(sorted(chr(byte) for byte in set(ctypes.string_at(address, size)))).replace("\0", "0")


def call(function, *arguments):
    """The name of the error of a call; "ok" where there was none."""
    ctypes.set_errno(0)
    result = function(*arguments)
    return errno.errorcode[ctypes.get_errno()] if result in (-1, ctypes.c_void_p(-1).value) else "ok"


def advise(address, count, advice):
    return call(libc.madvise, address, count * PAGE, advice)


# Three mappings are between unmapped pages, so that nothing of them becomes one mapping with something else.
def apart(count):
    address = map_pages(count + 2, NONE)
    return map_pages(count, flags=PRIVATE | ANONYMOUS | FIXED, at=address + PAGE)


plain = apart(PAGES)
fill(plain, PAGES)
other = apart(PAGES)
fill(other, PAGES)

SPARSE = (1 << 30) // PAGE
sparse = map_pages(SPARSE, flags=PRIVATE | ANONYMOUS | NORESERVE)
for index in (0, SPARSE // 2, SPARSE - 1):
    fill(sparse + index * PAGE, 1)

HUGE = int(os.environ["HUGE"]) // PAGE
huge = map_pages(HUGE, flags=PRIVATE | ANONYMOUS | NORESERVE)
for index in (1, HUGE - 2):
    fill(huge + index * PAGE, 1)

reserved = map_pages(SPARSE, NONE, PRIVATE | ANONYMOUS | NORESERVE)

hidden = apart(PAGES)
fill(hidden, PAGES)
libc.mprotect(hidden, PAGES * PAGE, NONE)

holey = apart(PAGES)  # Bridged: shorter untouched stretches are part of the memory file.
for index in range(0, PAGES, 8):
    fill(holey + index * PAGE, 1)

wiped = apart(PAGES)
fill(wiped, PAGES)
libc.madvise(wiped, PAGES * PAGE, WIPEONFORK)

pinned = apart(1)
fill(pinned, 1)
assert libc.mlock(ctypes.c_void_p(pinned), ctypes.c_size_t(PAGE)) == 0

code = map_pages(1, READ | WRITE | EXEC)
fill(code, 1)

shared = map_pages(PAGES, flags=SHARED | ANONYMOUS)
fill(shared, PAGES)
memfd = os.memfd_create("lab")
os.truncate(memfd, PAGES * PAGE)
in_memfd = map_pages(PAGES, flags=SHARED, fd=memfd)
fill(in_memfd, PAGES)

with open("/tmp/mapped", "wb") as file:
    file.write(b"F" * (2 * PAGE + 100))
with open("/tmp/mapped", "rb") as file:
    of_file = map_pages(3, flags=PRIVATE, fd=file.fileno())
fill(of_file + PAGE, 1)

# No copy can write to it, and it has two pages where these have 64 KiB.
with open(importlib.util.find_spec("_pydecimal").origin, "rb") as file:
    assert os.fstat(file.fileno()).st_size > 2 * PAGE
    of_code = map_pages(2, flags=PRIVATE, fd=file.fileno())
fill(of_code + PAGE, 1)

mergeable = apart(PAGES)  # KSM merges pages of one's own only, in mappings of files too.
fill(mergeable, PAGES)
libc.madvise(mergeable, PAGES * PAGE, MERGEABLE)  # EINVAL where the kernel has no KSM.

block = libc.malloc(8 << 20)  # glibc gives it a mapping of its own, and moves that when it grows.
ctypes.memset(block, ord("A"), 8 << 20)

BROKEN = 1 << 20
libc.sbrk(-(libc.sbrk(0) % PAGE) % PAGE)
heap_end = libc.sbrk(BROKEN) + BROKEN
ctypes.memset(heap_end - BROKEN, ord("A"), BROKEN)


class Threaded:
    """A thread that was there at the snapshot; what it is asked runs on its stack and in its malloc arena."""

    def __init__(self):
        self.task, self.answer = threading.Semaphore(0), threading.Semaphore(0)
        threading.Thread(target=self.run, args=(b"A" * 100,), daemon=True).start()

    def run(self, local):
        while True:
            self.task.acquire()
            self.result = self.what(), local.decode() == "A" * 100
            self.answer.release()

    def ask(self, what):
        self.what = what
        self.task.release()
        self.answer.acquire()
        return self.result


threads = [Threaded() for _ in range(3)]


def forked(what):
    """What `what` returns in a child forked now."""
    read_end, write_end = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.write(write_end, repr(what()).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end, encoding="utf-8") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return answer


def dropped(advice):
    return advise(plain, PAGES, advice), seen(plain, PAGES * PAGE)


def overlapping():
    """Intervals that only touch the range: its first page, its last page, all and more."""
    return [
        advise(plain - PAGE, 2, DONTNEED),
        advise(plain + (PAGES - 1) * PAGE, 2, DONTNEED),
        advise(plain - PAGE, PAGES + 2, DONTNEED),
        call(libc.madvise, plain, 1, DONTNEED),
        seen(plain, PAGES * PAGE),
    ]


def beside():
    return advise(plain - PAGE, 1, DONTNEED), advise(plain + PAGES * PAGE, 1, DONTNEED), advise(plain, 0, DONTNEED)


def fresh():
    """Memory that the copy makes itself is as anywhere."""
    address = map_pages(PAGES)
    fill(address, PAGES)
    result = advise(address, PAGES, DONTNEED)
    return (
        result,
        seen(address, PAGES * PAGE),
        call(libc.mremap, address, PAGES * PAGE, 9 * PAGES * PAGE, MAYMOVE, None),
    )


def process_madvise():
    numbers = {"x86_64": 440, "aarch64": 440}
    vector = (ctypes.c_size_t * 2)(plain, PAGES * PAGE)
    pidfd = os.pidfd_open(os.getpid())
    result = libc.syscall(numbers[os.uname().machine], pidfd, vector, 1, DONTNEED, 0)
    return result >= 0, seen(plain, PAGES * PAGE)


def remapped(new, flags, target=None):
    libc.munmap(plain + PAGES * PAGE, PAGE)  # So that there is room to grow in place.
    return call(libc.mremap, plain, PAGES * PAGE, new * PAGE, flags, target), seen(plain, PAGES * PAGE)


def shrunk():
    """Shrinks in place; what is mapped in its place then is new."""
    half = PAGES // 2
    result = call(libc.mremap, plain, PAGES * PAGE, half * PAGE, MAYMOVE, None)
    map_pages(half, flags=PRIVATE | ANONYMOUS | FIXED, at=plain + half * PAGE)
    return result, seen(plain, half * PAGE), seen(plain + half * PAGE, half * PAGE)


def moved():
    target = map_pages(PAGES)
    results = [call(libc.mremap, plain, PAGES * PAGE, PAGES * PAGE, MAYMOVE | MREMAP_FIXED, target)]
    results.append(call(libc.mremap, plain, PAGES * PAGE, PAGES * PAGE, MAYMOVE | DONTUNMAP, None))
    return results, seen(plain, PAGES * PAGE)


def replaced():
    """munmap of a part, and MAP_FIXED over a part, are as ever."""
    libc.munmap(plain, PAGE)
    map_pages(1, flags=PRIVATE | ANONYMOUS | FIXED, at=plain)
    map_pages(1, flags=PRIVATE | ANONYMOUS | FIXED, at=plain + 2 * PAGE)
    return [seen(plain + index * PAGE, PAGE) for index in range(4)]


def reallocated():
    grown = libc.realloc(block, 32 << 20)
    ctypes.memset(grown + (8 << 20), ord("B"), 24 << 20)
    return seen(grown, 8 << 20), seen(grown + (8 << 20), 24 << 20)


def heap():
    """The break moves down into memory of the snapshot, and up again."""
    assert libc.sbrk(0) == heap_end, "something else moved the break"
    before = seen(heap_end - BROKEN, BROKEN)
    libc.sbrk(-BROKEN)
    libc.sbrk(3 * BROKEN)
    return before, seen(heap_end - BROKEN, 3 * BROKEN)


def trimmed():
    """glibc gives memory back and takes it again, in the main arena and a thread's; calloc must give zeros."""

    def churn():
        found = set()
        for size in (1 << 10, 100 << 10):
            blocks = [libc.malloc(size) for _ in range(300)]
            for address in blocks:
                ctypes.memset(address, ord("X"), size)
            for address in blocks:
                libc.free(address)
            libc.malloc_trim(0)
            for _ in range(600):
                found.add(seen(libc.calloc(1, size), size))
        return sorted(found)

    return churn(), threads[0].ask(churn)[0]


def sparse_parts():
    touched = [seen(sparse + index * PAGE, PAGE) for index in (0, SPARSE // 2, SPARSE - 1)]
    between = sparse + SPARSE // 4 * PAGE
    fill(between, 1, b"B")
    return touched, seen(sparse + SPARSE // 3 * PAGE, 100 * PAGE), advise(between, 1, DONTNEED), seen(between, PAGE)


def huge_parts():
    touched = [seen(huge + index * PAGE, PAGE) for index in (1, HUGE - 2)]
    return touched, seen(huge + HUGE // 2 * PAGE, 10 * PAGE), advise(huge, 3, DONTNEED), seen(huge + PAGE, PAGE)


def reservation():
    before = forked(lambda: seen(reserved, 1))  # SIGSEGV: nothing is answered.
    libc.mprotect(reserved, PAGE, READ | WRITE)
    return before, seen(reserved, PAGE)


def unhidden():
    before = forked(lambda: seen(hidden, 1))
    libc.mprotect(hidden, PAGES * PAGE, READ | WRITE)
    return before, seen(hidden, PAGES * PAGE)


def file_pages():
    return [seen(of_file + index * PAGE, PAGE) for index in range(3)], seen(of_file + 2 * PAGE, 100)


def in_fork():
    fill(other, 1, b"P")

    def child():
        result = advise(plain, PAGES, DONTNEED), seen(plain, PAGES * PAGE), seen(other, PAGE)
        fill(other, PAGES, b"D")
        return result

    return forked(child), seen(other, PAGE), seen(other + PAGE, PAGE), forked(lambda: seen(wiped, PAGES * PAGE))


def in_threads():
    """In threads of the snapshot, and in one that the copy starts; each in turn."""
    new = Threaded()
    return [thread.ask(lambda: dropped(DONTNEED)) for thread in (*threads, new)]


def ask_child(name):
    to_child.send(name.encode())
    return to_child.recv(1000).decode()


def tree():
    ours = (seen(plain, PAGES * PAGE), seen(other, PAGES * PAGE), seen(holey, PAGES * PAGE))
    return [repr(ours), ask_child("child"), ask_child("child_drops")]


def common():
    """Shared memory is one memory for the processes of a copy."""
    before = seen(shared, PAGES * PAGE) + seen(in_memfd, PAGES * PAGE)
    fill(shared, 1, b"S")
    fill(in_memfd, 1, b"M")
    return before, ask_child("shared"), seen(shared, PAGES * PAGE), advise(in_memfd, PAGES, DONTNEED)


def write_everywhere():
    for address, count in ((plain, PAGES), (other, PAGES), (holey, PAGES), (sparse, 1), (of_file, 2)):
        fill(address, count, b"W")
    return seen(plain, PAGES * PAGE)


def advised():
    """Advice that a file mapping takes otherwise than anonymous memory must fail or change nothing that can be read."""
    results = {
        advice: advise(plain, PAGES, advice) for advice in (FREE, REMOVE, WIPEONFORK, 0, 3, 10, 11, 14, 15, 20, 21)
    }
    return results, seen(plain, PAGES * PAGE)


def locked():
    libc.mlock(ctypes.c_void_p(plain), ctypes.c_size_t(PAGES * PAGE))
    return advise(plain, PAGES, DONTNEED_LOCKED), seen(plain, PAGES * PAGE)


def maps():
    with open("/proc/self/maps", encoding="utf-8") as file:
        lines = file.read().splitlines()
    named = {}
    for line in lines:
        low, high = (int(part, 16) for part in line.split()[0].split("-"))
        named.update({name: line for name, at in NAMED.items() if low <= at < high})
    with open("/proc/self/status", encoding="utf-8") as file:
        seccomp = next(line.split()[1] for line in file if line.startswith("Seccomp:"))
    return named, seccomp


NAMED = {
    "plain": plain,
    "holey": holey,
    "hidden": hidden,
    "sparse": sparse,
    "between": sparse + SPARSE // 4 * PAGE,
    "wiped": wiped,
    "pinned": pinned,
    "code": code,
    "shared": shared,
    "of_file": of_file,
    "of_code": of_code,
    "mergeable": mergeable,
    "reserved": reserved,
    "heap": heap_end - 1,
}
OPERATIONS = {
    "child": lambda: (seen(plain, PAGES * PAGE), seen(other, PAGES * PAGE), seen(holey, PAGES * PAGE)),
    "child_drops": lambda: (advise(other, PAGES, DONTNEED), seen(other, PAGES * PAGE)),
    "shared": lambda: (seen(shared, PAGES * PAGE), seen(in_memfd, PAGES * PAGE)),
}


# A second process in the tree: the same addresses, other content.
to_child, in_child = socket.socketpair()
if os.fork() == 0:
    to_child.close()
    fill(plain + PAGE, 1, b"C")
    fill(other, PAGES, b"C")
    in_child.send(b"ready")
    while name := in_child.recv(100):
        in_child.send(repr(OPERATIONS[name.decode()]()).encode())
    os._exit(0)
in_child.close()
to_child.recv(5)


def lambda_handler(event, context):
    signal.alarm(20)
    return globals()[event["do"]](*event.get("with", ()))
