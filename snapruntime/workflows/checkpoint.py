"""How a snapshot is born: fresh worker → init → before-snapshot hooks → READY → CRIU checkpoint → published."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from snapruntime.mechanisms.channel import LogSink
from snapruntime.mechanisms.criu import CriuError, CriuWorker
from snapruntime.mechanisms.images import UnknownImageError, half_connections, open_files, rearm_timers
from snapruntime.mechanisms.interpreter import inspect
from snapruntime.mechanisms.mapped import CannotMapError, map_memory
from snapruntime.mechanisms.process import Spawner, SpawnerError, host_pids
from snapruntime.mechanisms.store import IMAGES, TMP, Store, StoredSnapshot, cannot_write
from snapruntime.values.errors import SnapshotError
from snapruntime.values.host import Criu
from snapruntime.values.model import Function
from snapruntime.worker.wire import WIRE_VERSION
from snapruntime.workflows.environment import SNAP_START
from snapruntime.workflows.explain import explain_half_connection, explain_refusal
from snapruntime.workflows.freshness import identity_of, record_inputs
from snapruntime.workflows.launch import Launched, launch, sandbox_for

#: The longest that CRIU may take to write the images, seconds. Disks differ; a hang must still end.
CHECKPOINT_LIMIT_S = 120.0


def take_snapshot(
    spawner: Spawner,
    store: Store,
    slot: str,
    criu: Criu,
    function: Function,
    sink: LogSink | None,
    initialised: Callable[[float], None],
    *,
    plain_images: bool = False,
) -> StoredSnapshot:
    """Make and publish a snapshot of `function`.

    Args:
        sink: receives what init writes.
        initialised: called with the milliseconds of init, once that is over and the function is READY.
        plain_images: leave the images as CRIU writes them.

    Raises:
        FunctionError: init or a before-snapshot hook failed.
        SnapshotError: CRIU cannot save the process, or the disk does not take it.
        UsageError: the interpreter, or a path to show, is of no use.
    """
    began_ns = time.time_ns()
    interpreter = inspect(function.python)
    with store.staging(slot) as staging:
        staged = staging.folder
        sandbox = sandbox_for(function, interpreter.folders, staged.name)
        try:
            spawner.run(sandbox.prepare(str(staged / TMP)))
            mounts = sandbox.mounts(spawner.mounts(sandbox.root))
            with launch(spawner, sandbox, function, interpreter, SNAP_START, sink) as worker:
                initialised(worker.ready["init_ms"] + worker.ready["before_hooks_ms"])
                mapped = _mapped_files(worker.process.pid)
                files = {*worker.files, *mapped, interpreter.executable}
                files |= {os.path.join(folder, "..", "pyvenv.cfg") for folder in (os.path.dirname(function.python),)}
                with ThreadPoolExecutor(1) as pool:
                    inputs = pool.submit(record_inputs, files, (function.task_root, *interpreter.search_path), began_ns)
                    started = time.monotonic()
                    _dump(spawner, criu, worker, function, mounts, staged / IMAGES)
                    dump_ms = (time.monotonic() - started) * 1000
                    memory = {"mapped": False, "reason": "plain images were asked for"}
                    if not plain_images:
                        memory = _map_memory(criu, worker, staged / IMAGES, sandbox.own_mounts)
                manifest = {
                    "wire": WIRE_VERSION,
                    "created": datetime.now(UTC).isoformat(timespec="seconds"),
                    "identity": identity_of(function, criu, plain_images=plain_images),
                    "inputs": inputs.result(),
                    "mapped_files": sorted(mapped),
                    "channel": list(worker.channel_names),
                    "memory": memory,
                    "interpreter": {"version": list(interpreter.version), "folders": list(interpreter.folders)},
                    "threads": worker.ready.get("threads", []),
                    "init_ms": worker.ready["init_ms"],
                    "before_hooks_ms": worker.ready["before_hooks_ms"],
                    "dump_ms": round(dump_ms, 1),
                }
        except SpawnerError as error:
            raise SnapshotError(f"The surroundings of the function could not be made: {error.message}") from error
        finally:
            spawner.run(sandbox.discard())
        return store.publish(staging, manifest, datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ"))


def _dump(spawner: Spawner, criu: Criu, worker: Launched, function: Function, mounts: list[Any], images: Path) -> None:
    control, log = worker.channel_names
    folder = os.open(images, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with CriuWorker(spawner, criu, folder, ruid=function.uid) as dumper:
            try:
                dumper.dump(
                    worker.process.inner_pid,
                    mounts=mounts,
                    externals=[control.replace("socket:", "unix"), log],
                    deadline=time.monotonic() + CHECKPOINT_LIMIT_S,
                )
            except CriuError as error:
                if full := _disk_full(images, error):
                    raise cannot_write(full, images.parent.parent) from error
                raise explain_refusal(error, dumper.log(), worker) from error
        files = open_files(criu, images)
        for inode, peer in half_connections(files):
            signal.pidfd_send_signal(worker.process.pidfd, signal.SIGCONT)
            raise explain_half_connection(inode, peer, worker)
        try:
            rearm_timers(criu, images, files)
        except UnknownImageError as error:
            raise SnapshotError(f"A timer of the function would stand still in its copies: {error}") from error
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
