"""Snapshots made in the background: PublishVersion does not wait for them, and the host may have changed meanwhile."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Self

from snapruntime.values.errors import SnapruntimeError
from snapruntime.values.function import FunctionVersion, State
from snapruntime.values.service_errors import ResourceNotFoundException
from snapruntime.workflows.versions import Versions

_log = logging.getLogger("snapruntime.publish")
#: How many are made at once: init may use all processors, and requests want them too.
_AT_ONCE = 2


class Preparing:
    """Makes the snapshots that are asked for, those whose makers have died, and those that the host changed under."""

    def __init__(self, versions: Versions) -> None:
        self._versions = versions
        self._threads = ThreadPoolExecutor(_AT_ONCE, "publish")
        self._running: set[Future[None]] = set()
        for version in versions.abandoned():
            self.begin(version)
        for version in versions.with_snapshots():
            self._threads.submit(self._refresh, version)

    def begin(self, version: FunctionVersion) -> None:
        """Have a version's snapshot made, where it is Pending."""
        if version.state is State.PENDING:
            running = self._threads.submit(self._prepare, version)
            self._running.add(running)
            running.add_done_callback(self._running.discard)

    def _prepare(self, version: FunctionVersion) -> None:
        name = f"{version.name}:{version.version}"
        try:
            prepared = self._versions.prepare(version)
            _log.info("%s is %s. %s", name, prepared.state, prepared.state_reason)
        except ResourceNotFoundException:
            _log.info("%s was deleted before its snapshot was made.", name)
        except Exception:
            _log.exception("The snapshot of %s could not be made", name)

    def _refresh(self, version: FunctionVersion) -> None:
        """What a version's first invocation would have to wait for otherwise."""
        try:
            with self._versions.open(version, making=lambda reason: _log.info("%s: %s", version.arn, reason)):
                pass
        except SnapruntimeError as error:
            _log.warning("%s is not ready: %s", version.arn, error.message)
        except Exception:
            _log.exception("%s could not be looked at", version.arn)

    def drain(self, seconds: float) -> bool:
        """Begin no others, which the next start takes up; wait for those that are being made: whether they are."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        return not wait(set(self._running), seconds).not_done

    def close(self) -> None:
        """Wait for those that are being made, however long it takes."""
        self._threads.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
