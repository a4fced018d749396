"""Nothing that should be unique may repeat among copies of one snapshot."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
from support import Write

from snapruntime import Runtime

COPIES = 8

SOURCE = """
    import os, random, secrets, ssl, tempfile, uuid
    import numpy

    # All generators have been used before the snapshot: their state is in it.
    used = [random.random(), ssl.RAND_bytes(8), uuid.uuid1(), uuid.uuid4(), tempfile.mkstemp(), numpy.random.rand()]

    def handler(event, context):
        descriptor, name = tempfile.mkstemp()
        os.close(descriptor)
        return {
            "random.random": random.random(),
            "random.getrandbits": random.getrandbits(64),
            "random.shuffle": random.sample(range(1000), 10),
            "random.SystemRandom": random.SystemRandom().random(),
            "ssl.RAND_bytes": ssl.RAND_bytes(16).hex(),
            "secrets": secrets.token_hex(),
            "os.urandom": os.urandom(16).hex(),
            "uuid1": str(uuid.uuid1()),
            "uuid1 node": uuid.uuid1().node,
            "uuid1 clock sequence and node": str(uuid.uuid1())[19:],
            "uuid4": str(uuid.uuid4()),
            "tempfile": name,
            "tempfile sequence": next(tempfile._get_candidate_names()),
            "numpy.random.rand": float(numpy.random.rand()),
            "numpy.random.get_state": numpy.random.get_state()[1][:8].tolist(),
            "numpy.random.default_rng": float(numpy.random.default_rng().random()),
            "hash of the request": context.aws_request_id,
        }
"""

NAMES = [line.split('"')[1] for line in SOURCE.splitlines() if line.startswith('            "')]


@pytest.fixture(scope="module")
def answers(runtime: Runtime, write: Write) -> list[dict[str, Any]]:
    """What eight copies, alive at once, answer."""
    with runtime.snapshot(write(SOURCE, timeout_s=20)) as snapshot, ExitStack() as stack:
        copies = [stack.enter_context(snapshot.restore()) for _ in range(COPIES)]
        return [copy.invoke({}).result for copy in copies]


@pytest.mark.parametrize("name", NAMES)
def test_no_two_copies_have_the_same(answers: list[dict[str, Any]], name: str) -> None:
    values = [str(answer[name]) for answer in answers]
    assert len(set(values)) == COPIES, f"{name} repeats among copies: {values}"
