"""Versions in the session's data folder, over real CRIU; of the function `f`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from functions.conftest import HANDLER, configured, emptied, zipped

from snapruntime import Runtime
from snapruntime.values.function import FunctionVersion
from snapruntime.values.service_errors import ResourceConflictException
from snapruntime.workflows.collect import collect
from snapruntime.workflows.functions import Functions
from snapruntime.workflows.versions import OpenVersion, Versions


@pytest.fixture
def functions(criu_home: Path) -> Iterator[Functions]:
    """The session's data folder, where the runtime looks for snapshots; without functions in the end."""
    with emptied(criu_home) as service:
        yield service


@pytest.fixture
def versions(functions: Functions, runtime: Runtime) -> Versions:
    return Versions(functions, runtime)


Publish = Callable[..., FunctionVersion]


@pytest.fixture
def publish(functions: Functions, versions: Versions) -> Publish:
    """`publish(SOURCE, **configuration)`: a new version of `f`, prepared."""

    def call(source: str = HANDLER, **fields: Any) -> FunctionVersion:
        content = zipped({"handler.py": source})
        try:
            functions.create("f", configured(**fields), content)
        except ResourceConflictException:
            functions.update_code("f", content)
            functions.update_configuration("f", **fields)
        return versions.prepare(functions.publish("f"))

    return call


def answer(opened: OpenVersion, event: Any = None) -> Any:
    with opened.start() as instance:
        return instance.invoke(event).result


def snapshots(functions: Functions) -> set[str]:
    return {path.name for path in functions.home.glob("snapshots/*/2*/")}


def collected(functions: Functions, **options: bool) -> set[str]:
    return {Path(one.path).name for one in collect(functions, **options)}
