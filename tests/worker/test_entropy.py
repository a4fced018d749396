"""Two copies of one frozen state must not go on alike."""

from __future__ import annotations

import pytest

from .conftest import Spawn

# Without CRIU there is no second copy (a fork has another PID, by which some of these modules repair themselves).
# So the states are compared before and after `restore`, in one process.
PROBES = {
    "random": "random.getstate()",
    "numpy.random": "numpy.random.get_state()[1].tolist()",
    "tempfile": "tempfile._get_candidate_names().rng.getstate()",
    "uuid": "uuid.getnode()",
    "multiprocessing.process": "bytes(multiprocessing.process.current_process().authkey)",
}


@pytest.mark.parametrize("name", PROBES)
def test_state_differs_after_restore(spawn: Spawn, name: str) -> None:
    pytest.importorskip(name)
    worker = spawn(f"""
        import {name}
        def state(): return repr({PROBES[name]})
        def handler(e, c):
            global frozen
            before, frozen = frozen, state()
            return before == frozen
        frozen = None
    """)
    worker.init(kind="snap-start")
    assert [worker.result(), worker.result()] == [False, True]
    worker.send("restore")
    assert name in worker.expect("restored")["entropy"]
    assert worker.result() is False


def test_uuid1_in_copies_differs_in_node_and_goes_on_working(spawn: Spawn) -> None:
    worker = spawn(
        "import uuid\nuuid.uuid1()\ndef handler(e, c): return [uuid.uuid1().hex, uuid.uuid1().hex, uuid.uuid4().hex]"
    )
    worker.init(kind="snap-start")
    nodes = {worker.result()[0][-12:]}
    for _ in range(9):
        worker.send("restore")
        worker.expect("restored")
        ids = worker.result()
        assert len(set(ids)) == 3
        nodes.add(ids[0][-12:])
        assert int(ids[0][-12:-10], 16) & 1  # multicast: no machine's own address
    assert len(nodes) == 10


def test_openssl_goes_on_differently(spawn: Spawn) -> None:
    """Same memory and same PID twice: the second time RAND_add came in between. Seen through the call only."""
    worker = spawn("""
        import ssl, _ssl
        ssl.RAND_bytes(8); calls = []
        real = _ssl.RAND_add
        _ssl.RAND_add = lambda data, entropy: (calls.append([len(data), entropy, data.hex()]), real(data, entropy))[1]
        def handler(e, c): return calls
    """)
    worker.init(kind="snap-start")
    for _ in range(2):
        worker.send("restore")
        assert "_ssl" in worker.expect("restored")["entropy"]
    first, second = worker.result()[-2:]  # the one before is that of the end of init
    assert first[:2] == second[:2] == [48, 48.0]
    assert first[2] != second[2]


def test_nothing_is_imported_for_it(spawn: Spawn) -> None:
    worker = spawn("""
        import sys
        before = set(sys.modules)
        def handler(e, c): return sorted(set(sys.modules) - before)
    """)
    worker.init(kind="snap-start")
    worker.send("restore")
    restored = worker.expect("restored")
    assert restored["entropy"] == []
    assert restored["entropy_us"] < 100_000
    assert worker.result() == []


def test_a_handlers_own_module_of_such_a_name_is_left_alone(spawn: Spawn) -> None:
    worker = spawn(
        "import random, uuid\ndef handler(e, c): return random.mine",
        files={"random.py": "mine = 1", "uuid.py": "import sys; sys.modules[__name__] = 3"},
    )
    worker.init(kind="snap-start")
    worker.send("restore")
    assert worker.expect("restored")["entropy"] == []
    assert worker.result() == 1


def test_an_after_hook_can_seed_for_itself(spawn: Spawn) -> None:
    worker = spawn("""
        import random
        from snapshot_restore_py import *
        register_after_restore(random.seed, 1)
        def handler(e, c): return random.random()
    """)
    worker.init(kind="snap-start")
    worker.send("restore")
    worker.expect("restored")
    import random

    assert worker.result() == random.Random(1).random()


@pytest.mark.parametrize(
    ("before", "same"),
    [
        ("process = multiprocessing.Process(target=print)", False),
        ("multiprocessing.current_process().authkey = b'shared'", True),
        ("multiprocessing.current_process().authkey = multiprocessing.current_process().authkey", True),
        ("process = fork.Process(target=signal.pause, daemon=True); process.start()", True),
    ],
    ids=["made", "set", "set to what it was", "a child has it"],
)
def test_the_key_of_multiprocessing(spawn: Spawn, before: str, same: bool) -> None:
    """Whom a child, a listener or a manager lets in: not all copies, but whoever has the key from us already."""
    worker = spawn(f"""
        import multiprocessing, signal
        fork = multiprocessing.get_context("fork")
        process = None
        {before}
        key = bytes(multiprocessing.current_process().authkey)

        def handler(e, c):
            now = multiprocessing.current_process().authkey
            theirs = now if process is None else process.authkey
            return [now == key, theirs == now]
    """)
    worker.init(kind="snap-start")
    worker.send("restore")
    worker.expect("restored")
    assert worker.result() == [same, True]
