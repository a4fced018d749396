"""How a copy lives: CRIU restore → after-restore hooks → one or more invocations → gone."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from dataclasses import dataclass
from typing import Self

from snapruntime.mechanisms.channel import ChannelEnds, Disconnected, LogSink
from snapruntime.mechanisms.criu import CriuError, CriuWorker, ExternalMount
from snapruntime.mechanisms.mapped import MEMORY, MEMORY_KEY
from snapruntime.mechanisms.process import Spawner, SpawnerError
from snapruntime.mechanisms.sandbox import Sandbox
from snapruntime.mechanisms.store import IMAGES, TMP, Store, StoredSnapshot
from snapruntime.values.errors import FunctionError, HostError, RestoreError
from snapruntime.values.host import Criu
from snapruntime.values.model import RESTORE_LIMIT_S, Function
from snapruntime.worker import wire
from snapruntime.workflows.freshness import MappedFiles
from snapruntime.workflows.instance import Instance
from snapruntime.workflows.launch import Launched, broken_channel, exited, timed_out
from snapruntime.workflows.ready import Ready


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What a restore takes beside the request to CRIU.

    Attributes:
        copy: the name of the sandbox's copy, with its /tmp.
        ends: the channel.
        criu: waits, with the descriptors that the copy inherits.
        mounts: what it is handed.
    """

    copy: str
    ends: ChannelEnds
    criu: CriuWorker
    mounts: list[ExternalMount]


class Snapshot:
    """A snapshot ready to be restored from: verified, leased, its sandbox prepared. Closing it gives all that back.

    Attributes:
        id: its name in the store.
        reason: why it was made anew; empty where an older one was found fit.
        init_ms: what its init took, when it was made.
        mapped: whether copies map its memory; where not, they read it, and `plain_reason` says why.
        plain_reason: empty where it is mapped.
    """

    def __init__(
        self,
        spawner: Spawner,
        criu: Criu,
        function: Function,
        store: Store,
        stored: StoredSnapshot,
        sandbox: Sandbox,
        reason: str,
    ) -> None:
        self.id = stored.id
        self.reason = reason
        self.init_ms = float(stored.manifest["init_ms"])
        self.mapped = bool(stored.manifest["memory"]["mapped"])
        self.plain_reason = str(stored.manifest["memory"].get("reason", ""))
        self.stored = stored
        self._store = store
        self._ready = Ready(self._prepare, self._give_up)
        self._spawner = spawner
        self._criu = criu
        self._function = function
        self._sandbox = sandbox
        self._mapped_files = MappedFiles(stored.manifest)
        self._folded_mounts = bool(stored.manifest["memory"].get("folded_mounts"))
        self._images = os.open(stored.folder / IMAGES, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._memory = os.open(stored.folder / IMAGES / MEMORY, os.O_RDONLY | os.O_CLOEXEC) if self.mapped else -1
        try:
            spawner.run(sandbox.prepare(str(stored.folder / TMP)))
            self._points = [] if self._folded_mounts else spawner.mounts(sandbox.root)
        except BaseException as error:
            self._close_files()
            with contextlib.suppress(SpawnerError, HostError, OSError):
                spawner.run(sandbox.discard())
            if isinstance(error, SpawnerError):
                raise RestoreError(f"The surroundings of the function could not be made: {error.message}") from error
            raise

    def restore(
        self, *, requested: float | None = None, request_id: str | None = None, sink: LogSink | None = None
    ) -> Instance:
        """Restore a fresh copy and run its after-restore hooks.

        Args:
            requested: `time.monotonic()` of the request that the copy is for; its `total_ms` counts from there.
            request_id: the request that the copy is for, for its error documents.
            sink: receives what the hooks write.

        Raises:
            RestoreError: CRIU could not bring the snapshot back.
            FunctionError: an after-restore hook failed or took too long.
        """
        requested = requested or time.monotonic()
        request_id = request_id or str(uuid.uuid4())
        deadline = time.monotonic() + RESTORE_LIMIT_S
        copy, launched = self._bring_back(deadline, sink)
        try:
            restore_ms = round((time.monotonic() - requested) * 1000, 3)
            hooks_ms = run_after_restore(launched, request_id, deadline)
        except BaseException:
            launched.close()
            self._discard(copy)
            raise
        return Instance(
            self._function,
            launched,
            requested=requested,
            snapshot=self.id,
            restore_ms=restore_ms,
            hooks_ms=hooks_ms,
            on_close=lambda: self._discard(copy),
        )

    def _discard(self, copy: str) -> None:
        with contextlib.suppress(SpawnerError):  # The spawner has ended, and all it had mounted with it.
            self._spawner.run(self._sandbox.discard_copy(copy))

    def keep_ready(self, count: int, uses: int | None = None) -> None:
        """Have `count` copies prepared ahead from now on, in the background: all but the restore itself.

        Args:
            count: how many; each is a process of CRIU that waits, and two mounts.
            uses: how many to prepare at most in all; None for no limit.
        """
        self._ready.keep(count, uses)

    def wait_ready(self) -> int:
        """Wait until the copies that `keep_ready` asked for are prepared; returns how many are."""
        return self._ready.wait()

    def _prepare(self) -> _Prepared:
        copy = uuid.uuid4().hex[:12]
        with contextlib.ExitStack() as undo:
            undo.callback(self._discard, copy)
            ends = ChannelEnds()
            undo.callback(ends.close)
            inherit = [ends.far_control.fileno(), ends.far_log, *([self._memory] if self.mapped else [])]
            # First, since the program and its libraries are loaded while we do the rest.
            criu = CriuWorker(self._spawner, self._criu, self._images, ruid=self._function.uid, inherit=inherit)
            undo.callback(criu.close)
            self._spawner.run(self._sandbox.prepare_copy(copy))
            self._mapped_files.check()
            undo.pop_all()  # All of it is the copy's from here on.
        return _Prepared(copy, ends, criu, self._sandbox.mounts(self._points, copy))

    def _give_up(self, prepared: _Prepared) -> None:
        with contextlib.suppress(SpawnerError):
            prepared.criu.close()
        prepared.ends.close()
        self._discard(prepared.copy)

    def _bring_back(self, deadline: float, sink: LogSink | None) -> tuple[str, Launched]:
        """A restored copy, and its name. Where CRIU fails, it gets a second chance, with all of its log kept."""
        try:
            try:
                return self._restore(self._ready.take(), deadline, sink, log_level=1)
            except CriuError:
                return self._restore(self._prepare(), time.monotonic() + RESTORE_LIMIT_S, sink, log_level=4)
        except CriuError as error:
            said = f" ({'; '.join(error.log[-3:])})" if error.log else ""
            raise RestoreError(
                f"No copy could be made: {error}{said}",
                hint=f"All of CRIU's log is in {self._store.keep_log(f'restore-{self.id}', error.full_log)}",
            ) from error
        except (SpawnerError, OSError) as error:
            raise RestoreError(f"No copy could be made: {error}") from error

    def _restore(
        self, prepared: _Prepared, deadline: float, sink: LogSink | None, *, log_level: int
    ) -> tuple[str, Launched]:
        try:
            pid = prepared.criu.restore(
                root=self._sandbox.root,
                mounts=prepared.mounts,
                inherited=[*self.stored.manifest["channel"], *([MEMORY_KEY] if self.mapped else [])],
                deadline=deadline,
                folded_mounts=self._folded_mounts,
                log_level=log_level,
            )
            launched = Launched(prepared.ends, self._spawner.adopt(pid), sink)
        except BaseException:
            self._give_up(prepared)
            raise
        # While this CRIU was about, the spawner left its children to be adopted.
        self._ready.afterwards(prepared.criu.close)
        return prepared.copy, launched

    def close(self) -> None:
        """Give back the lease and take down the sandbox. Copies must have been closed."""
        if self._images >= 0:
            self._ready.close()
            self._close_files()
            with contextlib.suppress(SpawnerError):
                self._spawner.run(self._sandbox.discard())
            self.stored.close()

    def _close_files(self) -> None:
        os.close(self._images)
        self._images = -1
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run_after_restore(launched: Launched, request_id: str, deadline: float) -> float:
    """Tell a restored copy that it is one; returns the milliseconds that its hooks took."""
    channel = launched.channel
    try:
        channel.send({"type": "restore", "environment": {}}, deadline=deadline)
        answer, _ = channel.receive("restored", "restore_error", deadline=deadline)
    except TimeoutError:
        raise FunctionError(timed_out(request_id, RESTORE_LIMIT_S), phase="after_restore") from None
    except Disconnected as gone:
        raise FunctionError(exited(request_id, gone.exit), phase="after_restore") from None
    except wire.WireError as error:
        raise FunctionError(broken_channel(request_id, error), phase="after_restore") from None
    finally:
        channel.drain_log()  # What the hooks wrote last, be it well or not: it says why.
    if answer["type"] == "restore_error":
        hook = answer.get("hook")
        raise FunctionError(
            answer["error"] | {"requestId": request_id},
            phase="after_restore",
            hint=f"The after-restore hook {hook} raised it." if hook else "",
        )
    return float(answer["hooks_ms"])
