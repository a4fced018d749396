"""Turns and memory: limits hold, functions take turns, what can wait does not hold up what cannot."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import wait_until

from snapruntime.workflows import concurrency
from snapruntime.workflows.concurrency import Concurrency
from snapruntime.workflows.memory import Memory
from snapruntime.workflows.turns import Turns


def soon() -> float:
    return time.monotonic() + 10


def test_no_more_than_the_limit_at_once() -> None:
    turns, inside, most = Turns(3), 0, 0
    lock = threading.Lock()

    def turn(number: int) -> None:
        nonlocal inside, most
        turns.take(f"f{number % 5}", soon())
        with lock:
            inside += 1
            most = max(most, inside)
        with lock:
            inside -= 1
        turns.give()

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(turn, range(500)))
    assert most <= 3
    assert (turns.taken, turns.waiting) == (0, 0)


def test_functions_are_served_in_turn() -> None:
    """One that comes late, behind a hundred requests of another's, is served second."""
    turns, order = Turns(1), []
    turns.take("busy", soon())

    def turn(name: str) -> None:
        turns.take(name, soon())
        order.append(name)
        turns.give()

    with ThreadPoolExecutor(32) as pool:
        first = [pool.submit(turn, "busy") for _ in range(20)]
        wait_until(lambda: turns.waiting == 20, "all wait")
        others = [pool.submit(turn, name) for name in ("late", "later")]
        wait_until(lambda: turns.waiting == 22, "all wait")
        turns.give()
        for one in first + others:
            one.result(10)
    assert set(order[:3]) == {"busy", "late", "later"}
    assert order[3:] == ["busy"] * 19


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_each_round_serves_each_once(arrivals: list[int]) -> None:
    """Whatever waits: between two turns of one function, each other that waited has had one."""
    turns, order = Turns(1), []
    turns.take("first", soon())

    def turn(name: str) -> None:
        turns.take(name, soon())
        order.append(name)
        turns.give()

    threads = []
    for count, arrival in enumerate(arrivals, 1):
        threads.append(threading.Thread(target=turn, args=(str(arrival),)))
        threads[-1].start()
        while turns.waiting < count:
            threading.Event().wait(0.0001)
    turns.give()
    for thread in threads:
        thread.join(10)
    left = {name: [str(arrival) for arrival in arrivals].count(name) for name in set(map(str, arrivals))}
    while order:
        served = {name for name in left if left[name]}
        assert set(order[: len(served)]) == served
        del order[: len(served)]
        left = {name: count - 1 if name in served else count for name, count in left.items()}


def test_who_waits_too_long_is_told_and_takes_no_ones_place() -> None:
    turns = Turns(1)
    turns.take("f", soon())
    with pytest.raises(TimeoutError):
        turns.take("f", time.monotonic() + 0.01)
    with pytest.raises(TimeoutError):
        turns.take("f", time.monotonic())
    turns.give()
    assert (turns.taken, turns.waiting) == (0, 0)


def test_what_can_wait_leaves_room() -> None:
    turns = Turns(3)
    assert turns.take_spare(leave=1)
    assert turns.take_spare(leave=1)
    assert not turns.take_spare(leave=1), "the last one is a request's"
    turns.take("f", soon())
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(turns.take, "g", soon())
        wait_until(lambda: turns.waiting == 1, "it waits")
        turns.give()
        waiting.result(10)
        assert not turns.take_spare(leave=0)


def test_a_higher_limit_lets_them_in_a_lower_one_ends_nobodys_turn() -> None:
    turns = Turns(0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(turns.take, "f", soon())
        wait_until(lambda: turns.waiting == 1, "it waits")
        turns.limit = 1
        waiting.result(10)
    turns.limit = 0
    assert turns.taken == 1
    turns.give()
    with pytest.raises(TimeoutError):
        turns.take("f", time.monotonic())


def test_memory_waits_for_who_gives_it_back() -> None:
    asked: list[int] = []
    memory = Memory(100, asked.append)
    memory.take(60, soon())
    with pytest.raises(TimeoutError):
        memory.take(50, time.monotonic() + 0.01)
    assert asked == [10], "copies that nobody waits for are given up first"
    assert memory.take_spare(40)
    assert not memory.take_spare(1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(memory.take, 50, soon())
        memory.give(60)
        waiting.result(10)
    assert memory.used == 90


def test_a_copy_that_begins_to_wait_goes_for_who_lacks_its_memory() -> None:
    """It was being made, or answered, when room was asked for: the request was refused though a copy did nothing."""
    asked: list[int] = []
    memory = Memory(100, asked.append)
    memory.take(60, soon())
    memory.relieve()
    assert asked == [], "nobody waits"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(memory.take, 50, soon())
        wait_until(lambda: asked == [10], "it found nothing to give up")
        memory.relieve()
        assert asked == [10, 10]
        assert not memory.take_spare(1), "what there is, is for who waits"
        memory.give(60)
        waiting.result(10)
    memory.relieve()
    assert (asked, memory.used) == ([10, 10], 50)


def test_one_copy_may_be_there_however_large_it_is() -> None:
    memory = Memory(10, lambda _: None)
    memory.take(1000, soon())
    with pytest.raises(TimeoutError):
        memory.take(1, time.monotonic())


def test_what_is_reserved_is_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency, "_KNOWN_S", 0.0)
    reserved = {"own": 3}
    limits = Concurrency(10, lambda: reserved)
    assert limits.turns("other", None).limit == 7
    own = limits.turns("own", 3)
    assert own.limit == 3
    own.take("own", soon())
    assert limits.turns("own", 3) is own
    reserved["own"] = 4
    assert limits.turns("own", 4) is own, "who has a turn of it counts"
    assert (own.limit, own.taken, limits.turns("other", None).limit) == (4, 1, 6)
    reserved["greedy"] = 50
    assert limits.turns("other", None).limit == 0
    reserved.clear()
    assert limits.turns("own", None) is limits.turns("other", None)
    assert limits.turns("other", None).limit == 10
    own.give()


def test_reservations_that_leave_the_others_too_little_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """`publish` takes 1000 for granted: a server that has fewer says so."""
    limits = Concurrency(100, lambda: {"stopped": 0, "greedy": 90})
    limits.turns("other", None)
    assert not caplog.records, "a tenth is enough"
    limits.turns("greedy", 95)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "Of 100 invocations at once, 95 are reserved for greedy: all other functions have 5."


def test_reservations_that_leave_the_others_nothing_are_told_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    Concurrency(2, lambda: {"greedy": 2})
    assert [record.getMessage() for record in caplog.records] == [
        "Of 2 invocations at once, 2 are reserved for greedy: all other functions have 0."
    ]
    caplog.clear()
    Concurrency(2, dict)
    assert not caplog.records


def test_what_a_caller_has_just_read_counts_at_once() -> None:
    limits = Concurrency(10, dict)
    assert limits.turns("f", None).limit == 10
    assert limits.turns("f", 2).limit == 2
    assert limits.turns("g", None).limit == 8
    assert limits.turns("f", None).limit == 10
