"""Stock CRIU: `criu restore` on the command line, of images as CRIU wrote them, without and with lazy pages.

This comparison is as favourable to CRIU as we know to make it: no log (-v0), its kernel probes kept on a tmpfs, the
same sandbox prepared beforehand, the copy adopted by the same process. What a request pays for is its /tmp, CRIU's
exec, its restore, and the first call. It uses internals of the runtime, since only
these have the mounts that the images refer to.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Sequence

from snapruntime import Instance, Snapshot
from snapruntime.bench.ways import LIMIT_S, Alive, OfInstance, Way, WayError
from snapruntime.mechanisms.channel import ChannelEnds
from snapruntime.mechanisms.criu import WORK_FOLDER, command_line
from snapruntime.mechanisms.images import load
from snapruntime.mechanisms.process import Process
from snapruntime.mechanisms.spawner import host_path
from snapruntime.mechanisms.store import IMAGES
from snapruntime.values.life import Event
from snapruntime.workflows.launch import Launched
from snapruntime.workflows.life import Life
from snapruntime.workflows.parked import run_after_restore

_CONTROL, _LOG, _STATUS = 10, 11, 12
#: On the spawner's own tmpfs.
_WORK = "/run/snapruntime/bench"


def criu_times(snapshot: Snapshot, work: str = WORK_FOLDER) -> dict[str, float]:
    """What CRIU itself says that its last restore took, and of that making the processes (`stats-restore`)."""
    path = snapshot._spawner.path(f"{work}/stats-restore")
    entry = load(snapshot._criu, path)["entries"][0]["restore"]  # Microseconds.
    return {"criu": entry["restore_time"] / 1000, "criu_forking": entry["forking_time"] / 1000}


class Stock(Way):
    """Copies by `criu restore`.

    Args:
        snapshot: with plain images.
        lazy: have a `criu lazy-pages` hand the pages out as they are touched. Each restore needs one of its own; it is
            started, and its socket there, before the clock begins.
    """

    def __init__(self, snapshot: Snapshot, *, lazy: bool = False) -> None:
        self._snapshot = snapshot
        self._lazy = lazy
        self._spawner = snapshot._spawner
        self._waiting: list[tuple[str, Process]] = []
        self._images = host_path(str(snapshot.stored.folder / IMAGES))

    def settle(self, count: int) -> None:
        while len(self._waiting) > count:
            work, daemon = self._waiting.pop()
            daemon.close()
            self._spawner.run([["rmtree", work]])
        while self._lazy and len(self._waiting) < count:
            self._waiting.append(self._serve_pages())

    def start(self) -> Alive:
        requested = time.monotonic()
        daemon: Process | None = None
        work = ""
        if self._lazy:
            work, daemon = self._waiting.pop()
        work = work or self._folder()
        try:
            return self._restore(requested, work, daemon)
        except BaseException:
            if daemon is not None:
                daemon.close()
            raise

    def _restore(self, requested: float, work: str, daemon: Process | None) -> Alive:
        snapshot, sandbox, copy = self._snapshot, self._snapshot._sandbox, uuid.uuid4().hex[:12]
        ends = ChannelEnds()
        self._spawner.run(sandbox.prepare_copy(copy))
        control, log = snapshot.stored.manifest["channel"]
        options = ["--restore-detached", "--restore-sibling", "--pidfile", f"{work}/pid", "--root", sandbox.root]
        options += ["--inherit-fd", f"fd[{_CONTROL}]:{control}", "--inherit-fd", f"fd[{_LOG}]:{log}"]
        for mount in sandbox.mounts(snapshot._points, copy):
            options += ["--external", f"mnt[{mount.key}]:{mount.source}"]
        options += ["--lazy-pages"] if daemon is not None else []
        fds = {_CONTROL: ends.far_control.fileno(), _LOG: ends.far_log}
        try:
            with self._criu("restore", work, options, fds, copy) as criu:
                ended = criu.wait(LIMIT_S)
                if ended is None or ended.status != 0:
                    raise WayError(f"criu restore: {ended or 'no end within the time limit'}; {self._said(work)}")
            pid = int(self._spawner.path(f"{work}/pid").read_text())
            launched = Launched(ends, self._spawner.adopt(pid), None)
        except BaseException:
            ends.close()
            self._spawner.run(sandbox.discard_copy(copy))
            raise

        def discard() -> None:
            if daemon is not None:
                daemon.close()
            self._spawner.run([*sandbox.discard_copy(copy), ["rmtree", work]])

        restore_ms = (time.monotonic() - requested) * 1000
        try:
            message = {"type": "restore", "environment": dict(snapshot._given), "keep_seeds": False}
            restored = run_after_restore(launched, message, copy, time.monotonic() + LIMIT_S)
        except BaseException:
            launched.close()
            discard()
            raise
        life = Life()
        for event in (Event.REQUESTED, Event.RESTORED, Event.HANDED_OVER, Event.RESUMED):
            life.on(event)
        instance = Instance(
            snapshot._function,
            launched,
            life,
            requested=requested,
            snapshot=snapshot.id,
            restore_ms=restore_ms,
            hooks_ms=float(restored["hooks_ms"]),
            on_close=discard,
        )
        return OfInstance(instance, lambda: criu_times(snapshot, work))

    def _criu(
        self, command: str, work: str, options: Sequence[str], fds: dict[int, int], copy: str | None = None
    ) -> Process:
        snapshot = self._snapshot
        common = ["--images-dir", self._images, "--work-dir", work, "-v0", "--log-file", f"{work}/{command}.log"]
        if command == "restore":
            common += ["--tcp-close", "--file-locks", "--manage-cgroups=ignore", "--network-lock", "skip"]
        return self._spawner.spawn(
            [*command_line(snapshot._criu), command, *common, *options],
            environment={"PATH": os.defpath, "HOME": "/"},
            fds=fds,
            namespaces=snapshot._sandbox.namespaces if copy else 0,
            plan=snapshot._sandbox.surround(copy) if copy else [],
            real=(snapshot._function.uid, snapshot._function.gid),
        )

    def _folder(self) -> str:
        work = f"{_WORK}/{uuid.uuid4().hex[:12]}"
        self._spawner.run([["mkdir", work, 0o700]])
        return work

    def _serve_pages(self) -> tuple[str, Process]:
        work = self._folder()
        ready, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            daemon = self._criu("lazy-pages", work, ["--status-fd", f"{_STATUS}"], {_STATUS: theirs})
        finally:
            os.close(theirs)
        with open(ready, "rb") as file:
            if not file.read(1):
                ended = daemon.wait(LIMIT_S)
                daemon.close()
                raise WayError(f"criu lazy-pages: {ended}; {self._said(work)}")
        return work, daemon

    def _said(self, work: str) -> str:
        """The errors in the logs of this folder."""
        lines: list[str] = []
        for path in self._spawner.path(work).glob("*.log"):
            with contextlib.suppress(OSError):
                lines += [line for line in path.read_text("utf-8", "replace").splitlines() if "Error" in line]
        return "; ".join(lines[:3]) or "its log says nothing"

    def close(self) -> None:
        for _, daemon in self._waiting:
            daemon.close()
        self._waiting.clear()
