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


#: The first CRIU that reads a pagemap of 2 GiB, that of a tebibyte, which the kernel gives in parts (commit e7276cf63).
_READS_IN_PARTS = (4, 0, 0)


@pytest.fixture(scope="session")
def lab_function(runtime: Runtime, write: Write) -> Function:
    huge = 1 << 40 if runtime.criu.version >= _READS_IN_PARTS else 1 << 39
    return write(LAB.read_text("utf-8"), timeout_s=30.0, environment={"HUGE": str(huge)})


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
