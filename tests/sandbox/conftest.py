"""Two processes of one function that tries to break out: one cold, one restored; each test is tried in both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support import Census, Write, assert_nothing_left, census

from snapruntime import Function, Instance, Runtime

SOURCE = Path(__file__).with_name("breaker.py").read_text("utf-8")

#: `attempt(NAME, *ARGUMENTS)`: what that function of `breaker.py` returns.
Attempt = Callable[..., Any]
#: `breaker(**OPTIONS)`: another process of it, fresh or restored as the test is, with options of `resolve_function`.
Breaker = Callable[..., Attempt]
#: `started[WAY]()`: another process of the function as it is by default.
Started = Mapping[str, Callable[[], Instance]]


@pytest.fixture(autouse=True)
def nothing_left(runtime: Runtime, criu_home: Path) -> Iterator[Census]:
    before = census([criu_home])
    yield before
    assert_nothing_left(before, [criu_home])


@pytest.fixture(params=["cold", "restored"])
def way(request: pytest.FixtureRequest) -> str:
    """How the process came to be."""
    return str(request.param)


def start(runtime: Runtime, function: Function, way: str, stack: ExitStack) -> Instance:
    """A process of `function` that ends with `stack`."""
    if way == "cold":
        return stack.enter_context(stack.enter_context(runtime.cold(function)).start())
    return stack.enter_context(stack.enter_context(runtime.snapshot(function)).restore())


def asking(instance: Instance) -> Attempt:
    def attempt(name: str, *arguments: object) -> Any:
        answer = instance.invoke({"do": name, "with": arguments})
        assert answer.error is None, (answer.error, answer.logs)
        return answer.result

    return attempt


@pytest.fixture(scope="session")
def started(runtime: Runtime, write: Write) -> Iterator[Started]:
    """What starts processes of the function as it is by default: its sandbox is made once for all tests."""
    function = write(SOURCE, timeout_s=30.0, environment={"GIVEN": "yes"})
    with runtime.snapshot(function) as snapshot, runtime.cold(function) as cold:
        yield {"cold": cold.start, "restored": snapshot.restore}


@pytest.fixture
def attempt(started: Started, way: str) -> Iterator[Attempt]:
    with started[way]() as instance:
        yield asking(instance)


@pytest.fixture
def breaker(runtime: Runtime, write: Write, way: str) -> Iterator[Breaker]:
    with ExitStack() as stack:

        def call(**options: Any) -> Attempt:
            return asking(start(runtime, write(SOURCE, **{"timeout_s": 30.0, **options}), way, stack))

        yield call
