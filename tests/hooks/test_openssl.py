"""An OpenSSL that a wheel brings along, which nothing of Python's own knows of."""

from __future__ import annotations

from contextlib import ExitStack

from support import Write

from snapruntime import Runtime

SOURCE = """
    import ctypes, glob, os
    import psycopg2
    folder = os.path.dirname(psycopg2.__file__) + "/../psycopg2_binary.libs/"
    library = ctypes.CDLL(glob.glob(folder + "libcrypto*")[0])
    def draw():
        data = ctypes.create_string_buffer(16)
        library.RAND_bytes(data, 16)
        return data.raw.hex()
    draw()
    def handler(event, context): return draw()
"""


def test_the_openssl_of_a_wheel(runtime: Runtime, write: Write) -> None:
    repeats = []
    for hooks in ((), ("openssl",)):
        with runtime.snapshot(write(SOURCE, hooks=hooks, timeout_s=20)) as snapshot, ExitStack() as stack:
            copies = [stack.enter_context(snapshot.restore()) for _ in range(3)]
            repeats.append(len({copy.invoke({}).result for copy in copies}) == 1)
    assert repeats == [True, False]
