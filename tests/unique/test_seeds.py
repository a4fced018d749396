"""Generators that init seeded explicitly: known by line, reseeded all the same unless they are to be kept."""

from __future__ import annotations

import sys

import pytest
from support import Write
from worker.conftest import Spawn

from snapruntime import Runtime

SOURCE = """
    import random
    import numpy
    random.seed(42)
    numpy.random.seed(seed=7)
    def handler(event, context):
        return [random.random(), float(numpy.random.rand())]
"""


def test_seeded_generators_are_told_and_kept_where_that_is_asked_for(runtime: Runtime, write: Write) -> None:
    with runtime.snapshot(write(SOURCE)) as snapshot:
        assert snapshot.seeded == {"random": "handler.py:3", "numpy.random": "handler.py:4"}
        found: dict[bool, list[list[float]]] = {True: [], False: []}
        for keep in (True, False, True, False):
            with snapshot.restore(keep_seeds=keep) as copy:
                found[keep].append(copy.invoke({}).result)
    assert found[True][0] == found[True][1]
    assert found[True][0][0] == 0.6394267984578837  # random.Random(42)'s first
    for kept, first, second in zip(found[True][0], *found[False], strict=True):
        assert len({kept, first, second}) == 3


def test_what_was_not_seeded_is_never_kept(runtime: Runtime, write: Write) -> None:
    source = """
        import random, helper
        first = random.random()
        def handler(event, context): return random.random()
    """
    files = {"helper.py": "import random\nrandom.seed(1)\nrandom.seed()\n"}
    with runtime.snapshot(write(source, files=files)) as snapshot:
        assert snapshot.seeded == {}
        with snapshot.restore(keep_seeds=True) as one, snapshot.restore(keep_seeds=True) as other:
            assert one.invoke({}).result != other.invoke({}).result


@pytest.mark.parametrize(
    ("statement", "where"),
    [
        ("random.seed('text')", "handler.py:2"),
        ("state = random.getstate(); random.setstate(state)", "handler.py:2"),
        ("from random import seed; seed(0)", "handler.py:2"),
        ("random.seed(5); random.seed(None)", None),
        ("random.seed()", None),
        ("random.Random(3)", None),
    ],
)
def test_what_counts_as_seeding(spawn: Spawn, statement: str, where: str | None) -> None:
    worker = spawn(f"import random\n{statement}\ndef handler(e, c): pass\n")
    assert worker.init(kind="snap-start")["seeded"] == ({"random": where} if where else {})


def test_the_modules_are_as_they_were_once_init_is_over(spawn: Spawn) -> None:
    worker = spawn("""
        import importlib, inspect, random, sys
        source = inspect.getsource(random)  # by its loader
        random.seed(1)
        def handler(e, c):
            finders = [type(finder).__name__ for finder in sys.meta_path]
            return [random.seed.__self__ is random._inst, "Seeds" in finders, "exec_module" in vars(random.__loader__)]
    """)
    assert worker.init(kind="snap-start")["type"] == "ready"
    assert worker.result() == [True, False, False]


def test_a_handlers_own_random_module_is_left_alone(spawn: Spawn) -> None:
    worker = spawn("import random\ndef handler(e, c): return random.seed", {"random.py": "seed = 3\n"})
    assert worker.init(kind="snap-start")["seeded"] == {}
    worker.send("restore", keep_seeds=True)
    assert "random" not in worker.expect("restored")["entropy"]
    assert worker.result() == 3


def test_it_costs_microseconds(spawn: Spawn) -> None:
    worker = spawn("import random, ssl, tempfile, uuid, numpy.random\ndef handler(e, c): pass")
    worker.init(kind="snap-start")
    took = []
    for _ in range(20):
        worker.send("restore")
        took.append(worker.expect("restored")["entropy_us"])
    print(f"repair of random, ssl, tempfile, uuid and numpy: {sorted(took)[10]} us at the median", file=sys.stderr)
    assert sorted(took)[10] < 5000  # a few hundred on a quiet machine


def test_a_librarys_first_time_is_paid_before_the_snapshot(spawn: Spawn) -> None:
    """polars' first seeding takes 15 ms, OpenSSL's generator half of one to begin with."""
    worker = spawn("import polars, ssl, cryptography.hazmat.bindings._rust\ndef handler(e, c): pass")
    worker.init(kind="snap-start")
    worker.send("restore")
    restored = worker.expect("restored")
    assert {"polars", "_ssl", "cryptography.hazmat.bindings._rust"} <= set(restored["entropy"])
    assert restored["entropy_us"] < 5000
