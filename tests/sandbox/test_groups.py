"""Where control groups can be made, of hierarchies as other hosts have them; and a group that nobody can enter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from support import Write

from snapruntime import Runtime, SnapruntimeError
from snapruntime.mechanisms.cgroup import Cgroups, Hierarchy, find_hierarchies
from snapruntime.mechanisms.plan import Plan

UNIT = "sys/fs/cgroup/system.slice/function.service"


def unified(root: Path, own: str, procs: Mapping[str, str]) -> None:
    """Make a host with cgroup v2 as systemd mounts it: root, slice and unit, with the processes `procs` in them."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text(
        "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
    )
    (root / "proc/self/cgroup").write_text(f"0::{own}\n")
    (root / UNIT).mkdir(parents=True)
    top = root / "sys/fs/cgroup"
    for group in (top, top / "system.slice", root / UNIT):
        (group / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
        (group / "cgroup.subtree_control").write_text("")
        (group / "cgroup.procs").write_text(procs.get(group.name, ""))
        if group != top:  # Of all groups, the root alone has no type.
            (group / "cgroup.type").write_text("domain\n")


def test_a_group_with_processes_is_not_made_a_threaded_domain(tmp_path: Path) -> None:
    """The kernel lets such a group give cpu and pids on, and then no process into those below it."""
    unified(tmp_path, "/system.slice/function.service", {"cgroup": "1\n", "function.service": "812\n"})
    (found,) = find_hierarchies(tmp_path)
    assert found == Hierarchy(2, ("memory", "cpu", "pids"), tmp_path / "sys/fs/cgroup/system.slice")
    assert (tmp_path / UNIT / "cgroup.subtree_control").read_text() == ""


def test_the_root_gives_controllers_on_whoever_is_in_it(tmp_path: Path) -> None:
    unified(tmp_path, "/", {"cgroup": "1\n812\n"})
    (found,) = find_hierarchies(tmp_path)
    assert found.parent == tmp_path / "sys/fs/cgroup"


def test_an_empty_group_of_our_own_is_used(tmp_path: Path) -> None:
    unified(tmp_path, "/system.slice/function.service", {"cgroup": "1\n"})
    (found,) = find_hierarchies(tmp_path)
    assert found.parent == tmp_path / UNIT


def test_a_group_that_cannot_be_entered_is_named(
    runtime: Runtime, write: Write, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stops a process before its program begins is told, and not taken for the function's own end."""

    def surround(self: Cgroups, name: str, memory_mb: int) -> Plan:
        return [["write", "/proc/sys/kernel/ostype", "0"]]  # The kernel refuses it.

    function = write("def handler(event, context): return 1")
    monkeypatch.setattr(Cgroups, "surround", surround)
    begin = runtime.cold(function).start if way == "cold" else lambda: runtime.snapshot(function)
    with pytest.raises(SnapruntimeError, match="/proc/sys/kernel/ostype"):
        begin()
