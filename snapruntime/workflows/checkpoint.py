"""How a snapshot is born: fresh worker → init → before-snapshot hooks → READY → CRIU checkpoint → published."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from snapruntime.mechanisms.channel import LogSink
from snapruntime.mechanisms.criu import CriuError, CriuWorker
from snapruntime.mechanisms.images import UnknownImageError, half_connections, open_files, rearm_timers
from snapruntime.mechanisms.interpreter import inspect
from snapruntime.mechanisms.mapped import CannotMapError, map_memory
from snapruntime.mechanisms.pids import host_pids
from snapruntime.mechanisms.plan import Plan
from snapruntime.mechanisms.process import Spawner
from snapruntime.mechanisms.quota import Quota, check_images
from snapruntime.mechanisms.sandbox import Ground, resolver_folders
from snapruntime.mechanisms.store import IMAGES, TMP, Store, StoredSnapshot, cannot_write
from snapruntime.mechanisms.wiped import mend_wiped
from snapruntime.values.errors import SnapshotError
from snapruntime.values.host import Criu
from snapruntime.values.model import Function
from snapruntime.worker.wire import WIRE_VERSION
from snapruntime.workflows.environment import SNAP_START
from snapruntime.workflows.explain import explain_half_connection, explain_refusal
from snapruntime.workflows.freshness import identity_of, record_inputs
from snapruntime.workflows.launch import Launched, launch, sandbox_for, surroundings

#: The longest that CRIU may take to write the images, seconds. Disks differ; a hang must still end.
CHECKPOINT_LIMIT_S = 120.0


def take_snapshot(
    spawner: Spawner,
    store: Store,
    slot: str,
    criu: Criu,
    function: Function,
    ground: Ground,
    sink: LogSink | None,
    initialised: Callable[[float], None],
    *,
    plain_images: bool = False,
    given: Mapping[str, str],
) -> StoredSnapshot:
    """Make and publish a snapshot of `function`.

    Args:
        ground: what its sandbox is built on.
        sink: receives what init writes.
        initialised: called with the milliseconds of init, once that is over and the function is READY.
        plain_images: leave the images as CRIU writes them.
        given: variables of this run: AWS's for a credentials endpoint.

    Raises:
        FunctionError: init or a before-snapshot hook failed.
        SnapshotError: CRIU cannot save the process, or the disk does not take it.
        UsageError: the interpreter, or a path to show, is of no use.
    """
    began, began_ns = time.monotonic_ns(), time.time_ns()
    interpreter = inspect(function.python)
    with store.staging(slot) as staging, surroundings(SnapshotError):
        staged = staging.folder
        sandbox = sandbox_for(function, interpreter.folders, staged.name, ground)
        try:
            spawner.run(sandbox.prepare(str(staged / TMP)))
            mounts = sandbox.mounts(spawner.mounts(sandbox.root))
            watch = Quota(staged / TMP).check
            with launch(spawner, sandbox, function, interpreter, SNAP_START, sink, given=given, watch=watch) as worker:
                watch(worker.process.pid)  # It may have been done sooner than it was looked at.
                initialised(worker.init_ms)
                mapped = _mapped_files(worker.process.pid)
                files = {*worker.files, *mapped, interpreter.executable}
                files |= {os.path.join(folder, "..", "pyvenv.cfg") for folder in (os.path.dirname(function.python),)}
                # The clock may have been set meanwhile: when init began is counted back by the one that cannot be.
                since_ns = min(began_ns, time.time_ns() - (time.monotonic_ns() - began))
                search_path = (function.task_root, *interpreter.search_path)
                shown = (function.task_root, *function.read_only, *function.writable, *interpreter.folders)
                shown += tuple(resolver_folders())
                with _meanwhile(spawner, record_inputs, files, search_path, since_ns, shown) as inputs:
                    started = time.monotonic()
                    join = sandbox.join(worker.process.inner_pid)
                    _dump(spawner, criu, worker, function, mounts, staged / IMAGES, join)
                    dump_ms = (time.monotonic() - started) * 1000
                    memory = {"mapped": False, "reason": "plain images were asked for"}
                    if not plain_images:
                        memory = _map_memory(criu, worker, staged / IMAGES, sandbox.own_mounts)
                    recorded = inputs.result()
                manifest = {
                    "wire": WIRE_VERSION,
                    "created": datetime.now(UTC).isoformat(timespec="seconds"),
                    "identity": identity_of(function, criu, plain_images=plain_images, credentials=bool(given)),
                    "inputs": recorded,
                    "mapped_files": sorted(mapped),
                    "channel": list(worker.channel_names),
                    "memory": memory,
                    "interpreter": {"version": list(interpreter.version), "folders": list(interpreter.folders)},
                    **_shared_state(worker.ready),
                    "init_ms": worker.ready["init_ms"],
                    "before_hooks_ms": worker.ready["before_hooks_ms"],
                    "dump_ms": round(dump_ms, 1),
                }
        finally:
            spawner.undo(sandbox.discard())
        return store.publish(staging, manifest)


@contextmanager
def _meanwhile(spawner: Spawner, record: Callable[..., Any], *args: Any) -> Iterator[Future[Any]]:
    """Have files looked at in another thread, no longer than the snapshot is wanted.

    Args:
        record: takes `args`, and `watch`.
    """
    given_up = threading.Event()

    def watch() -> None:
        if given_up.is_set() or spawner.closed:
            raise SnapshotError("The snapshot was given up while its inputs were read.")

    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(record, *args, watch)
        except BaseException:
            given_up.set()
            raise


#: How many of init's threads are named, and at what length, and how many the kernel can have (PID_MAX_LIMIT): what a
#: function says of them goes into a manifest and onto terminals.
_THREADS_NAMED, _THREAD_LENGTH, _THREADS_AT_ALL = 100, 300, 1 << 22


def _shared_state(ready: dict[str, Any]) -> dict[str, Any]:
    """What the worker says of its threads and seeds; what a function put there instead is left out."""
    threads, total, seeded = ready.get("threads"), ready.get("os_threads"), ready.get("seeded")
    named = [thread for thread in threads if isinstance(thread, str)] if isinstance(threads, list) else []
    return {
        "threads": [thread[:_THREAD_LENGTH] for thread in named[:_THREADS_NAMED]],
        "native_threads": max(0, min(total, _THREADS_AT_ALL) - 1 - len(named)) if isinstance(total, int) else 0,
        "seeded": {str(name): str(at) for name, at in seeded.items()} if isinstance(seeded, dict) else {},
    }


def _dump(
    spawner: Spawner,
    criu: Criu,
    worker: Launched,
    function: Function,
    mounts: list[Any],
    images: Path,
    join: Plan,
) -> None:
    control, log = worker.channel_names
    folder = os.open(images, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with CriuWorker(spawner, criu, folder, user=(function.uid, function.gid), plan=join) as dumper:
            try:
                dumper.dump(
                    worker.process.inner_pid,
                    mounts=mounts,
                    externals=[control.replace("socket:", "unix"), log],
                    deadline=time.monotonic() + CHECKPOINT_LIMIT_S,
                    watch=partial(check_images, images, function.memory_mb),
                )
                check_images(images, function.memory_mb)  # It may have been done sooner than it was looked at.
            except CriuError as error:
                if full := _disk_full(images, error):
                    raise cannot_write(full, images.parent.parent) from error
                raise explain_refusal(error, dumper.log(), worker, function.module) from error
            log = dumper.log()
        files = open_files(criu, images)
        for inode in half_connections(files):
            signal.pidfd_send_signal(worker.process.pidfd, signal.SIGCONT)
            raise explain_half_connection(inode, log, worker, function.module)
        try:
            rearm_timers(criu, images, files)
        except UnknownImageError as error:
            raise SnapshotError(f"A timer of the function would stand still in its copies: {error}") from error
        try:
            mend_wiped(criu, images, host_pids(worker.process.pid))
        except UnknownImageError as error:
            raise SnapshotError(f"Copies would find memory again that they must not: {error}") from error
    finally:
        os.close(folder)


def _map_memory(criu: Criu, worker: Launched, images: Path, own_mounts: list[str]) -> dict[str, Any]:
    """Let copies map their memory instead of reading it; says why where that cannot be."""
    try:
        return {"mapped": True, **map_memory(criu, images, host_pids(worker.process.pid).get, own_mounts)}
    except CannotMapError as reason:
        return {"mapped": False, "reason": str(reason)}
    except OSError as error:
        raise cannot_write(error, images) from error


def _disk_full(images: Path, error: CriuError) -> OSError | None:
    """CRIU does not always say why a write failed; the disk does."""
    free = os.statvfs(images)
    if free.f_bavail * free.f_frsize < 1 << 20 or any("No space left" in line for line in error.log):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return None


def _mapped_files(pid: int) -> set[str]:
    """The files that the process has mapped: its interpreter and libraries; their paths are the host's too."""
    found = set()
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            _, _, path = line.rstrip("\n").partition("/")
            if path and not path.endswith(" (deleted)"):
                found.add("/" + path)
    return found
