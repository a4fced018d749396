"""What is promised of clocks and timers: the table in docs/snapshot-safety.md, line by line, on real copies."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from support import Write

from snapruntime import Runtime

SOURCE = """
    import asyncio, os, resource, signal, threading, time

    def clocks():
        raw = ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC_RAW")
        return {
            "time.time": time.time(),
            "time.monotonic": time.monotonic(),
            "time.perf_counter": time.perf_counter(),
            **{name: time.clock_gettime(getattr(time, name)) for name in raw},
            "time.process_time": time.process_time(),
            "time.thread_time": time.thread_time(),
            "resource.getrusage": resource.getrusage(resource.RUSAGE_SELF).ru_utime,
            "os.times().elapsed": os.times().elapsed,
        }

    busy = sum(range(20_000_000))  # some tenths of a second of CPU time
    at_init = clocks()
    loop = asyncio.new_event_loop()

    def handler(event, context):
        return {name: value - at_init[name] for name, value in clocks().items()}
"""

#: How long the snapshot lies unused before its second copy, seconds.
GAP_S = 1.0
STAND_STILL = ("time.monotonic", "time.perf_counter", "CLOCK_BOOTTIME", "CLOCK_MONOTONIC_RAW")
START_ANEW = ("time.process_time", "time.thread_time", "resource.getrusage")


@pytest.fixture(scope="module")
def since_init(runtime: Runtime, write: Write) -> tuple[dict[str, float], dict[str, float]]:
    """What has passed since init by each clock, in an early copy and in one made `GAP_S` later."""
    found: list[Any] = []
    with runtime.snapshot(write(SOURCE)) as snapshot:
        for pause in (0.0, GAP_S):
            threading.Event().wait(pause)  # It is the time itself that is waited for.
            with snapshot.restore() as copy:
                found.append(copy.invoke({}).result)
    return found[0], found[1]


@pytest.mark.parametrize("name", ["time.time", "os.times().elapsed"])
def test_clocks_that_go_with_the_world(since_init: tuple[dict[str, float], ...], name: str) -> None:
    early, late = since_init
    assert late[name] - early[name] >= GAP_S * 0.99


@pytest.mark.parametrize("name", STAND_STILL)
def test_clocks_that_stand_still_in_the_snapshot(since_init: tuple[dict[str, float], ...], name: str) -> None:
    early, late = since_init
    assert early[name] > 0
    assert 0 < late[name] < late["time.time"] - GAP_S * 0.5


@pytest.mark.parametrize("name", START_ANEW)
def test_clocks_of_the_process_start_anew(since_init: tuple[dict[str, float], ...], name: str) -> None:
    """So a difference over the snapshot is negative: what init used is not in it."""
    assert all(since[name] < 0 for since in since_init)


def test_the_wall_clock_is_right(runtime: Runtime, write: Write) -> None:
    source = "import time\ndef handler(e, c): return time.time()"
    with runtime.snapshot(write(source)) as snapshot, snapshot.restore() as copy:
        before = time.time()
        assert before <= copy.invoke({}).result <= time.time()


TIMERS = {
    "threading.Timer": "threading.Timer(LEFT, fire, ['threading.Timer']).start()",
    "signal.setitimer": "signal.signal(signal.SIGALRM, lambda *_: fire('signal.setitimer')); "
    "signal.setitimer(signal.ITIMER_REAL, LEFT)",
    "loop.call_later": "loop.call_later(LEFT, fire, 'loop.call_later')",
    "Event.wait": "start(lambda: (threading.Event().wait(LEFT), fire('Event.wait')))",
    "time.sleep": "start(lambda: (time.sleep(LEFT), fire('time.sleep')))",
}


def test_timers_go_on_with_what_was_left_of_them(runtime: Runtime, write: Write) -> None:
    """The snapshot lies there for longer than all of them; that does not count by the copy's own clock."""
    source = """
        import asyncio, signal, threading, time
        LEFT = 1.5
        when = {}
        def fire(name): when[name] = time.monotonic() - set_at
        def start(work): threading.Thread(target=work, daemon=True).start()
        loop = asyncio.new_event_loop()
        set_at = time.monotonic()
        {timers}
        def handler(event, context):
            async def wait():
                while len(when) < event: await asyncio.sleep(0.02)
            loop.run_until_complete(wait())
            return when
    """
    function = write(source.replace("{timers}", "\n        ".join(TIMERS.values())), timeout_s=20)
    with runtime.snapshot(function) as snapshot:
        threading.Event().wait(1.6)
        with snapshot.restore() as copy:
            when = copy.invoke(len(TIMERS)).result
    assert when.keys() == TIMERS.keys()
    assert all(after > 1.45 for after in when.values()), when


def test_alarms_and_timers_of_cpu_time_go_on(runtime: Runtime, write: Write) -> None:
    source = """
        import signal
        fired = []
        for number in (signal.SIGALRM, signal.SIGPROF, signal.SIGVTALRM):
            signal.signal(number, lambda number, _: fired.append(number))
        signal.alarm(2)
        signal.setitimer(signal.ITIMER_PROF, 0.5)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.5)
        def handler(event, context):
            at_first = len(fired)
            while len(fired) < 3: sum(range(1000))
            return at_first
    """
    with runtime.snapshot(write(source, timeout_s=20)) as snapshot, snapshot.restore() as copy:
        assert copy.invoke({}).result == 0


def test_the_time_zone_is_that_of_the_environment(runtime: Runtime, write: Write) -> None:
    """Also where it is given to the restore: see test_environment."""
    source = """
        import time
        name = time.tzname[0]
        def handler(event, context): return [name, time.tzname[0], time.localtime(0).tm_hour]
    """
    with runtime.snapshot(write(source, environment={"TZ": "Asia/Tokyo"})) as snapshot, snapshot.restore() as copy:
        assert copy.invoke({}).result == ["JST", "JST", 9]
    with runtime.snapshot(write(source)) as snapshot, snapshot.restore(environment={"TZ": "Asia/Tokyo"}) as copy:
        assert copy.invoke({}).result == ["UTC", "JST", 9]


def test_an_asyncio_loop_made_at_init_goes_on(runtime: Runtime, write: Write) -> None:
    """Its epoll, its wake-up socket and its thread pool; no hook is needed."""
    source = """
        import asyncio, os
        loop = asyncio.new_event_loop()
        lock = asyncio.Lock()
        queue = asyncio.Queue()
        async def consume(): return await queue.get()
        async def start(): return asyncio.ensure_future(consume())
        task = loop.run_until_complete(start())
        loop.run_until_complete(loop.run_in_executor(None, int))
        async def work():
            loop.call_soon_threadsafe(queue.put_nowait, "woken")
            async with lock:
                child = await asyncio.create_subprocess_exec("echo", "child", stdout=asyncio.subprocess.PIPE)
                said, _ = await child.communicate()
            return [await task, await loop.run_in_executor(None, sum, [1, 2]), said.decode().strip()]
        def handler(event, context): return loop.run_until_complete(asyncio.wait_for(work(), 10))
    """
    with runtime.snapshot(write(source, timeout_s=20)) as snapshot:
        for _ in range(2):
            with snapshot.restore() as copy:
                assert copy.invoke({}).result == ["woken", 3, "child"]
