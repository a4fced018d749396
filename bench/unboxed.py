"""The runtime without its sandbox, to measure what that costs.

What is left is what CRIU cannot do without where a process is to be restored more than once at a time: PID and mount
namespaces. The root is the host's, /tmp too; the process is root, with all capabilities and calls. Its share of the
processors is as in the sandbox.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from snapruntime import Runtime
from snapruntime.mechanisms import linux
from snapruntime.mechanisms.cgroup import Meter
from snapruntime.mechanisms.criu import ExternalMount
from snapruntime.mechanisms.plan import Plan
from snapruntime.mechanisms.sandbox import HOOKS_FOLDER, RUNTIME_FOLDER, Sandbox
from snapruntime.mechanisms.spawner import host_path

_OTHER_GROUPS = ("/sys/fs/cgroup/memory/", "/sys/fs/cgroup/pids/")


class Unboxed(Sandbox):
    """In place of a sandbox. Each of its parts is the least that works."""

    __slots__ = ()

    @property
    def own_mounts(self) -> list[str]:
        return ["/proc"]

    @property
    def namespaces(self) -> int:
        return 0

    def surround(self, copy: str | None = None) -> Plan:
        # Its share of the processors only: where other things run, copies without one would wait longer than the
        # sandbox costs. (With version 2 there is one group for all.)
        groups = [step for step in Sandbox.surround(self, copy) if step[0] not in ("hostname", "loopback")]
        return [step for step in groups if not str(step[1]).startswith(_OTHER_GROUPS)]

    def meter(self, copy: str | None = None) -> Meter | None:
        return None

    def join(self, pid: int) -> Plan:
        return []

    def prepare(self, tmp: str | None) -> Plan:
        # Made once per snapshot, as the sandbox's root is. What is mounted below `/` is not there with it, nor is what
        # our own /var hides.
        folders = {"/dev", "/tmp", "/usr", "/etc", *(bind.path for bind in self.binds)}
        root_device = os.stat("/").st_dev
        shown = {
            path: path
            for path in sorted(folders)
            if os.stat(path).st_dev != root_device or os.path.realpath(path).startswith("/var/")
        }
        shown |= {RUNTIME_FOLDER: self.runtime, HOOKS_FOLDER: self.hooks, "/tmp": "/tmp"}
        root = self.root
        plan: Plan = [["mkdir", root, 0o755], ["mount", "/", root, None, linux.MS_BIND, ""]]
        plan.append(["mount", "tmpfs", f"{root}/var", "tmpfs", linux.MS_NOSUID, "mode=0755,size=1m"])
        for path, source in shown.items():
            plan.append(["mount_point", root + path, host_path(source)])
            plan.append(["mount", host_path(source), root + path, None, linux.MS_BIND, ""])
        return [*plan, ["mkdir", self.lower, 0o755]]

    def enter(self, copy: str | None = None) -> Plan:
        mount: Plan = [["mount", "proc", f"{self.root}/proc", "proc", linux.MS_NOSUID, ""]]
        return [*self.surround(copy), *mount, ["pivot_root", self.root], ["stdin", "/dev/null"]]

    def prepare_copy(self, copy: str) -> Plan:
        return []

    def discard_copy(self, copy: str) -> Plan:
        return self.ground.cgroups.remove(self._group(copy))

    def discard(self) -> Plan:
        folder = os.path.dirname(self.root)
        return [["umount_all", folder], ["rmtree", folder], *self.ground.cgroups.remove(self._group(None))]

    def mounts(self, found: Iterable[str], copy: str | None = None) -> list[ExternalMount]:
        points = [(path.removeprefix(self.root), path) for path in found if path != self.root]
        return [ExternalMount(f"mount-{number}", point, source) for number, (point, source) in enumerate(points)]


class UnboxedRuntime(Runtime):
    """A runtime whose functions have no sandbox."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self._ground = replace(self._ground, kind=Unboxed)
