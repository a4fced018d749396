"""Fixtures for faults: a runtime that may be harmed, and the count of what each test leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Census, assert_nothing_left, census

from snapruntime import Runtime


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
