"""The runtime: the one object that a program, or the command line, needs; snapshots and cold starts come from it."""

from __future__ import annotations

import contextlib
import errno
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from snapruntime.mechanisms import kernel_probes
from snapruntime.mechanisms.cgroup import LIMITED, Cgroups, find_hierarchies
from snapruntime.mechanisms.channel import LogSink
from snapruntime.mechanisms.credentials import CredentialsEndpoint, Provider
from snapruntime.mechanisms.criu import CriuError, CriuWorker, import_pycriu
from snapruntime.mechanisms.host.probes import require_host
from snapruntime.mechanisms.manifest import OTHER_FORMAT
from snapruntime.mechanisms.process import REQUEST_DEADLINE_S, Spawner, SpawnerError, too_many_files
from snapruntime.mechanisms.sandbox import Ground
from snapruntime.mechanisms.store import Store, StoredSnapshot, cannot_write, data_home
from snapruntime.values.errors import DamagedSnapshotError, HostError, SnapshotError
from snapruntime.values.model import Function
from snapruntime.worker.wire import WIRE_VERSION
from snapruntime.workflows.checkpoint import CHECKPOINT_LIMIT_S, take_snapshot
from snapruntime.workflows.cold import ColdStarter
from snapruntime.workflows.freshness import handler_file, identity_changes, identity_of, input_changes
from snapruntime.workflows.launch import sandbox_for
from snapruntime.workflows.restore import Snapshot


class Runtime:
    """Takes snapshots of functions and restores copies of them, on this host.

    Use it as a context manager: when it closes, or its process ends in whatever way, all its processes and mounts go.
    Its methods may be called from several threads.

    Args:
        home: the data folder; see `snapruntime.mechanisms.store.data_home`.
        credentials: gives AWS credentials, which functions then get from an endpoint on loopback, as under SnapStart:
            boto3 asks it by itself, and again in each copy where the function has the hook `boto3`.

    Raises:
        HostError: this host cannot run it; says what is missing and what to do.
    """

    def __init__(self, home: Path | None = None, *, credentials: Provider | None = None) -> None:
        self._home = home or data_home()
        self.criu = require_host(self._home)
        self._store = Store(self._home)
        self._spawner = Spawner()
        self._ground = Ground(Cgroups(find_hierarchies()), str(self._home))
        self._endpoint: CredentialsEndpoint | None = None
        try:
            import_pycriu(self.criu)
            with _clear_errors(self._home):  # Its spawner may be killed at any moment, and its files go with it.
                self._probe_kernel()
            if credentials is not None:
                self._endpoint = CredentialsEndpoint(credentials)
        except BaseException:
            self.close()
            raise

    @property
    def unlimited(self) -> tuple[str, ...]:
        """What this host does not let us limit for functions, in words; `snapruntime doctor` says why."""
        return tuple(LIMITED[name] for name in self._ground.cgroups.unlimited)

    def _probe_kernel(self) -> None:
        """Let CRIU find out what this kernel can do, or tell it what it found out before: that saves tens of ms."""
        place = self._spawner.path(kernel_probes.PLACE)
        if answers := kernel_probes.recall(self._home, self.criu):
            place.write_bytes(answers)
            return
        images = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with CriuWorker(self._spawner, self.criu, images, user=(0, 0)) as criu:
                criu.probe_kernel(time.monotonic() + REQUEST_DEADLINE_S)
            with contextlib.suppress(FileNotFoundError):
                kernel_probes.keep(self._home, self.criu, place.read_bytes())
        except (CriuError, SpawnerError) as error:
            log = error.log if isinstance(error, CriuError) else ()
            raise HostError(
                f"{self.criu.describe()} does not work here: {'; '.join([error.message, *log[-3:]])}",
                hint="`snapruntime doctor` says what is missing; `snapruntime setup` brings another CRIU.",
            ) from error
        finally:
            os.close(images)

    @property
    def _given(self) -> dict[str, str]:
        """Variables that every process of a function gets from this run."""
        return self._endpoint.environment if self._endpoint is not None else {}

    def snapshot(
        self,
        function: Function,
        *,
        rebuild: bool = False,
        plain_images: bool = False,
        sink: LogSink | None = None,
        making: Callable[[str], None] = lambda _: None,
        initialised: Callable[[float], None] = lambda _: None,
    ) -> Snapshot:
        """A snapshot of `function`: an earlier one where everything it was made from is unchanged, else a new one.

        Args:
            rebuild: make a new one in any case.
            plain_images: one whose images are as CRIU writes them: its copies read their memory instead of mapping it.
            sink: receives what init writes.
            making: called before a new one is made, with the reason.
            initialised: called with the milliseconds of init and before-snapshot hooks, once these are over.

        Raises:
            FunctionError: the function's own init or a before-snapshot hook failed.
            SnapshotError: the process cannot be saved, or the disk does not take it.
            UsageError: the interpreter, or a path to be shown, is of no use.
        """
        with _clear_errors(self._home):
            stored, reason = self._find_or_make(function, rebuild, plain_images, sink, making, initialised)
            self._store.note_use(stored.folder.parent.name, handler_file(function))
            if reason:
                self._store.forget()
            try:
                name = f"{stored.id}-{uuid.uuid4().hex[:8]}"  # One snapshot may be open several times.
                sandbox = sandbox_for(function, stored.manifest["interpreter"]["folders"], name, self._ground)
                return Snapshot(self._spawner, self.criu, function, self._store, stored, sandbox, reason, self._given)
            except BaseException:
                stored.close()
                raise

    def _find_or_make(
        self,
        function: Function,
        rebuild: bool,
        plain_images: bool,
        sink: LogSink | None,
        making: Callable[[str], None],
        initialised: Callable[[float], None],
    ) -> tuple[StoredSnapshot, str]:
        """A stored snapshot and why it was made anew, if it was."""
        # Versions of one function may share their code, but not their snapshots.
        handler = f"{function.module}.{function.attribute or ''}"
        slot = self._store.slot_of(function.task_root, function.name, function.version, handler)
        reason = "as asked for"
        if not rebuild:
            stored, reason = self._find(function, slot, plain_images)
            if stored is not None:
                return stored, ""
        # Who makes one already may take as long as we might, and wait as long for the disk at the end.
        with self._store.making(slot, function.init_limit_s + 2 * CHECKPOINT_LIMIT_S):
            if not rebuild:
                # Somebody else may have made it while we waited.
                stored, _ = self._find(function, slot, plain_images)
                if stored is not None:
                    return stored, ""
            making(reason)
            stored = take_snapshot(
                self._spawner,
                self._store,
                slot,
                self.criu,
                function,
                self._ground,
                sink,
                initialised,
                plain_images=plain_images,
                given=self._given,
            )
            return stored, reason

    def _find(self, function: Function, slot: str, plain_images: bool) -> tuple[StoredSnapshot | None, str]:
        """A snapshot that is still good, or why none is: what separates the nearest one from being so."""
        identity = identity_of(function, self.criu, plain_images=plain_images, credentials=bool(self._given))
        broken: list[str] = []
        others: list[dict[str, Any]] = []
        for folder in self._store.newest_first(slot):
            try:
                stored = self._store.open(folder)
            except FileNotFoundError:
                continue  # Somebody else has just removed it.
            except DamagedSnapshotError as error:
                broken = broken or [error.message.rstrip(".")]
                if error.code != OTHER_FORMAT:
                    self._store.discard(folder)
                continue
            try:
                if not _is_other(stored.manifest, identity) and not input_changes(
                    stored.manifest["inputs"], self._check_open
                ):
                    stored.verify()
                    self._store.note_use_of(folder)
                    return stored, ""
                stored.close()
                others.append(stored.manifest)
            except DamagedSnapshotError as error:
                broken = [error.message.rstrip(".")]  # It would have been the one.
                stored.close()
                self._store.discard(folder)
            except BaseException:
                stored.close()
                raise
        changes = [_changes(manifest, identity, self._check_open) for manifest in others]
        nearest = min(([broken] if broken else []) + changes, key=len, default=["there is none yet"])
        return None, "; ".join(nearest)

    def _check_open(self) -> None:
        if self._spawner.closed:
            raise SnapshotError("The runtime was closed while it looked for a snapshot.")

    def remake(self, function: Function, snapshot: Snapshot, **options: Any) -> Snapshot:
        """Another snapshot in place of one that cannot be restored any more. See `snapshot` for the options."""
        snapshot.close()
        self._store.discard(snapshot.stored.folder)
        return self.snapshot(function, rebuild=True, **options)  # An earlier one would not come back either.

    def cold(self, function: Function) -> ColdStarter:
        """What starts fresh processes of `function`, for comparison, or where no snapshot is wanted.

        Raises:
            UsageError: the interpreter, or a path to be shown, is of no use.
        """
        with _clear_errors(self._home):
            return ColdStarter(self._spawner, function, self._ground, self._given)

    def alive(self) -> bool:
        """Whether it can still start processes; once its spawner has been killed it never can again."""
        return self._spawner.alive()

    def close(self) -> None:
        """End every process and drop every mount that was made."""
        self._spawner.close()
        self._ground.cgroups.close()
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            endpoint.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_other(manifest: dict[str, Any], identity: dict[str, Any]) -> bool:
    return bool(manifest["wire"] != WIRE_VERSION or identity_changes(manifest["identity"], identity))


def _changes(manifest: dict[str, Any], identity: dict[str, Any], watch: Callable[[], None]) -> list[str]:
    """All that has changed since a snapshot was made, in words."""
    if manifest["wire"] != WIRE_VERSION:
        return ["this version of snapruntime speaks otherwise with its workers"]
    return identity_changes(manifest["identity"], identity) + input_changes(manifest["inputs"], watch)


_CROWDED_HINT = "Free memory or processes (ulimit -u, the control group's pids.max), or run fewer copies at once."


@contextlib.contextmanager
def _clear_errors(home: Path) -> Iterator[None]:
    """Say what it means where the host refuses a file, a descriptor or a process, in place of a bare OSError."""
    try:
        yield
    except BrokenPipeError:
        raise  # From whoever receives the function's output; it is the caller's own.
    except RuntimeError as error:
        if "new thread" not in str(error):  # What CPython makes of pthread_create's EAGAIN.
            raise
        raise HostError(f"The host refused what was asked of it: {error}", hint=_CROWDED_HINT) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise cannot_write(error, home) from error
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise too_many_files(error) from error
        if error.errno in (errno.ENOMEM, errno.EAGAIN):
            hint = _CROWDED_HINT
        else:
            hint = f"Check the data folder {home}, and `snapruntime doctor`."
        raise HostError(f"The host refused what was asked of it: {error}", hint=hint) from error
