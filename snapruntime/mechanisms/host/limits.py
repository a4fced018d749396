"""The probe of what this host lets us limit for functions: memory, processors, processes."""

from __future__ import annotations

import os
from collections.abc import Mapping

from snapruntime.mechanisms.cgroup import LIMITED
from snapruntime.mechanisms.host.container import Container
from snapruntime.mechanisms.host.facts import mounts
from snapruntime.values.host import Probe


def limits_probe(trials: Mapping[str, str | None], container: Container) -> Probe:
    """Args: trials: by the name of each controller, what went wrong."""
    kinds = {kind for _, kind in mounts() if kind in ("cgroup", "cgroup2")}
    failed = {name: trials[name] for name in LIMITED if trials[name]}
    if not failed:
        version = {1: "v2" if "cgroup2" in kinds else "v1", 2: "v1 and v2 (hybrid)"}.get(len(kinds), "")
        return Probe("limits", "ok", f"{', '.join(LIMITED.values())}: limited by cgroups {version}", None, False)
    reasons = dict.fromkeys(failed.values())
    lost = "; ".join(f"{', '.join(LIMITED[n] for n in failed if failed[n] == why)}: {why}" for why in reasons)
    if os.geteuid():
        fix = container.become_root()
    elif container.engine:
        fix = (
            "Give the container control groups that it may write to (podman, docker: --privileged, or --cgroupns=host "
            "with -v /sys/fs/cgroup:/sys/fs/cgroup)."
        )
    elif not kinds:
        fix = "Mount cgroup2 on /sys/fs/cgroup."
    else:
        fix = (
            "Remount /sys/fs/cgroup read-write, let the service have its groups (systemd: Delegate=yes), "
            f"or boot with cgroup_enable={','.join(failed)}."
        )
    return Probe("limits", "degraded", f"not limited for functions: {lost}", fix, False)
