"""The pytest plugin: a fixture `snapruntime` that snapshots a handler and restores copies of it within a user's tests.

    def test_orders_have_numbers_of_their_own(snapruntime):
        function = snapruntime("shop/api.py:create", timeout_s=5)
        first, second = function.copies(2)
        assert first.invoke({}).result["order"] != second.invoke({}).result["order"]
        function.assert_safe()

Where the host cannot take snapshots (no root, no CRIU), tests that use it are skipped; with --snapruntime-required they
fail.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # Loaded when a test asks for it: the plugin is in every run of pytest.
    from snapruntime.values.findings import Report
    from snapruntime.values.model import Function, Invocation
    from snapruntime.workflows.instance import Instance
    from snapruntime.workflows.restore import Snapshot
    from snapruntime.workflows.runtime import Runtime


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("snapruntime").addoption(
        "--snapruntime-required",
        action="store_true",
        help="Fail tests that use the snapruntime fixture where this host cannot take snapshots, instead of skipping.",
    )


class Snapshotted:
    """One function; its snapshot is made, or found, when it is first needed. Copies end with the test.

    Attributes:
        function: what was resolved.
    """

    def __init__(self, runtime: Runtime, function: Function, stack: ExitStack) -> None:
        self.function = function
        self._runtime = runtime
        self._stack = stack
        self._snapshot: Snapshot | None = None

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot; made by init and the before-snapshot hooks."""
        if self._snapshot is None:
            self._snapshot = self._stack.enter_context(self._runtime.snapshot(self.function))
        return self._snapshot

    def restore(self) -> Instance:
        """A fresh copy, after its after-restore hooks."""
        snapshot = self.snapshot
        return self._stack.enter_context(snapshot.restore())

    def copies(self, count: int) -> list[Instance]:
        """So many copies, alive at once."""
        return [self.restore() for _ in range(count)]

    def cold(self) -> Instance:
        """A fresh process that ran init itself, without snapshot."""
        return self._stack.enter_context(self._stack.enter_context(self._runtime.cold(self.function)).start())

    def invoke(self, event: Any = None) -> Invocation:
        """The answer of a fresh copy to an event; {} by default."""
        return self.restore().invoke({} if event is None else event)

    def check(self, event: Any = None, *, runs: int = 2) -> Report:
        """What `snapruntime check` finds."""
        from snapruntime.workflows.check.checker import check

        return check(self._runtime, self.function, event, runs=runs)

    def assert_safe(self, event: Any = None, *, runs: int = 2, at: str = "error") -> None:
        """Fail the test where `snapruntime check` finds something, or the handler fails in every process.

        Args:
            at: the least severity that counts: "error", "warning" or "note".
        """
        report = self.check(event, runs=runs)
        if report.fails(at) or report.handler_error:
            from snapruntime.edges.console import Console
            from snapruntime.edges.findings import as_text

            console = Console(soft_wrap=True, highlight=False, color_system=None)
            with console.capture() as text:
                console.print(as_text(report))
            head = "not safe to be copied" if report.fails(at) else "the handler failed"
            pytest.fail(f"{head}:\n{text.get()}", pytrace=False)


class Snapruntime:
    """What the fixture gives: call it with a handler."""

    def __init__(self, runtime: Runtime, stack: ExitStack, folders: Sequence[Path]) -> None:
        self.runtime = runtime
        self._stack = stack
        self._folders = folders

    def __call__(self, handler: str | os.PathLike[str], **options: Any) -> Snapshotted:
        """A function to be snapshotted.

        Args:
            handler: a file, file.py:function, or module.function, from the current folder; a file that is not there
                also from the folder of the test, or pytest's root folder.
            options: environment, timeout_s and others; see `snapruntime.resolve_function`.
        """
        from snapruntime.values.errors import UsageError
        from snapruntime.workflows.resolve import resolve_function

        handler = os.fspath(handler)
        file = handler if handler.endswith(".py") else handler.rpartition(":")[0]
        if file and not os.path.exists(file):
            there = (str(folder / handler) for folder in self._folders if (folder / file).is_file())
            handler = next(there, handler)
        try:
            function = resolve_function(handler, **options)
        except UsageError as error:
            pytest.fail(f"{error.message} {error.hint}".strip(), pytrace=False)
        return Snapshotted(self.runtime, function, self._stack)


@pytest.fixture(scope="session")
def _snapruntime_runtime(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    from snapruntime.values.errors import HostError
    from snapruntime.workflows.runtime import Runtime

    try:
        runtime = Runtime()
    except HostError as error:
        reason = f"{error.message} {error.hint}".strip()
        if request.config.getoption("--snapruntime-required"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with runtime:
        yield runtime


@pytest.fixture
def snapruntime(request: pytest.FixtureRequest, _snapruntime_runtime: Runtime) -> Iterator[Snapruntime]:
    """Snapshot a handler and restore copies of it: `snapruntime("handler.py").invoke({})`."""
    with ExitStack() as stack:
        yield Snapruntime(_snapruntime_runtime, stack, (request.path.parent, request.config.rootpath))
