"""Threads that come and go: all work is done, by no more threads than there may be, and who is idle ends."""

from __future__ import annotations

import threading
import time
import weakref
from concurrent.futures import CancelledError

import pytest
from support import wait_until

from snapruntime.mechanisms import threads as threads_module
from snapruntime.mechanisms.threads import Threads


def named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


def test_what_is_beyond_waits() -> None:
    threads, go_on, begun = Threads(3, "beyond"), threading.Event(), threading.Semaphore(0)

    def work(number: int) -> int:
        begun.release()
        assert go_on.wait(30)
        return number

    found = [threads.submit(work, number) for number in range(10)]
    for _ in range(3):
        assert begun.acquire(timeout=30)
    assert len(named("beyond")) == 3
    assert not begun.acquire(blocking=False)
    go_on.set()
    assert [one.result(30) for one in found] == list(range(10))
    threads.shutdown()
    assert not named("beyond")


def test_who_is_idle_ends_and_others_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads_module, "IDLE_S", 0.05)
    threads, barrier = Threads(8, "idle"), threading.Barrier(8)
    for _ in range(2):
        for one in [threads.submit(barrier.wait, 30) for _ in range(8)]:
            one.result(30)
        wait_until(lambda: not named("idle"), "all have ended")
    threads.shutdown()


def test_no_work_is_lost_where_threads_end_just_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads_module, "IDLE_S", 0.001)
    threads, end, done = Threads(4, "lost"), time.monotonic() + 1.0, 0
    while time.monotonic() < end:
        assert [one.result(30) for one in [threads.submit(str, done), threads.submit(str, -1)]] == [str(done), "-1"]
        done += 1
        threading.Event().wait(0.001)  # About when they end.
    threads.shutdown()
    assert done > 10


def test_what_fails_and_what_is_not_begun() -> None:
    threads, begun, go_on = Threads(1, "fails"), threading.Event(), threading.Event()
    with pytest.raises(ZeroDivisionError):
        threads.submit(lambda: 1 // 0).result(30)
    running = threads.submit(lambda: begun.set() or go_on.wait(30))  # type: ignore[func-returns-value]
    assert begun.wait(30)
    waiting = threads.submit(str)
    threads.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(CancelledError):
        waiting.result(30)
    with pytest.raises(RuntimeError):
        threads.submit(str)
    go_on.set()
    assert running.result(30)
    threads.shutdown()
    assert not named("fails")


def test_a_thread_that_waits_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads_module, "IDLE_S", 60.0)

    class Large:
        pass

    threads, large = Threads(1, "keeps"), Large()
    gone = weakref.ref(large)
    threads.submit(id, large).result(30)
    del large
    wait_until(lambda: gone() is None, "nobody has it any more")
    threads.shutdown()
