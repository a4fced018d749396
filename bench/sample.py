"""One sample: the client's clock, the client's check, and what the kernel counted meanwhile."""

from __future__ import annotations

import json
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from snapruntime import FunctionError
from snapruntime.bench.cases import Case
from snapruntime.bench.ways import Alive, Way


class WrongAnswerError(FunctionError):
    """A response is another than it must be: whatever was measured, it was not this work."""


def checked(alive: Alive, question: tuple[Any, Any], case: Case, name: str) -> None:
    """Ask, and compare the response.

    Raises:
        WrongAnswerError: it is another than it must be.
        WayError: there is none.
    """
    event, expected = question
    response = alive.call(event)
    # As JSON, where True is not 1.
    if json.dumps(response, sort_keys=True) != json.dumps(expected, sort_keys=True):
        said = f"{name} answered {json.dumps(event)[:80]} by {response!r:.80} in place of {expected!r:.80}"
        document = {"errorType": "Bench.WrongAnswer", "errorMessage": f"workload {case.name}: {said}"}
        raise WrongAnswerError(document, phase="invoke", hint="Nothing that was measured of it can be trusted.")


def one(way: Way, case: Case, name: str, draw: random.Random) -> dict[str, float]:
    """One request, and one more to the process that has answered it: metric -> value."""
    first, second = case.ask(draw), case.ask(draw)
    began = time.perf_counter()
    alive = way.start()
    try:
        started = time.perf_counter() - began
        before = _faults(alive.pid) if way.splits else (0, 0)  # Not on the clock.
        began = time.perf_counter()
        checked(alive, first, case, name)
        called = time.perf_counter() - began
        values = {"first_answer": (started + called) * 1000, **alive.parts}
        if way.splits and alive.parts:
            values["rest"] = started * 1000 - sum(alive.parts.values())
        if alive.pid:
            after = _faults(alive.pid)
            values |= {"minor_faults": after[0], "major_faults": after[1]}
            if way.splits:
                values |= {
                    "first_call": called * 1000,
                    "first_call_minor_faults": after[0] - before[0],
                    "first_call_major_faults": after[1] - before[1],
                }
            began = time.perf_counter()
            checked(alive, second, case, name)
            values["second_call"] = (time.perf_counter() - began) * 1000
        values |= alive.details()
    finally:
        alive.close()
    return values


def burst(way: Way, case: Case, name: str, draw: random.Random, count: int) -> tuple[list[float], float]:
    """`count` requests at the same moment: the milliseconds to each one's answer, and the answers per second.

    The rate counts until every copy is gone and all that had been prepared ahead is there again.
    """
    questions = [case.ask(draw) for _ in range(count)]
    began = 0.0

    def begin() -> None:
        nonlocal began
        began = time.perf_counter()

    together = threading.Barrier(count, action=begin)

    def request(question: tuple[Any, Any]) -> float:
        together.wait()
        alive = way.start()
        try:
            checked(alive, question, case, name)
            return (time.perf_counter() - began) * 1000
        finally:
            alive.close()

    with ThreadPoolExecutor(count) as pool:
        latencies = list(pool.map(request, questions))
    way.settle(count)
    return latencies, count / (time.perf_counter() - began)


def _faults(pid: int) -> tuple[int, int]:
    """Minor and major page faults of all threads of a process so far (proc(5), fields 10 and 12 of stat)."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return int(fields[7]), int(fields[9])
