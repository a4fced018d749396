"""How a copy lives: CRIU restore → after-restore hooks → one or more invocations → gone."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from snapruntime.mechanisms.channel import ChannelEnds, LogSink
from snapruntime.mechanisms.criu import CriuError, CriuWorker, ExternalMount
from snapruntime.mechanisms.mapped import MEMORY, MEMORY_KEY
from snapruntime.mechanisms.process import Spawner, SpawnerError, too_many_files
from snapruntime.mechanisms.sandbox import Sandbox
from snapruntime.mechanisms.store import IMAGES, TMP, Store, StoredSnapshot
from snapruntime.values.errors import RestoreError
from snapruntime.values.host import Criu
from snapruntime.values.life import Event
from snapruntime.values.model import RESTORE_LIMIT_S, Function
from snapruntime.workflows.environment import check_environment
from snapruntime.workflows.first_touch import FirstTouch
from snapruntime.workflows.freshness import MappedFiles
from snapruntime.workflows.instance import Instance
from snapruntime.workflows.launch import Launched, surroundings
from snapruntime.workflows.life import Life
from snapruntime.workflows.parked import HandOvers, Parked
from snapruntime.workflows.ready import Ready


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What a restore takes beside the request to CRIU.

    Attributes:
        copy: the name of the sandbox's copy, with its /tmp.
        ends: the channel.
        criu: waits, with the descriptors that the copy inherits.
        mounts: what it is handed.
        life: its state.
    """

    copy: str
    ends: ChannelEnds
    criu: CriuWorker
    mounts: list[ExternalMount]
    life: Life


class Snapshot:
    """A snapshot ready to be restored from: verified, leased, its sandbox prepared. Closing it gives all that back.

    Attributes:
        id: its name in the store.
        reason: why it was made anew; empty where an older one was found fit.
        init_ms: what its init took, when it was made.
        mapped: whether copies map its memory; where not, they read it, and `plain_reason` says why.
        plain_reason: empty where it is mapped.
        threads: the threads of init that go on in every copy: "name (function), started at handler.py:12".
        native_threads: how many others there are, of libraries.
        seeded: modules whose shared generator init seeded explicitly -> the line that did.
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
        given: Mapping[str, str],
    ) -> None:
        self.id = stored.id
        self.reason = reason
        self.init_ms = float(stored.manifest["init_ms"])
        self.mapped = bool(stored.manifest["memory"]["mapped"])
        self.plain_reason = str(stored.manifest["memory"].get("reason", ""))
        self.threads = tuple(map(str, stored.manifest["threads"]))
        self.native_threads = int(stored.manifest["native_threads"])
        self.seeded: dict[str, str] = dict(stored.manifest["seeded"])
        self.stored = stored
        self._given = given
        self._hand_overs = HandOvers()
        self._store = store
        self._closing = threading.Lock()
        self._ready = Ready(self._prepare, self._give_up)
        self._spawner = spawner
        self._criu = criu
        self._function = function
        self._sandbox = sandbox
        self._mapped_files = MappedFiles(stored.manifest)
        self._first_touch = FirstTouch(store.home, criu, spawner, stored, sandbox.name)
        self._folded_mounts = bool(stored.manifest["memory"].get("folded_mounts"))
        self._images = os.open(stored.folder / IMAGES, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._memory = -1
        try:
            if self.mapped:
                self._memory = os.open(stored.folder / IMAGES / MEMORY, os.O_RDONLY | os.O_CLOEXEC)
            with surroundings(RestoreError):
                spawner.run(sandbox.prepare(str(stored.folder / TMP)))
                self._points = [] if self._folded_mounts else spawner.mounts(sandbox.root)
        except BaseException:
            self._close_files()
            spawner.undo(sandbox.discard())
            raise
        spawner.at_end(self.close)

    def restore(
        self,
        *,
        requested: float | None = None,
        request_id: str | None = None,
        sink: LogSink | None = None,
        environment: Mapping[str, str | None] | None = None,
        keep_seeds: bool = False,
    ) -> Instance:
        """Restore a fresh copy and run its after-restore hooks; both together have Lambda's time limit for restores.

        Args:
            requested: `time.monotonic()` of the request that the copy is for; its `total_ms` counts from there.
            request_id: the request that the copy is for, for its error documents.
            sink: receives what the hooks write.
            environment: variables that this copy's environment gets before its after-restore hooks run; None takes one
                away.
            keep_seeds: leave the shared generators that init seeded explicitly (`Snapshot.seeded`) in their state.

        Raises:
            UsageError: what cannot be an environment variable, or is Lambda's own.
            RestoreError: CRIU could not bring the snapshot back.
            HostError: a descriptor was refused.
            FunctionError: an after-restore hook failed or took too long.
        """
        requested = requested or time.monotonic()
        deadline = time.monotonic() + RESTORE_LIMIT_S
        check_environment({name: "" if value is None else value for name, value in (environment or {}).items()})
        return self._park(deadline).resume(
            requested=requested,
            request_id=request_id,
            sink=sink,
            environment=environment,
            keep_seeds=keep_seeds,
            deadline=deadline,
        )

    def park(self, *, ahead: bool = True) -> Parked:
        """Restore a copy; `Parked.resume` hands it over.

        Args:
            ahead: ahead of need, so that there is time for what spares its first call page faults: what first calls
                touch, as far as it is known, is brought in, and the worker rehearses (`Parked.rehearse`).

        Raises:
            RestoreError: CRIU could not bring the snapshot back, or the copy ended at once.
            HostError: a descriptor was refused.
        """
        deadline = time.monotonic() + RESTORE_LIMIT_S
        parked = self._park(deadline, populated=ahead)
        if ahead:
            parked.rehearse(deadline)
        return parked

    def _park(self, deadline: float, *, populated: bool = False) -> Parked:
        copy, launched, life = self._bring_back(deadline, populated=populated)
        life.on(Event.RESTORED)
        return Parked(
            self._function,
            launched,
            life,
            self.id,
            self._mapped_files,
            self._given,
            self._hand_overs,
            on_first_answer=lambda: self._first_touch.learn(launched.process),
            discard=lambda: self._discard(copy),
        )

    def _discard(self, copy: str) -> None:
        self._spawner.undo(self._sandbox.discard_copy(copy))

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

    def _prepare(self, *, populated: bool = False) -> _Prepared:
        """Make what a restore takes.

        Args:
            populated: let the restore bring in what first calls touch, as far as that is known.
        """
        images = (self._first_touch.images() if populated else None) or self._images
        copy, life = uuid.uuid4().hex[:12], Life()
        with contextlib.ExitStack() as undo:
            undo.callback(self._discard, copy)
            ends = ChannelEnds()
            undo.callback(ends.close)
            inherit = [ends.far_control.fileno(), ends.far_log, *([self._memory] if self.mapped else [])]
            # First, since the program and its libraries are loaded while we do the rest.
            criu = CriuWorker(
                self._spawner,
                self._criu,
                images,
                user=(self._function.uid, self._function.gid),
                inherit=inherit,
                namespaces=self._sandbox.namespaces,
                plan=self._sandbox.surround(copy),
            )
            undo.callback(criu.close)
            self._spawner.run(self._sandbox.prepare_copy(copy))
            self._mapped_files.check()
            undo.pop_all()  # All of it is the copy's from here on.
        return _Prepared(copy, ends, criu, self._sandbox.mounts(self._points, copy), life)

    def _give_up(self, prepared: _Prepared) -> None:
        prepared.life.on(Event.CLOSED)
        self._clear(prepared)

    def _clear(self, prepared: _Prepared) -> None:
        with contextlib.suppress(SpawnerError):
            prepared.criu.close()
        prepared.ends.close()
        self._discard(prepared.copy)

    def _bring_back(self, deadline: float, *, populated: bool) -> tuple[str, Launched, Life]:
        """A restored copy, its name and its state. Where CRIU fails, it gets a second chance, with all its log kept."""
        try:
            try:
                prepared = self._prepare(populated=True) if populated else self._ready.take()
                return self._restore(prepared, deadline, log_level=1)
            except CriuError:
                restored = self._restore(self._prepare(), time.monotonic() + RESTORE_LIMIT_S, log_level=4)
                if populated:
                    self._first_touch.give_up()
                return restored
        except CriuError as error:
            said = f" ({'; '.join(error.log[-3:])})" if error.log else ""
            raise RestoreError(
                f"No copy could be made: {error}{said}",
                hint=f"CRIU's log is in {self._store.keep_log(f'restore-{self.id}', error.full_log)}",
            ) from error
        except (SpawnerError, OSError) as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise too_many_files(error) from error  # The snapshot is as good as it was.
            raise RestoreError(f"No copy could be made: {error}") from error

    def _restore(self, prepared: _Prepared, deadline: float, *, log_level: int) -> tuple[str, Launched, Life]:
        prepared.life.on(Event.REQUESTED)
        try:
            process = prepared.criu.restore(
                root=self._sandbox.root,
                mounts=prepared.mounts,
                inherited=[*self.stored.manifest["channel"], *([MEMORY_KEY] if self.mapped else [])],
                deadline=deadline,
                folded_mounts=self._folded_mounts,
                log_level=log_level,
            )
            launched = Launched(prepared.ends, process, None, self._sandbox.meter(prepared.copy))
        except BaseException:
            prepared.life.on(Event.FAILED)
            self._clear(prepared)
            raise
        # While this CRIU was about, the spawner left its children to be adopted.
        self._ready.afterwards(prepared.criu.close)
        return prepared.copy, launched, prepared.life

    def close(self) -> None:
        """Give back the lease and take down the sandbox. Copies must have been closed."""
        with self._closing:
            if self._images >= 0:
                self._ready.close()
                self._close_files()
                self._spawner.undo(self._sandbox.discard())
                self.stored.close()

    def _close_files(self) -> None:
        self._first_touch.close()
        os.close(self._images)
        self._images = -1
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
