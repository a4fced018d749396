"""Fixtures that climb: home → runtime → snapshot of a function → copy; each test counts what it left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import Census, assert_nothing_left, census

from snapruntime import Function, Instance, Runtime

#: `start(FUNCTION)`: a fresh instance of the function; it ends with the test.
Start = Callable[[Function], Instance]


@pytest.fixture(autouse=True)
def nothing_left(runtime: Runtime, criu_home: Path) -> Iterator[Census]:
    """No test here may leave a process, mount, descriptor or file of ours behind."""
    before = census([criu_home])
    yield before
    assert_nothing_left(before, [criu_home])


@pytest.fixture(params=["cold", "restored"])
def start(request: pytest.FixtureRequest, runtime: Runtime) -> Iterator[Start]:
    """A fresh instance of a function: one behaviour is tested in a cold process and in a restored copy."""
    with ExitStack() as stack:

        def call(function: Function) -> Instance:
            if request.param == "cold":
                return stack.enter_context(stack.enter_context(runtime.cold(function)).start())
            return stack.enter_context(stack.enter_context(runtime.snapshot(function)).restore())

        yield call
