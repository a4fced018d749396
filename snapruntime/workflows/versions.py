"""What runs behind a version: its snapshot is made, opened under a lease, made anew where the host changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Self

from snapruntime.mechanisms.channel import LogSink
from snapruntime.values.errors import FunctionError, HostError, SnapruntimeError, UsageError
from snapruntime.values.function import TRANSITIONS, FunctionVersion, State
from snapruntime.values.service_errors import (
    InvalidZipFileException,
    ResourceConflictException,
    ServiceError,
    ServiceException,
    SnapStartNotReadyException,
    SnapStartRegenerationFailureException,
)
from snapruntime.workflows.cold import ColdStarter
from snapruntime.workflows.functions import Functions
from snapruntime.workflows.instance import Instance
from snapruntime.workflows.restore import Snapshot
from snapruntime.workflows.revisions import new_revision
from snapruntime.workflows.runtime import Runtime

Making = Callable[[str], None]
Initialised = Callable[[float], None]
Failed = Callable[[SnapruntimeError], None]


class OpenVersion:
    """A version that processes can be had of, until it is closed; its code and snapshot stay on disk so long.

    Attributes:
        version: as it was when it was opened.
        snapshot: what copies come from; None where the version has none (SnapStart is off, or it is `$LATEST`).
        cold: what starts fresh processes; None where there is a snapshot.
    """

    def __init__(
        self, version: FunctionVersion, snapshot: Snapshot | None, cold: ColdStarter | None, lease: int
    ) -> None:
        self.version = version
        self.snapshot = snapshot
        self.cold = cold
        self._lease = lease

    def start(
        self, *, requested: float | None = None, request_id: str | None = None, sink: LogSink | None = None
    ) -> Instance:
        """A process for one request: a restored copy, or a fresh one. See `Snapshot.restore`, `ColdStarter.start`."""
        if self.snapshot is not None:
            return self.snapshot.restore(requested=requested, request_id=request_id, sink=sink)
        assert self.cold is not None
        return self.cold.start(requested=requested, sink=sink)

    def close(self) -> None:
        """Its processes must have been closed."""
        try:
            if self.snapshot is not None:
                self.snapshot.close()
            if self.cold is not None:
                self.cold.close()
        finally:
            if self._lease >= 0:
                os.close(self._lease)
                self._lease = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Versions:
    """Opens versions on this host. Thread-safe."""

    def __init__(self, functions: Functions, runtime: Runtime) -> None:
        self._functions = functions
        self._runtime = runtime

    def prepare(
        self,
        version: FunctionVersion,
        *,
        sink: LogSink | None = None,
        making: Making = lambda _: None,
        initialised: Initialised = lambda _: None,
        failed: Failed = lambda _: None,
    ) -> FunctionVersion:
        """Make a Pending version's snapshot; returns it Active, or Failed with the reason. Waits for another who does.

        Args:
            sink: receives what init writes.
            making: called before the snapshot is made, with the reason.
            initialised: called with the milliseconds of init and before-snapshot hooks, once these are over.
            failed: called with the error where the version failed; it is no exception here.

        Raises:
            ResourceNotFoundException: the version has been deleted.
        """
        if self._current(version).state is State.PENDING:
            try:
                self._open_snapshot(version, State.FAILED, sink, making, initialised).close()
            except SnapruntimeError as error:
                failed(error)
        return self._current(version)

    def open(
        self,
        version: FunctionVersion,
        *,
        sink: LogSink | None = None,
        making: Making = lambda _: None,
        initialised: Initialised = lambda _: None,
        rebuild: bool = False,
    ) -> OpenVersion:
        """Open a version; its snapshot is made anew before where the host changed under it. Options as in `prepare`.

        Args:
            rebuild: make it anew in any case.

        Raises:
            ResourceNotFoundException: the version has been deleted.
            SnapStartNotReadyException: it is Pending, and somebody is making its snapshot.
            ResourceConflictException: it is Failed.
            SnapStartRegenerationFailureException: its snapshot could not be made anew; it is Inactive now.
            InvalidZipFileException: its code is not as it was published.
            HostError: this host cannot, for now.
            UsageError: it starts cold, and its interpreter is not there.
        """
        version = self._current(version)
        if not version.has_snapshot:
            return self._open_cold(version)
        if version.state is State.PENDING:
            version = self._adopt(version, sink, making, initialised)
        if version.state is State.FAILED:
            raise ResourceConflictException(
                "The operation cannot be performed at this time. The function is currently in the following state: "
                "Failed",
                hint=version.state_reason,
            )
        try:
            return self._open_snapshot(version, State.INACTIVE, sink, making, initialised, rebuild=rebuild)
        except (HostError, ServiceError):
            raise
        except SnapruntimeError as error:
            raise SnapStartRegenerationFailureException(
                f"The snapshot of {version.name}:{version.version} could not be made anew: {error.message}",
                hint=error.hint,
            ) from error

    def with_snapshots(self) -> list[FunctionVersion]:
        """Every version that has a snapshot, or had: opening it makes it anew where the host changed under it."""
        with self._functions.database.reading() as tables:
            found = [version for name in tables.names() for version in tables.versions(name)]
        return [one for one in found if one.has_snapshot and one.state in (State.ACTIVE, State.INACTIVE)]

    def abandoned(self) -> list[FunctionVersion]:
        """Pending versions whose maker has died. To be prepared by who finds them."""
        with self._functions.database.reading() as tables:
            pending = tables.pending()
        return [version for version, maker in pending if not self._functions.makers.is_alive(maker)]

    def _current(self, version: FunctionVersion) -> FunctionVersion:
        return self._functions.version(version.name, version.version)

    def _open_cold(self, version: FunctionVersion) -> OpenVersion:
        lease = self._functions.code.lease(version.code)
        try:
            self._functions.code.verify(version.code)
            return OpenVersion(version, None, self._runtime.cold(version.function()), lease)
        except BaseException:
            os.close(lease)
            raise

    def _adopt(
        self, version: FunctionVersion, sink: LogSink | None, making: Making, initialised: Initialised
    ) -> FunctionVersion:
        """Make the snapshot of a version whose maker has died. Raises SnapStartNotReadyException where it has not."""
        functions = self._functions
        with functions.database.changing() as tables:
            if functions.makers.is_alive(tables.maker(version.name, version.version)):
                raise SnapStartNotReadyException(
                    f"Lambda is initializing your function {version.name}:{version.version}. It will be ready to "
                    "invoke once your function state becomes ACTIVE."
                )
            functions.put_pending(tables, version)
        return self.prepare(version, sink=sink, making=making, initialised=initialised)

    def _open_snapshot(
        self,
        version: FunctionVersion,
        otherwise: State,
        sink: LogSink | None,
        making: Making,
        initialised: Initialised,
        *,
        rebuild: bool = False,
    ) -> OpenVersion:
        """Open a version's snapshot, an old one or a new one; the version is Active then, or `otherwise`."""
        functions = self._functions
        lease = -1
        try:
            lease = functions.code.lease(version.code)
            functions.code.verify(version.code)  # What a handler imports later is not among its snapshot's inputs.
            snapshot = self._runtime.snapshot(
                version.function(), rebuild=rebuild, sink=sink, making=making, initialised=initialised
            )
        except BaseException as error:
            if lease >= 0:
                os.close(lease)
            if isinstance(error, Exception) and _concerns(error, otherwise):
                self._note(version, otherwise, error=error)
            raise
        opened = OpenVersion(version, snapshot, None, lease)
        try:
            if (version.state, version.snapshot) != (State.ACTIVE, snapshot.id):
                self._note(version, State.ACTIVE, snapshot=snapshot.id)
                opened.version = self._current(version)
        except BaseException:
            opened.close()
            raise
        return opened

    def _note(
        self,
        version: FunctionVersion,
        state: State,
        *,
        error: Exception | None = None,
        snapshot: str | None = None,
    ) -> None:
        with self._functions.database.changing() as tables:
            now = tables.version(version.name, version.version)
            if now is None or state not in TRANSITIONS[now.state]:
                return
            tables.change_state(
                version.name,
                version.version,
                state,
                reason=_reason(error) if error else "",
                reason_code=_reason_code(error) if error else "",
                snapshot=snapshot,
                revision_id=new_revision(),
            )


def _concerns(error: Exception, otherwise: State) -> bool:
    """Whether what went wrong is the version's state from here on."""
    if otherwise is State.FAILED:
        return True  # Else it would be Pending as long as we live.
    # What the host or the service lacks for the moment says nothing about a version that was Active.
    return isinstance(error, SnapruntimeError) and not isinstance(error, HostError | ServiceException)


def _reason(error: Exception) -> str:
    if isinstance(error, FunctionError):
        return f"{error.code}: {error.message}"
    return error.message if isinstance(error, SnapruntimeError) else repr(error)


def _reason_code(error: Exception) -> str:
    """The service model's StateReasonCode that comes nearest."""
    if isinstance(error, FunctionError):
        if error.code == "Sandbox.Timedout":
            return "FunctionError.InitTimeout"
        return "FunctionError.RuntimeInitError" if error.code.startswith("Runtime.") else "FunctionError"
    if isinstance(error, InvalidZipFileException):
        return "InvalidZipFileException"
    return "InvalidRuntime" if isinstance(error, UsageError) else "InternalError"
