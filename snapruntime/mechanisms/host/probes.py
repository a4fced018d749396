"""One list of capability probes: it feeds `doctor`, the skips of tests, and the errors when `run` starts.

No probe changes this process; what must be tried is tried in throwaway children (`trials`, `isolated`).
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from snapruntime.mechanisms.host import capabilities
from snapruntime.mechanisms.host.container import Container, find_container
from snapruntime.mechanisms.host.facts import (
    confinement,
    file_system,
    read_kernel_options,
)
from snapruntime.mechanisms.host.limits import limits_probe
from snapruntime.mechanisms.host.privileges import (
    capabilities_probe,
    ceilings_probe,
    confinement_probe,
    open_files_probe,
    root_probe,
    seccomp_probe,
    user_namespace_probe,
)
from snapruntime.mechanisms.host.storage import data_folder_probe, disk_space_probe, tmp_probe
from snapruntime.mechanisms.host.trials import run_trials
from snapruntime.mechanisms.provision.candidates import (
    has_pointer_authentication,
    minimum_version,
    pycriu_trouble,
    run_criu_check,
    shortcoming,
    start_trouble,
)
from snapruntime.mechanisms.provision.install import chosen_criu, find_criu
from snapruntime.values.errors import HostError
from snapruntime.values.host import CRIU_PREFERRED, CheckResult, Criu, Probe, Status, dotted

#: Time namespaces, in which CRIU keeps CLOCK_MONOTONIC going on from the snapshot.
_KERNEL_MINIMUM = (5, 6)
#: The oldest that snapruntime has been tried on.
_KERNEL_TRIED = (6, 1)

#: Kernel options without which `criu check` or the sandbox fails.
_OPTIONS = (
    "CHECKPOINT_RESTORE",
    "NAMESPACES",
    "PID_NS",
    "UTS_NS",
    "IPC_NS",
    "NET_NS",
    "FHANDLE",
    "EVENTFD",
    "EPOLL",
    "INOTIFY_USER",
    "UNIX_DIAG",
    "INET_DIAG",
    "INET_UDP_DIAG",
    "PACKET_DIAG",
    "NETLINK_DIAG",
    "SECCOMP_FILTER",
    "PROC_PAGE_MONITOR",
)
_OPTIONS_USEFUL = ("TIME_NS", "OVERLAY_FS", "MEMCG", "NF_TABLES")


@dataclass(frozen=True, slots=True)
class Host:
    """What several probes look at, gathered once."""

    home: Path
    container: Container
    capabilities: frozenset[str]
    criu: Criu | None
    criu_error: HostError | None
    check: CheckResult | None
    trials: Mapping[str, str | None]


def probe_host(home: Path) -> list[Probe]:
    """Try everything `run` counts on; takes well under a second."""
    return judge(gather(home))


def judge(host: Host) -> list[Probe]:
    """The answers of all probes to what was gathered."""
    return [probe(host) for probe in PROBES]


def gather(home: Path) -> Host:
    """Collect what the probes judge."""
    criu, error = None, None
    try:
        criu = chosen_criu(home)
    except HostError as caught:
        error = caught
    check = run_criu_check(criu) if criu is not None else None
    if criu is not None and check is not None and not check.passed and (trouble := start_trouble(criu)):
        criu, check, error = None, None, trouble
    return Host(
        home=home,
        container=find_container(),
        capabilities=capabilities.effective(),
        criu=criu,
        criu_error=error,
        check=check,
        trials=run_trials(),
    )


def require_host(home: Path) -> Criu:
    """The CRIU to use, at the start of `run`: only what is quick to see, in a millisecond or two.

    Raises HostError with what is missing, why it is needed, and what to do.
    """
    container, held = find_container(), capabilities.effective()
    for probe in (
        root_probe(container),
        _architecture(),
        open_files_probe(),
        ceilings_probe(held),
        user_namespace_probe(container),
        capabilities_probe(held, container),
        seccomp_probe(container),
    ):
        if probe.blocks:
            raise HostError(f"This host cannot run snapshots: {probe.detail}.", hint=probe.fix or "")
    return find_criu(home)


# --- the probes ------------------------------------------------------------------------------------------------------


def _architecture() -> Probe:
    machine = platform.machine()
    if machine not in ("x86_64", "aarch64"):
        return Probe("architecture", "missing", f"{machine} is not supported", "Use an x86_64 or arm64 host.", True)
    pac = f" with pointer authentication: CRIU {dotted(minimum_version())} or newer only"
    return Probe("architecture", "ok", machine + (pac if has_pointer_authentication() else ""), None, True)


def _kernel(host: Host) -> Probe:
    release = platform.release()
    match = re.match(r"(\d+)\.(\d+)", release)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    fix = f"Use a kernel of {dotted(_KERNEL_TRIED)} or newer."
    if version < _KERNEL_MINIMUM:
        return Probe("kernel", "missing", f"{release} is too old: {dotted(_KERNEL_MINIMUM)} is needed", fix, True)
    if version < _KERNEL_TRIED:
        return Probe("kernel", "degraded", f"{release}; older than any that was tried", fix, True)
    return Probe("kernel", "ok", release, None, True)


def _passes(host: Host) -> bool:
    return host.check is not None and host.check.passed


def _kernel_options(host: Host) -> Probe:
    name, passed = "kernel_options", _passes(host)
    options = read_kernel_options(platform.release())
    if options is None:
        if passed:
            return Probe(name, "ok", "not to be read here, but `criu check`, which tries them, passes", None, True)
        fix = "Install the kernel's config file in /boot, or look at the other lines for what does not work."
        return Probe(name, "degraded", "cannot be read (no /proc/config.gz, no /boot/config-…)", fix, True)
    absent = [option for option in _OPTIONS if option not in options]
    less = [option for option in _OPTIONS_USEFUL if option not in options]
    fix = f"Use a kernel with CONFIG_{', CONFIG_'.join(absent or less)}."
    if absent:
        # CRIU's own word counts for more: a vendor's kernel may have an option under another name.
        return Probe(name, "degraded" if passed else "missing", f"not built in: {', '.join(absent)}", fix, True)
    if less:
        return Probe(name, "degraded", f"not built in: {', '.join(less)}", fix, True)
    return Probe(name, "ok", f"all {len(_OPTIONS) + len(_OPTIONS_USEFUL)} of them", None, True)


#: Where the kernel refuses something though the capability for it is there.
_LOOK = "Look at what confines this process: AppArmor, SELinux, seccomp, a user namespace, a list of devices."


def _remedy(host: Host, *needed: str) -> str:
    """What to do where the kernel refused what takes these capabilities."""
    if lacking := [name for name in needed if name not in host.capabilities]:
        return host.container.grant(*lacking)
    confined = confinement()
    return (confined and host.container.loosen(confined[0])) or _LOOK


def _namespaces(host: Host) -> Probe:
    names = ("pid", "mnt", "ipc", "uts", "net", "time")
    failed = {name: host.trials[name] for name in names if host.trials[name]}
    if not failed:
        return Probe("namespaces", "ok", f"{', '.join(names)}: created", None, True)
    failed = {name: re.sub(r"^unshare\(\w+\): ", "", reason or "") for name, reason in failed.items()}
    reasons = dict.fromkeys(failed.values())
    detail = "; ".join(f"{', '.join(n for n in failed if failed[n] == reason)}: {reason}" for reason in reasons)
    # Without time namespaces in the kernel, CRIU goes without; all others are made for each copy.
    status: Status = "degraded" if set(failed) == {"time"} else "missing"
    return Probe("namespaces", status, detail, _remedy(host, "SYS_ADMIN"), True)


def _trial(
    name: str, trial: str, works: str, *, required: bool, loss: str = "", need: Sequence[str] = ("SYS_ADMIN",)
) -> Callable[[Host], Probe]:
    """A probe whose answer is one trial's outcome.

    `loss`: what a failure costs where the thing is not required; `need`: the capabilities that it takes.
    """

    def probe(host: Host) -> Probe:
        reason = host.trials[trial]
        if reason is None:
            return Probe(name, "ok", works, None, required)
        detail = f"{reason}{'; ' if loss else ''}{loss}"
        return Probe(name, "missing" if required else "degraded", detail, _remedy(host, *need), required)

    return probe


def _run_folder(host: Host) -> Probe:
    reason, kind = host.trials["run"], file_system("/run")
    if reason is None:
        return Probe("run_folder", "ok", f"{kind}; a private tmpfs can be mounted over it", None, True)
    detail = f"no tmpfs can be mounted on /run: {reason}"
    return Probe("run_folder", "missing", detail, _remedy(host, "SYS_ADMIN"), True)


def _user(host: Host) -> Probe:
    reason = host.trials["other_uid"]
    if reason is None:
        return Probe("unprivileged_user", "ok", "functions can run without privileges", None, True)
    return Probe("unprivileged_user", "missing", reason, _remedy(host, "SETUID", "SETGID"), True)


def _criu(host: Host) -> Probe:
    if host.criu is None:
        return Probe("criu", "missing", str(host.criu_error), _setup(host), True)
    if host.criu.version < minimum_version() and has_pointer_authentication():
        detail = f"{host.criu.describe()}: restores hang on this CPU (`paca`)"
        return Probe("criu", "missing", detail, "Run `snapruntime setup`, which installs a newer one.", True)
    if lack := shortcoming(host.criu.version):
        fix = "Run `snapruntime setup`, which installs a newer one where the mirror has it."
        return Probe("criu", "degraded", f"{host.criu.describe()} {lack}", fix, True)
    note = "" if host.criu.version >= CRIU_PREFERRED else f"; {dotted(CRIU_PREFERRED)} handles more programs"
    return Probe("criu", "ok", host.criu.describe() + note, None, True)


def _setup(host: Host) -> str:
    """What brings a CRIU, where there is none."""
    return (host.criu_error.hint if host.criu_error else "") or "Run `snapruntime setup`."


def _criu_check(host: Host) -> Probe:
    if host.check is None:
        return Probe("criu_check", "missing", "there is no CRIU to ask", _setup(host), True)
    if host.check.passed:
        return Probe("criu_check", "ok", host.check.output, None, True)
    fix = "Mend what else is missing in this list first; then the kernel lacks what CRIU names here."
    return Probe("criu_check", "missing", host.check.output, fix, True)


def _pycriu(host: Host) -> Probe:
    if host.criu is None:
        return Probe("pycriu", "missing", "comes with CRIU", _setup(host), True)
    trouble = pycriu_trouble(host.criu.pycriu)
    if trouble is not None:
        return Probe("pycriu", "missing", trouble, "Run `snapruntime setup` again.", True)
    from google import protobuf  # Now it is known to be there.

    return Probe("pycriu", "ok", f"works, with protobuf {protobuf.__version__}", None, True)


def _python(host: Host) -> Probe:
    # Older than 3.11 cannot get here: pip refuses to install snapruntime there.
    return Probe("python", "ok", f"{platform.python_version()}, {sys.executable}", None, True)


def _container(host: Host) -> Probe:
    engine = host.container.engine
    return Probe(
        "container", "ok", f"inside a container ({engine})" if engine else "not inside a container", None, False
    )


PROBES: tuple[Callable[[Host], Probe], ...] = (
    lambda host: root_probe(host.container),
    lambda host: _architecture(),
    _kernel,
    _kernel_options,
    lambda host: open_files_probe(),
    lambda host: ceilings_probe(host.capabilities),
    lambda host: user_namespace_probe(host.container),
    lambda host: capabilities_probe(host.capabilities, host.container),
    _namespaces,
    _trial("sandbox", "root", "mounts and pivot_root work", required=True),
    _run_folder,
    _user,
    _trial("ptrace", "ptrace", "processes can be seized", required=True, need=("SYS_PTRACE",)),
    lambda host: seccomp_probe(host.container),
    lambda host: confinement_probe(host.container),
    _criu,
    _criu_check,
    _pycriu,
    _python,
    _trial("filter", "filter", "functions' system calls can be filtered", required=True),
    lambda host: limits_probe(host.trials, host.container),
    _trial(
        "overlay",
        "overlay",
        "overlayfs mounts work",
        required=False,
        loss="/tmp of each copy is copied instead",
        need=("SYS_ADMIN", "DAC_OVERRIDE"),
    ),
    _trial(
        "devices",
        "device",
        "device nodes can be made",
        required=False,
        loss="the host's are shown instead",
        need=("SYS_ADMIN", "MKNOD"),
    ),
    lambda host: data_folder_probe(host.home, host.container),
    lambda host: disk_space_probe(host.home),
    lambda host: tmp_probe(host.container, check_passed=_passes(host)),
    _container,
)
