"""Fixtures for faults: a runtime that may be harmed, and the count of what each test leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import Census, assert_nothing_left, census

from snapruntime import Runtime

#: As small as a snapshot's manifest can be.
MANIFEST: dict[str, Any] = {
    "wire": 1,
    "identity": {},
    "inputs": {"files": {}, "listed": {}, "absent": {}, "names": {}},
    "channel": ["socket:[1]", "pipe:[2]"],
    "memory": {"mapped": False},
    "interpreter": {"folders": []},
    "init_ms": 1.0,
}


@pytest.fixture
def nothing_left(criu_home: Path) -> Iterator[Census]:
    """No test that asks for this may leave a process, mount, descriptor or file of ours behind."""
    before = census([criu_home])
    yield before
    assert_nothing_left(before, [criu_home])


@pytest.fixture
def own_runtime(criu_home: Path, nothing_left: Census) -> Iterator[Runtime]:
    """A runtime whose spawner may be harmed."""
    with Runtime(criu_home) as runtime:
        yield runtime
