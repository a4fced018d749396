"""The host of functions over real CRIU: ways to an answer, pools that follow load, limits, faults, fairness."""

from __future__ import annotations

import json
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support import wait_until

from pool.conftest import OpenHost, Publish, metric, parked, pool_of, said
from snapruntime.values.function import FunctionSettings
from snapruntime.values.service_errors import (
    ResourceNotFoundException,
    ServiceUnavailableException,
    SnapStartException,
    TooManyRequestsException,
)
from snapruntime.workflows.functions import Functions
from snapruntime.workflows.host import FunctionHost

RESERVED = "ReservedFunctionConcurrentInvocationLimitExceeded"
SHARED = "ConcurrentInvocationLimitExceeded"

#: Waits for a file of the host to appear: an answer when the test wants one.
HELD = """
    import os, time
    def lambda_handler(event, context):
        while not os.path.exists(event["until"]):
            time.sleep(0.01)
        return os.getpid()
"""


def test_on_demand_first_parked_then(publish: Publish, open_host: OpenHost) -> None:
    publish("f")
    host = open_host(warm=2)
    first = host.invoke("f", "1", b'{"a": 1}', request_id="11111111-1111-4111-8111-111111111111")
    assert said(first)["event"] == {"a": 1}
    assert (first.way, first.executed_version) == ("on demand", "1")
    assert first.request_id == "11111111-1111-4111-8111-111111111111"
    parked(host, "f", 2)
    second = host.invoke("f", "1", b"{}")
    assert (second.way, second.start_ms) == ("parked", 0.0)
    assert second.total_ms >= second.duration_ms
    parked(host, "f", 2)
    assert metric(host, "answer_seconds_count", function="f", way="parked") == 1


def test_each_answer_is_a_copys_own(publish: Publish, open_host: OpenHost) -> None:
    """Fresh: what one invocation left in memory or in /tmp no other finds; hooks and randomness are its own."""
    publish(
        "f",
        """
        import os, random, time
        from snapruntime import register_after_restore
        restored = []
        register_after_restore(lambda: restored.append(time.time()))
        seen = []
        def lambda_handler(event, context):
            seen.append(event)
            found = os.listdir("/tmp")
            open(f"/tmp/left", "w").close()
            return {"seen": seen, "found": found, "restored": restored, "random": random.random()}
        """,
    )
    host, answers = open_host(warm=2), []
    for number in range(6):
        if number > 1:
            parked(host, "f")
        called = time.time()
        answers.append(said(host.invoke("f", "1", str(number).encode())))
        assert len(answers[-1]["restored"]) == 1
        assert answers[-1]["restored"][0] >= called, "not when it was parked"
    assert [answer["seen"] for answer in answers] == [[number] for number in range(6)]
    assert not any("left" in answer["found"] for answer in answers), answers
    assert len({answer["random"] for answer in answers}) == 6


def test_reuse_is_one_process_for_one_event_after_the_other(publish: Publish, open_host: OpenHost) -> None:
    publish(
        "f",
        """
        count = 0
        def lambda_handler(event, context):
            global count
            count += 1
            if event == "end":
                import os
                os._exit(1)
            return count
        """,
        FunctionSettings(reuse="reuse"),
    )
    host = open_host(warm=0)
    answers = [host.invoke("f", "1", b"{}") for _ in range(3)]
    assert [said(answer) for answer in answers] == [1, 2, 3]
    assert [answer.way for answer in answers] == ["on demand", "reused", "reused"]
    assert host.invoke("f", "1", b'"end"').function_error == "Unhandled"
    assert said(host.invoke("f", "1", b"{}")) == 1, "one that has ended is not used again"
    reports = [r["record"]["metrics"] for r in host._logs.read("f") if r["type"] == "platform.report"]
    assert ["restoreDurationMs" in one for one in reports] == [True, False, False, False, True], "the first pays"


def test_the_report_repeats_how_long_the_restore_took(publish: Publish, open_host: OpenHost) -> None:
    publish("f")
    host = open_host(warm=0, warm_most=0)
    tail = host.invoke("f", "1", b"{}").log_tail.decode()
    once, again = re.findall(r"Restore Duration: ([0-9.]+) ms", tail.replace("Billed Restore Duration", ""))
    assert once == again, tail
    records = {one["type"]: one["record"]["metrics"] for one in host._logs.read("f") if "metrics" in str(one["record"])}
    assert records["platform.restoreReport"]["durationMs"] == records["platform.report"]["restoreDurationMs"]


def test_who_is_not_to_be_used_again_is_not(publish: Publish, open_host: OpenHost, functions: Functions) -> None:
    """Also not a process that has waited since before that was said."""
    publish(
        "f",
        "seen = []\ndef lambda_handler(e, c):\n    seen.append(e)\n    return seen",
        FunctionSettings(reuse="reuse"),
    )
    host = open_host(warm=0)
    assert [said(host.invoke("f", "1", event)) for event in (b"1", b"2")] == [[1], [1, 2]]
    functions.change_settings("f", reuse="fresh")
    assert [said(host.invoke("f", "1", event)) for event in (b"3", b"4")] == [[3], [4]]


def test_a_reused_process_grows_old(publish: Publish, open_host: OpenHost) -> None:
    publish("f", settings=FunctionSettings(reuse="reuse"))
    host = open_host(warm=0, warm_most=0, reuse_age_s=0.0)
    assert [host.invoke("f", "1", b"{}").way for _ in range(2)] == ["on demand"] * 2


def test_a_version_without_snapshot_starts_cold(publish: Publish, open_host: OpenHost, functions: Functions) -> None:
    publish("f")
    answer = open_host().invoke("f", None, b"{}")
    assert (answer.way, answer.executed_version) == ("cold", "$LATEST")
    assert answer.start_ms > 0


def test_an_init_that_fails_is_the_functions_error(publish: Publish, open_host: OpenHost, functions: Functions) -> None:
    publish("f", "import os\nif 'BAD' in os.environ: raise ValueError('no')\ndef lambda_handler(e, c): return 1")
    functions.update_configuration("f", environment={"BAD": "1"})
    answer = open_host().invoke("f", None, b"{}", request_id="r")
    document = json.loads(answer.payload)
    assert answer.function_error == "Unhandled"
    assert (document["errorType"], document["errorMessage"], document["requestId"]) == ("ValueError", "no", "r")


def test_what_was_changed_is_what_answers(publish: Publish, open_host: OpenHost, functions: Functions) -> None:
    publish("f", "import os\ndef lambda_handler(e, c): return os.environ.get('WHICH')")
    host = open_host()
    assert said(host.invoke("f", None, b"{}")) is None
    functions.update_configuration("f", environment={"WHICH": "new"})
    assert said(host.invoke("f", None, b"{}")) == "new"
    assert len(host._supply.keeper.pools()) == 1, "the old one is given up"


def test_through_an_alias_the_arn_is_the_aliass(publish: Publish, open_host: OpenHost, functions: Functions) -> None:
    publish(
        "f", "def lambda_handler(e, c): return [c.invoked_function_arn, c.function_version, c.client_context.custom]"
    )
    functions.create_alias("f", "live", "1")
    answer = open_host().invoke("f", "live", b"{}", client_context='{"custom": {"a": "b"}}')
    arn, version, custom = said(answer)
    assert arn.endswith(":function:f:live")
    assert (version, custom) == ("1", {"a": "b"})


def test_a_hook_that_fails(publish: Publish, open_host: OpenHost) -> None:
    publish(
        "f",
        """
        from snapruntime import register_after_restore
        @register_after_restore
        def back(): raise LookupError("no key")
        def lambda_handler(event, context): return 1
        """,
    )
    host = open_host()
    with pytest.raises(SnapStartException, match="LookupError: no key"):
        host.invoke("f", "1", b"{}")
    parked(host, "f")
    with pytest.raises(SnapStartException, match="LookupError: no key"):
        host.invoke("f", "1", b"{}")
    assert metric(host, "failures_total", error="SnapStartException") == 2


def test_nobody_there(open_host: OpenHost) -> None:
    host = open_host()
    with pytest.raises(ResourceNotFoundException):
        host.invoke("nobody", None, b"{}")
    with pytest.raises(ResourceNotFoundException):
        host.enqueue("nobody", None, b"{}")


# Pools follow load.


def test_a_burst_from_nothing_is_answered_without_errors(publish: Publish, open_host: OpenHost) -> None:
    publish("f")
    host = open_host(queue_s=100)
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda n: host.invoke("f", "1", str(n).encode()), range(100)))
    assert [said(answer)["event"] for answer in answers] == list(range(100))
    wait_until(lambda: pool_of(host, "f").parked == 16, "as many wait as may: the burst is remembered", seconds=60)


def test_who_is_not_used_shrinks_to_nothing(publish: Publish, open_host: OpenHost) -> None:
    publish("f")
    publish("g", settings=FunctionSettings(reuse="reuse"))
    host = open_host(idle_s=0.3, warm=2)
    for name in ("f", "g"):
        host.invoke(name, "1", b"{}")
    wait_until(lambda: not host._supply.keeper.pools(), "the pools are closed")
    wait_until(lambda: host._supply.memory.used == 0, "nothing is charged")
    assert host.invoke("f", "1", b"{}").way == "on demand"


def test_a_copy_that_dies_while_it_waits_is_replaced(publish: Publish, open_host: OpenHost) -> None:
    publish("f")
    host = open_host(warm=1)
    host.invoke("f", "1", b"{}")
    pool = parked(host, "f")
    (held,) = pool.waiting()
    signal.pidfd_send_signal(held.copy.pidfd, signal.SIGKILL)
    wait_until(lambda: metric(host, "deaths_while_waiting_total") == 1, "its end is noticed")
    wait_until(lambda: pool.parked == 1 and pool.waiting() != [held], "another waits")
    assert host.invoke("f", "1", b"{}").way == "parked"


def test_a_copy_that_is_dead_is_not_handed_over(publish: Publish, open_host: OpenHost) -> None:
    """Whether or not its end has been noticed yet."""
    publish("f")
    host = open_host(warm=1)
    host.invoke("f", "1", b"{}")
    for _ in range(5):
        pool = parked(host, "f")
        (held,) = pool.waiting()
        signal.pidfd_send_signal(held.copy.pidfd, signal.SIGKILL)
        said(host.invoke("f", "1", b"{}"))
        pool._not_before = 0.0


def test_copies_that_cannot_live_are_not_made_over_and_over(publish: Publish, open_host: OpenHost) -> None:
    publish(
        "f",
        """
        import os, time
        real = time.tzset
        # Rehearsal and hand-over call it; the second time is the hand-over of one that was parked.
        def once():
            if not os.path.exists("/tmp/on-demand"):
                os._exit(1)
        def lambda_handler(event, context): return 1
        time.tzset = once
        """,
    )
    host = open_host(warm=4)
    with pytest.raises(SnapStartException):
        host.invoke("f", "1", b"{}")
    wait_until(lambda: metric(host, "starts_total", how="failed") >= 2, "it was tried twice")
    assert metric(host, "starts_total", how="failed") <= 3, "each pause is twice as long"


def test_a_changed_library_leads_to_another_snapshot(
    publish: Publish, open_host: OpenHost, functions: Functions, code_root: Path
) -> None:
    library = code_root / "pool-library.bin"
    library.write_bytes(b"1" * 8192)
    library.chmod(0o644)
    publish(
        "f",
        f"""
        import mmap
        file = open({str(library)!r}, "rb")
        view = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
        def lambda_handler(event, context): return chr(view[0])
        """,
        read_only=(str(library),),
    )
    host = open_host(warm=1)
    assert said(host.invoke("f", "1", b"{}")) == "1"
    parked(host, "f")
    before = functions.version("f", "1").snapshot
    library.write_bytes(b"2" * 8192)
    assert said(host.invoke("f", "1", b"{}")) == "2"
    assert functions.version("f", "1").snapshot != before


def test_a_snapshot_that_cannot_be_restored_is_made_anew(
    publish: Publish, open_host: OpenHost, functions: Functions
) -> None:
    """For all who have come meanwhile, once; those who have a copy keep it."""
    publish("f")
    host = open_host(warm=0, warm_most=0)
    said(host.invoke("f", "1", b"{}"))
    before = functions.version("f", "1").snapshot
    snapshot = pool_of(host, "f").opened.snapshot
    assert snapshot is not None
    (snapshot.stored.folder / "images" / "files.img").unlink()
    with ThreadPoolExecutor(4) as pool:
        for answer in pool.map(lambda _: host.invoke("f", "1", b"{}"), range(4)):
            said(answer)
    assert functions.version("f", "1").snapshot != before


# Limits.


def held(host: FunctionHost, name: str, count: int, until: Path, pool: ThreadPoolExecutor) -> list[Any]:
    """So many requests that run until a file appears."""
    event = json.dumps({"until": str(until)}).encode()
    running = [pool.submit(host.invoke, name, "1", event) for _ in range(count)]
    wait_until(lambda: sum(p.busy for p in host._supply.keeper.pools() if p.name == name) >= count, "all run")
    return running


@pytest.fixture
def gate(code_root: Path) -> Path:
    """A file that is not there yet, in a folder that functions are shown."""
    folder = code_root / f"gate-{time.monotonic_ns()}"
    folder.mkdir(mode=0o755)
    return folder / "open"


def test_reserved_and_common_concurrency(publish: Publish, open_host: OpenHost, gate: Path) -> None:
    publish("own", HELD, FunctionSettings(reserved_concurrency=1), read_only=(str(gate.parent),))
    publish("other", HELD, read_only=(str(gate.parent),))
    host = open_host(concurrency=3, queue_s=0.3)
    event = json.dumps({"until": str(gate)}).encode()
    with ThreadPoolExecutor(8) as pool:
        running = held(host, "own", 1, gate, pool) + held(host, "other", 2, gate, pool)
        with pytest.raises(TooManyRequestsException) as caught:
            host.invoke("own", "1", event)
        assert caught.value.reason == RESERVED
        with pytest.raises(TooManyRequestsException) as caught:
            host.invoke("other", "1", event)
        assert caught.value.reason == SHARED, "one of three is kept for the other function"
        assert metric(host, "throttled_total", reason=RESERVED) == 1
        gate.touch()
        for one in running:
            said(one.result(20))
    said(host.invoke("other", "1", event))


def test_reserving_nothing_switches_a_function_off(publish: Publish, open_host: OpenHost) -> None:
    publish("f", settings=FunctionSettings(reserved_concurrency=0))
    host, began = open_host(queue_s=30), time.monotonic()
    with pytest.raises(TooManyRequestsException):
        host.invoke("f", "1", b"{}")
    assert time.monotonic() - began < 10, "waiting would not help"


def test_who_waits_in_the_queue_is_answered(publish: Publish, open_host: OpenHost, gate: Path) -> None:
    publish("f", HELD, read_only=(str(gate.parent),))
    host = open_host(concurrency=1)
    with ThreadPoolExecutor(8) as pool:
        running = held(host, "f", 1, gate, pool)
        running += [pool.submit(host.invoke, "f", "1", json.dumps({"until": str(gate)}).encode()) for _ in range(3)]
        wait_until(lambda: metric(host, "waiting_for_turn") == 3, "they wait")
        gate.touch()
        assert max(one.result(20).queued_ms for one in running) > 0


def test_memory_is_shared_out(publish: Publish, open_host: OpenHost, gate: Path) -> None:
    """Parked copies go for a request; a request waits for others; what does not come in time is refused."""
    publish("f", HELD, read_only=(str(gate.parent),))
    publish("g")
    host = open_host(memory_bytes=1, warm=2, queue_s=0.5)
    said(host.invoke("g", "1", b"{}"))
    wait_until(lambda: host._supply.memory.used == 0 or pool_of(host, "g").parked == 1, "one may wait")
    with ThreadPoolExecutor(2) as pool:
        running = held(host, "f", 1, gate, pool)
        wait_until(lambda: metric(host, "starts_total", how="on demand") == 2, "it has the memory")
        assert pool_of(host, "g").parked == 0, "it was given up"
        with pytest.raises(TooManyRequestsException):
            host.invoke("g", "1", b"{}")
        gate.touch()
        said(running[0].result(20))


def test_a_function_that_floods_does_not_hold_up_another(publish: Publish, open_host: OpenHost) -> None:
    """Of one turn to start processes each function gets its share: who has one request waits for one of the other's."""
    publish("flood")
    publish("quiet")
    host = open_host(starts=1, warm=0, queue_s=100)
    for name in ("flood", "quiet"):
        host.invoke(name, "1", b"{}")
    ended: list[str] = []

    def call(name: str) -> None:
        said(host.invoke(name, "1", b"{}"))
        ended.append(name)

    with ThreadPoolExecutor(64) as pool:
        flood = [pool.submit(call, "flood") for _ in range(60)]
        wait_until(lambda: host._supply.starts.waiting >= 30, "a flood")
        before = len(ended)
        call("quiet")
        assert ended.index("quiet") - before <= 8, "and those that were being answered"
        for one in flood:
            one.result(60)


def test_hooks_that_take_long_hold_up_no_start(publish: Publish, open_host: OpenHost, gate: Path) -> None:
    publish(
        "slow",
        f"""
        import os, time
        from snapruntime import register_after_restore
        @register_after_restore
        def wait():
            while not os.path.exists({str(gate)!r}):
                time.sleep(0.01)
        def lambda_handler(event, context): return 1
        """,
        read_only=(str(gate.parent),),
    )
    publish("f")
    host = open_host(starts=1, warm=0)
    with ThreadPoolExecutor(4) as pool:
        slow = [pool.submit(host.invoke, "slow", "1", b"{}") for _ in range(3)]
        wait_until(lambda: metric(host, "starts_total", how="on demand") == 3, "all have been restored")
        said(host.invoke("f", "1", b"{}"))
        assert not any(one.done() for one in slow)
        gate.touch()
        for one in slow:
            said(one.result(20))


def test_draining_waits_for_who_runs_and_refuses_others(publish: Publish, open_host: OpenHost, gate: Path) -> None:
    publish("f", HELD, read_only=(str(gate.parent),))
    host = open_host()
    with ThreadPoolExecutor(2) as pool:
        (running,) = held(host, "f", 1, gate, pool)
        assert not host.drain(0.05)
        with pytest.raises(ServiceUnavailableException):
            host.invoke("f", "1", b"{}")
        gate.touch()
        assert host.drain(20)
        said(running.result(20))
