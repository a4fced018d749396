"""A hundred copies, every source of randomness that the runtime repairs: none repeats; without the repair they do."""

from __future__ import annotations

from typing import Any

import pytest
from support import Write

from snapruntime import Runtime

COPIES = 100

SOURCE = """
    import os, random, secrets, ssl, sys, tempfile, uuid
    import numpy
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    def draws():
        descriptor, name = tempfile.mkstemp()
        os.close(descriptor)
        return {
            "random.random": random.random(),
            "random.getrandbits": random.getrandbits(64),
            "random.sample": random.sample(range(10**6), 10),
            "random.SystemRandom": random.SystemRandom().random(),
            "random.Random()": random.Random().random(),
            "ssl.RAND_bytes": ssl.RAND_bytes(16).hex(),
            "cryptography ec": str(ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value),
            "cryptography ed25519": ed25519.Ed25519PrivateKey.generate().private_bytes_raw().hex(),
            "secrets": secrets.token_hex(),
            "os.urandom": os.urandom(16).hex(),
            "uuid1": str(uuid.uuid1()),
            "uuid1 node": uuid.uuid1().node,
            "uuid1 clock sequence and node": str(uuid.uuid1())[19:],
            "uuid.getnode": uuid.getnode(),
            "uuid4": str(uuid.uuid4()),
            "tempfile": name,
            "tempfile sequence": next(tempfile._get_candidate_names()),
            "numpy.random.rand": float(numpy.random.rand()),
            "numpy.random.normal": float(numpy.random.normal()),
            "numpy.random.get_state": numpy.random.get_state()[1][:8].tolist(),
            "numpy.random.default_rng": float(numpy.random.default_rng().random()),
        }
    {init}
    def handler(event, context):
        return draws()
"""

NAMES = [line.split('"')[1] for line in SOURCE.splitlines() if line.startswith('            "')]
#: From the kernel at each call; they need no repair.
SAFE = {"random.SystemRandom", "random.Random()", "secrets", "os.urandom", "uuid4", "numpy.random.default_rng"}
#: Seeded when first used, or (numpy.random) loaded then, which in the copies of "unused" is after the restore.
LATE = {
    *("ssl.RAND_bytes", "cryptography ec", "cryptography ed25519", "tempfile", "tempfile sequence"),
    *("numpy.random.rand", "numpy.random.normal", "numpy.random.get_state", "uuid1 clock sequence and node"),
}
#: Holds the time.
BY_THE_CLOCK = {"uuid1"}
UNREPAIRED = 'sys.modules["_snapruntime_worker.entropy"]._FIXES.clear()'

Answers = list[dict[str, Any]]


def answers(runtime: Runtime, write: Write, init: str, copies: int) -> Answers:
    found = []
    with runtime.snapshot(write(SOURCE.replace("{init}", init), timeout_s=20)) as snapshot:
        snapshot.keep_ready(2, copies)
        for _ in range(copies):
            with snapshot.restore() as copy:
                found.append(copy.invoke({}).result)
    return found


@pytest.fixture(scope="module", params=["draws()", ""], ids=["used", "unused"])
def repaired(request: pytest.FixtureRequest, runtime: Runtime, write: Write) -> Answers:
    return answers(runtime, write, request.param, COPIES)


@pytest.mark.parametrize("name", NAMES)
def test_no_two_of_a_hundred_copies_have_the_same(repaired: Answers, name: str) -> None:
    values = [str(answer[name]) for answer in repaired]
    assert len(set(values)) == COPIES, f"{name} repeats among copies: {values[:5]}"


@pytest.mark.parametrize(("init", "safe"), [("draws()", SAFE), ("", SAFE | LATE)], ids=["used", "unused"])
def test_without_the_repair_they_do(runtime: Runtime, write: Write, init: str, safe: set[str]) -> None:
    found = answers(runtime, write, f"{UNREPAIRED}\n    {init}", 3)
    repeated = {name for name in NAMES if len({str(answer[name]) for answer in found}) == 1}
    assert repeated == set(NAMES) - safe - BY_THE_CLOCK


@pytest.mark.parametrize(
    ("init", "different"),
    [("draw()", 5), ("", 5), (f"import sys; {UNREPAIRED}; draw()", 1)],
    ids=["used", "unused", "without the repair"],
)
def test_polars(runtime: Runtime, write: Write, init: str, different: int) -> None:
    """By itself: its size makes a hundred copies take long."""
    source = """
        import polars
        series = polars.Series(range(1_000_000))
        def draw(): return series.sample(4).to_list()
        {init}
        def handler(event, context): return draw()
    """
    with runtime.snapshot(write(source.replace("{init}", init), timeout_s=20)) as snapshot:
        found = []
        for _ in range(5):
            with snapshot.restore() as copy:
                found.append(str(copy.invoke({}).result))
    assert len(set(found)) == different
