"""A host of functions over real CRIU, on the session's data folder; each test counts what it left behind."""

from __future__ import annotations

import contextlib
import json
import shutil
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from functions.conftest import configured, emptied, zipped
from support import Census, assert_nothing_left, census, wait_until

from snapruntime import Runtime
from snapruntime.mechanisms.log_store import LOGS
from snapruntime.values.answer import Answer, Limits
from snapruntime.values.function import FunctionSettings, State
from snapruntime.workflows.functions import Functions
from snapruntime.workflows.host import FunctionHost
from snapruntime.workflows.pool import Pool
from snapruntime.workflows.versions import Versions

ECHO = """
    import os
    def lambda_handler(event, context):
        return {"pid": os.getpid(), "event": event}
"""

#: `publish(NAME, SOURCE, SETTINGS, **CONFIGURATION)`: a function with version 1, Active.
Publish = Callable[..., None]
#: `open_host(**LIMITS)`: a host that ends with the test.
OpenHost = Callable[..., FunctionHost]


@pytest.fixture(autouse=True)
def nothing_left(runtime: Runtime, criu_home: Path) -> Iterator[Census]:
    before = census([criu_home])
    threads = threading.active_count()
    yield before
    assert_nothing_left(before, [criu_home])
    assert threading.active_count() == threads


@pytest.fixture
def functions(nothing_left: Census, criu_home: Path) -> Iterator[Functions]:
    with emptied(criu_home) as service:
        yield service
    for name in (LOGS, "dead-letters"):
        shutil.rmtree(criu_home / name, ignore_errors=True)
    for path in criu_home.glob("events.*"):
        path.unlink()


@pytest.fixture
def versions(functions: Functions, runtime: Runtime) -> Versions:
    return Versions(functions, runtime)


@pytest.fixture
def publish(functions: Functions, versions: Versions) -> Publish:
    def call(name: str, source: str = ECHO, settings: FunctionSettings | None = None, **configuration: object) -> None:
        code = zipped({"handler.py": textwrap.dedent(source)})
        functions.create(name, configured(**{"timeout_s": 20, **configuration}), code, settings=settings)
        version = versions.prepare(functions.publish(name))
        assert version.state is State.ACTIVE, version.state_reason

    return call


@pytest.fixture
def open_host(functions: Functions, versions: Versions) -> Iterator[OpenHost]:
    with contextlib.ExitStack() as stack:
        yield lambda **limits: stack.enter_context(FunctionHost(functions, versions, Limits(**limits)))


def pool_of(host: FunctionHost, name: str) -> Pool:
    (pool,) = [pool for pool in host._supply.keeper.pools() if pool.name == name]
    return pool


def parked(host: FunctionHost, name: str, count: int = 1) -> Pool:
    """The pool of a function, once so many copies are parked."""
    wait_until(lambda: any(p.name == name and p.parked >= count for p in host._supply.keeper.pools()), "copies wait")
    return pool_of(host, name)


def said(answer: Answer) -> Any:
    assert answer.function_error is None, answer.payload
    return json.loads(answer.payload)


def metric(host: FunctionHost, name: str, **labels: str) -> float:
    return host.metrics.registry.get_sample_value(f"snapruntime_{name}", labels) or 0.0
