"""Probes of what this process may do: user, capabilities, and what confines it. Each takes a millisecond at most.

All but the last are asked at the start of each `run` too: where one is missing, CRIU fails with words that do not tell
of it, or hangs.
"""

from __future__ import annotations

import mmap
import os
import resource

from snapruntime.mechanisms import linux
from snapruntime.mechanisms.host.container import Container
from snapruntime.mechanisms.host.facts import confinement, has_seccomp_filter, has_user_namespace
from snapruntime.values.host import Probe
from snapruntime.values.model import TMP_LIMIT

#: Capabilities without which nothing works, with what they are for.
NEEDED = {
    "SYS_ADMIN": "namespaces, mounts, and restoring processes",
    "SETPCAP": "without it a restore hangs: CRIU cannot set the copy's capabilities",
    "SYS_CHROOT": "entering a copy's root",
    "SETUID": "running functions without privileges",
    "SETGID": "running functions without privileges",
    "NET_ADMIN": "CRIU's work on sockets",
    "SYS_TIME": "the copies' clock (time namespace)",
    "SYS_PTRACE": "CRIU seizes the processes it saves",
    "DAC_OVERRIDE": "CRIU reads what /proc shows of another user's process",
    "KILL": "ending copies, which are another user's",
    "CHOWN": "a copy's changes to files that init left in /tmp",
    "FOWNER": "the same, and files that are open without a name",
}


def root_probe(container: Container) -> Probe:
    uid = os.geteuid()
    if uid == 0:
        return Probe("root", "ok", "running as root", None, True)
    return Probe("root", "missing", f"running as user {uid}, and CRIU needs root", container.become_root(), True)


def open_files_probe() -> Probe:
    """The soft limit is ours to raise (`snapruntime.mechanisms.linux.allow_open_files`); the hard one is not."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= linux.OPEN_FILES:
        return Probe("open_files", "ok", f"up to {hard}" if hard > 0 else "no limit", None, True)
    detail = f"the limit of open files (ulimit -n) is {hard}; CRIU and functions need {linux.OPEN_FILES}"
    count = linux.OPEN_FILES
    fix = f"ulimit -n {count}; for a service, LimitNOFILE={count}; for a container, --ulimit nofile={count}."
    return Probe("open_files", "missing", detail, fix, True)


def ceilings_probe(held: frozenset[str]) -> Probe:
    """The limits that each function gets (`snapruntime.mechanisms.sandbox`) are to be set, not as far as may be.

    With a core limit of 0 the kernel would start what kernel.core_pattern names; with 1 it does not (core(5)).
    """
    needed = {"core": (resource.RLIMIT_CORE, 1), "fsize": (resource.RLIMIT_FSIZE, TMP_LIMIT + mmap.PAGESIZE)}
    if "SYS_RESOURCE" not in held:
        for name, (number, least) in needed.items():
            _, hard = resource.getrlimit(number)
            if hard != resource.RLIM_INFINITY and hard < least:
                detail = (
                    f"the hard limit of {name} is {hard} bytes, functions get {least}, and nobody here may raise it"
                )
                unit = f"Limit{name.upper()}=infinity"
                fix = f"For a service, {unit}; for a container, --ulimit {name}=-1; or CAP_SYS_RESOURCE."
                return Probe("ceilings", "missing", detail, fix, True)
    return Probe("ceilings", "ok", "the limits that functions get can be set", None, True)


def user_namespace_probe(container: Container) -> Probe:
    if not has_user_namespace():
        return Probe("user_namespace", "ok", "root here is the host's root", None, True)
    detail = "root here is no root outside, and CRIU needs capabilities that only that one has"
    return Probe("user_namespace", "missing", detail, container.leave_user_namespace(), True)


def capabilities_probe(held: frozenset[str], container: Container) -> Probe:
    lacking = [name for name in NEEDED if name not in held]
    if lacking:
        detail = "lacking " + "; ".join(f"CAP_{name} ({NEEDED[name]})" for name in lacking)
        return Probe("capabilities", "missing", detail, container.grant(*lacking), True)
    note = "" if "SYS_RESOURCE" in held else "; CAP_SYS_RESOURCE is not there, and not needed"
    return Probe("capabilities", "ok", f"all that are needed{note}", None, True)


def seccomp_probe(container: Container) -> Probe:
    """Whoever is filtered may neither suspend nor read another's filters, whatever his own allows (ptrace(2))."""
    if not has_seccomp_filter():
        return Probe("seccomp", "ok", "no filter", None, True)
    fix = container.loosen("seccomp") or "Take SystemCallFilter= out of the unit, or what else filters calls."
    return Probe("seccomp", "missing", "a filter is active, and CRIU cannot save processes from below one", fix, True)


def confinement_probe(container: Container) -> Probe:
    if (confined := confinement()) is None:
        return Probe("confinement", "ok", "neither AppArmor nor SELinux confines this process", None, False)
    kind, label = confined
    fix = container.loosen(kind) or "Run it outside of that profile."
    return Probe("confinement", "degraded", f"confined by {label}, which may refuse mounts and ptrace", fix, False)
