"""One snapshot of `lab` for all tests here; each does its one thing in a copy of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import Write

from snapruntime import Function, Runtime, Snapshot

LAB = Path(__file__).with_name("lab.py")

#: `lab(NAME, *ARGUMENTS)`: what that function of `lab.py` returns in a fresh copy.
Lab = Callable[..., Any]


@pytest.fixture(scope="session")
def lab_function(write: Write) -> Function:
    return write(LAB.read_text("utf-8"), timeout_s=30.0)


@pytest.fixture(scope="session")
def lab_snapshot(runtime: Runtime, lab_function: Function) -> Iterator[Snapshot]:
    with runtime.snapshot(lab_function) as snapshot:
        assert snapshot.mapped, snapshot.plain_reason
        yield snapshot


def ask(snapshot: Snapshot, name: str, *arguments: object) -> Any:
    """What `lab.NAME(*arguments)` returns in a fresh copy of `snapshot`."""
    with snapshot.restore() as copy:
        answer = copy.invoke({"do": name, "with": arguments})
        assert answer.error is None, (answer.error, answer.logs)
        return answer.result


@pytest.fixture(scope="session")
def lab(lab_snapshot: Snapshot) -> Lab:
    return lambda name, *arguments: ask(lab_snapshot, name, *arguments)
