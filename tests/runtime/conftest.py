"""Fixtures that climb: home → runtime → snapshot of a function → copy; each test is followed by a count of leftovers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from support import Census, assert_nothing_left, census

from snapruntime import ColdStarter, Function, Instance, Runtime, Snapshot

#: Starts an instance of a function, either way; the context manager ends it.
Start = Callable[..., AbstractContextManager[Instance]]


@pytest.fixture(autouse=True)
def nothing_left(runtime: Runtime, criu_home: Path) -> Iterator[Census]:
    """Every test here must leave no process, mount, descriptor or file of ours behind."""
    before = census([criu_home])
    yield before
    assert_nothing_left(before, [criu_home])


@pytest.fixture(params=["cold", "restored"])
def start(request: pytest.FixtureRequest, runtime: Runtime) -> Iterator[Start]:
    """`start(FUNCTION)`: an instance of it, cold and restored; one behaviour is tested both ways."""
    opened: dict[Function, Any] = {}
    function_keys: dict[int, Function] = {}

    def source_of(function: Function) -> ColdStarter | Snapshot:
        if id(function) not in function_keys:
            function_keys[id(function)] = function
            opened_one = runtime.cold(function) if request.param == "cold" else runtime.snapshot(function)
            opened[id(function)] = opened_one  # type: ignore[index]
        return opened[id(function)]  # type: ignore[index,no-any-return]

    def call(function: Function, **options: Any) -> Instance:
        source = source_of(function)
        return source.start(**options) if isinstance(source, ColdStarter) else source.restore(**options)

    yield call
    for source in opened.values():
        source.close()
