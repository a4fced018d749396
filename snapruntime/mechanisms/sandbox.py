"""What a worker and its copies see: a root of our own, made of read-only views of the host.

A `Sandbox` is the description; its methods turn it into plans (see `snapruntime.mechanisms.plan`) and into the list of
mounts that CRIU is handed. A worker sees the system's programs and libraries, its interpreter, its code, and what the
user bound; not the host's home folders, /run, /var, /sys, the snapshot store, or other processes. The only place it
can write to is /tmp, private to each copy, which starts with what init and the before-snapshot hooks left there.
"""

from __future__ import annotations

import mmap
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field

from snapruntime.mechanisms import folders, linux, seccomp
from snapruntime.mechanisms.cgroup import Cgroups, Meter
from snapruntime.mechanisms.criu import ExternalMount
from snapruntime.mechanisms.plan import Plan
from snapruntime.mechanisms.spawner import ROOM, host_path
from snapruntime.values.errors import UsageError
from snapruntime.values.model import TMP_LIMIT, Network

#: Where a worker finds the code of `snapruntime.worker`; Lambda keeps its runtime there too.
RUNTIME_FOLDER = "/var/runtime/snapruntime"
#: And the ready-made hooks: beside it, where the worker's stand-in for `snapruntime` looks for `snapruntime.hooks`.
HOOKS_FOLDER = "/var/runtime/hooks"

#: What no function gets to see of the folders that it is shown, be it readable to its user or not.
_SECRETS = (
    *("/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/sudoers", "/etc/sudoers.d", "/etc/ssh"),
    *("/etc/ssl/private", "/etc/pki/tls/private", "/etc/krb5.keytab", "/etc/kubernetes", "/etc/wireguard"),
    *("/etc/NetworkManager/system-connections", "/etc/letsencrypt"),
)
#: The same below root's home, which a function sees of where its code or interpreter is in there.
_SECRETS_OF_HOME = (".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker", ".netrc", ".git-credentials", ".pypirc")

#: What a function is told that its host is called: a name that every /etc/hosts knows, and not the host's own.
HOST_NAME = "localhost"

#: Folders of the host that are shown as they are; where one is a symbolic link, so is it shown.
_SYSTEM = ("bin", "etc", "lib", "lib32", "lib64", "libx32", "nix", "opt", "sbin", "usr")

_DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))

_READ_ONLY = linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV
#: Read-only, since the owner of /proc/sys and /proc/sysrq-trigger is root, with or without capabilities.
_PROC = linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
_WRITABLE = linux.MS_NOSUID | linux.MS_NODEV


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or folder of the host, shown at the same path.

    Attributes:
        path: absolute.
        writable: whether the function may change it.
    """

    path: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Ground:
    """What all sandboxes of one supervisor have in common.

    Attributes:
        cgroups: where limits are told to the kernel.
        home: the data folder: snapshots, with the memory of functions. No function sees it.
        kind: what makes them; the benchmark measures its cost by another.
    """

    cgroups: Cgroups
    home: str
    kind: type[Sandbox] = field(default_factory=lambda: Sandbox)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The surroundings of one snapshot's worker and copies.

    Attributes:
        name: unique among the sandboxes of one spawner.
        binds: what is shown beside the system folders; none inside another.
        runtime: the host's folder that is shown as `RUNTIME_FOLDER`.
        hooks: the host's folder that is shown as `HOOKS_FOLDER`.
        uid: the user the function runs as.
        gid: its group.
        network: what it sees of the network.
        memory_mb: how much memory it may have, MB.
        ground: what it is built on.
        tmp_bytes: how much a copy may write to /tmp.
    """

    name: str
    binds: tuple[Bind, ...]
    runtime: str
    hooks: str
    uid: int
    gid: int
    network: Network
    memory_mb: int
    ground: Ground
    tmp_bytes: int = TMP_LIMIT

    @property
    def root(self) -> str:
        """The root of worker and copies, in the spawner's mount namespace."""
        return f"{ROOM}/{self.name}/root"

    @property
    def lower(self) -> str:
        """Where the snapshot's /tmp is, in the spawner's mount namespace."""
        return f"{ROOM}/{self.name}/tmp"

    @property
    def own_mounts(self) -> list[str]:
        """The mount points that are another mount in each copy."""
        return ["/tmp", "/proc", *(bind.path for _, bind in self._late_binds)]

    @property
    def namespaces(self) -> int:
        """CLONE_NEW* flags of the namespaces that worker and copies have beside those CRIU makes (PID, mount)."""
        return linux.CLONE_NEWUTS | linux.CLONE_NEWIPC | (0 if self.network == "host" else linux.CLONE_NEWNET)

    def surround(self, copy: str | None = None) -> Plan:
        """Furnish those namespaces and a control group: in a worker, or in the CRIU whose copy will inherit them."""
        plan: Plan = [*self.ground.cgroups.surround(self._group(copy), self.memory_mb), ["hostname", HOST_NAME]]
        if self.network == "isolated":
            plan.append(["loopback"])
        return plan

    def meter(self, copy: str | None = None) -> Meter | None:
        """What tells of the memory of a copy, or of the process to be checkpointed."""
        return self.ground.cgroups.meter(self._group(copy))

    def _group(self, copy: str | None) -> str:
        return f"{self.name}-{copy or 'init'}"

    def join(self, pid: int) -> Plan:
        """Bring the CRIU that is to save the process `pid` into those namespaces, so that it does not save them."""
        names = ["uts"] if self.network == "host" else ["uts", "net"]
        return [["join", pid, names], ["join_unused_ipc", pid]]

    def _late(self, index: int) -> str:
        return f"{ROOM}/{self.name}/late/{index}"

    @property
    def _late_binds(self) -> list[tuple[str, Bind]]:
        """Binds below /tmp, which is another mount in each copy, so they must be mounted after it."""
        late = [bind for bind in self.binds if _is_below(bind.path, "/tmp")]
        return [(self._late(index), bind) for index, bind in enumerate(late)]

    def prepare(self, tmp: str | None) -> Plan:
        """Make the root, once per sandbox, in the spawner.

        Args:
            tmp: the folder with the content that /tmp has in the snapshot, or is to get at its checkpoint; None for an
                empty one that is not kept.
        """
        root = self.root
        plan: Plan = [
            ["mkdir", root, 0o755],
            ["mount", "tmpfs", root, "tmpfs", linux.MS_NOSUID, "mode=0755,size=1m"],
            *(["mkdir", f"{root}/{name}", 0o755] for name in ("dev", "proc", "run", "sys", "var")),
            ["mkdir", f"{root}/tmp", 0o1777],
            *(["device", f"{root}/dev/{name}", major, minor] for name, major, minor in _DEVICES),
            ["symlink", "/proc/self/fd", f"{root}/dev/fd"],
            ["symlink", "/proc/self/fd/0", f"{root}/dev/stdin"],
            ["symlink", "/proc/self/fd/1", f"{root}/dev/stdout"],
            ["symlink", "/proc/self/fd/2", f"{root}/dev/stderr"],
            # POSIX shared memory and semaphores: private to each copy, and part of the snapshot, as /tmp is.
            ["symlink", "/tmp", f"{root}/dev/shm"],
        ]
        for name in _SYSTEM:
            path = f"/{name}"
            if os.path.islink(path):
                plan.append(["symlink", os.readlink(path), root + path])
            elif os.path.isdir(path):
                plan += _bind(path, root + path, _READ_ONLY)
        # Libraries ask here how many processors there are, and how large their caches.
        plan += _bind("/sys/devices/system/cpu", f"{root}/sys/devices/system/cpu", _READ_ONLY)
        plan += _bind(self.runtime, root + RUNTIME_FOLDER, _READ_ONLY)
        plan += _bind(self.hooks, root + HOOKS_FOLDER, _READ_ONLY)
        for folder in resolver_folders():
            plan += _bind(folder, root + folder, _READ_ONLY)
        late = self._late_binds
        early = [(root + bind.path, bind) for bind in self.binds if not _is_below(bind.path, "/tmp")]
        for target, bind in early + late:
            plan += _bind(bind.path, target, _WRITABLE if bind.writable else _READ_ONLY)
        plan += [["hide", root + path, f"{ROOM}/{self.name}/nothing"] for path in self._hidden()]
        plan += _bind(tmp, self.lower, _WRITABLE) if tmp is not None else [["mkdir", self.lower, 0o1777]]
        plan += [
            ["mount_point", f"{self.lower}{bind.path.removeprefix('/tmp')}", host_path(bind.path)] for _, bind in late
        ]
        plan.append(["mount", "tmpfs", root, "tmpfs", linux.MS_REMOUNT | linux.MS_RDONLY | linux.MS_NOSUID, ""])
        return plan

    def _hidden(self) -> list[str]:
        """What is to be covered of what is shown."""
        home, data = os.path.realpath(os.path.expanduser("~root")), os.path.realpath(self.ground.home)
        secrets = [*_SECRETS, *(os.path.join(home, name) for name in _SECRETS_OF_HOME), data]
        shown = {f"/{name}": f"/{name}" for name in _SYSTEM}
        shown |= {os.path.realpath(bind.path): bind.path for bind in self.binds if not _is_below(bind.path, "/tmp")}
        return sorted(
            {
                point + path.removeprefix(real)
                for path in filter(os.path.exists, secrets)
                for real, point in shown.items()
                if _is_below(path, real)
            }
        )

    def enter(self, copy: str | None = None) -> Plan:
        """Put a new process inside, in a mount and PID namespace of its own, and take its privileges.

        Args:
            copy: the name of a prepared copy, whose /tmp it gets; None for the process to be checkpointed, which works
                on the snapshot's own /tmp.
        """
        root = self.root
        return [
            *self.surround(copy),
            ["bind", self.lower if copy is None else f"{self._copy(copy)}/tmp", f"{root}/tmp", _WRITABLE],
            *(
                ["bind", source, root + bind.path, _WRITABLE if bind.writable else _READ_ONLY]
                for source, bind in self._late_binds
            ),
            ["mount", "proc", f"{root}/proc", "proc", _PROC, ""],
            ["pivot_root", root],
            ["stdin", "/dev/null"],
            # One page more than /tmp holds: there, "no space left" comes first, as on Lambda. With a core limit of 1,
            # and of 1 only, the kernel neither writes a core file nor starts the program that kernel.core_pattern may
            # name, as root and outside of any sandbox (core(5)).
            ["limits", {"NOFILE": linux.OPEN_FILES, "FSIZE": self.tmp_bytes + mmap.PAGESIZE, "CORE": 1}],
            ["become", self.uid, self.gid],
            ["seccomp", seccomp.program(platform.machine().upper()).hex()],
        ]

    def prepare_copy(self, copy: str) -> Plan:
        """Make what a copy gets to itself: its /tmp, which begins as the snapshot's."""
        folder = self._copy(copy)
        return [
            ["mkdir", f"{folder}/scratch", 0o700],
            ["mkdir", f"{folder}/tmp", 0o1777],
            ["overlay", self.lower, f"{folder}/tmp", f"{folder}/scratch", self.tmp_bytes],
        ]

    def discard_copy(self, copy: str) -> Plan:
        """Undo `prepare_copy`, however far it came."""
        folder = self._copy(copy)
        mounts: Plan = [["umount", f"{folder}/tmp"], ["umount", f"{folder}/scratch"], ["rmtree", folder]]
        return [*mounts, *self.ground.cgroups.remove(self._group(copy))]

    def discard(self) -> Plan:
        """Undo `prepare`, however far it came."""
        mounts: Plan = [["umount_all", f"{ROOM}/{self.name}"], ["rmtree", f"{ROOM}/{self.name}"]]
        return [*mounts, *self.ground.cgroups.remove(self._group(None))]

    def _copy(self, copy: str) -> str:
        return f"{ROOM}/{self.name}/copies/{copy}"

    def mounts(self, found: Iterable[str], copy: str | None = None) -> list[ExternalMount]:
        """The mounts that CRIU is handed: all but the root and /proc.

        Args:
            found: the mount points at and below `root`, in the spawner's mount namespace; none where they come with
                the root.
            copy: the copy they are for; None at the checkpoint.
        """
        # A key is a mount's place in this list: those that each copy has of its own come first, so that their keys are
        # the same with and without the others.
        sources = [("/tmp", self.lower if copy is None else f"{self._copy(copy)}/tmp")]
        sources += [(bind.path, source) for source, bind in self._late_binds]
        sources += [(path.removeprefix(self.root), path) for path in found if path != self.root]
        return [ExternalMount(f"mount-{number}", point, source) for number, (point, source) in enumerate(sources)]


def _bind(source: str, target: str, flags: int) -> Plan:
    source = host_path(source)
    return [["mount_point", target, source], ["bind", source, target, flags]]


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def resolver_folders() -> list[str]:
    """Where /etc/resolv.conf really is, if outside /etc: systemd-resolved and others keep it below /run."""
    folder = os.path.dirname(os.path.realpath("/etc/resolv.conf"))
    return [folder] if _is_below(folder, "/run") and os.path.isdir(folder) else []


def check_hidden(paths: Iterable[str], home: str) -> None:
    """Refuse to show what would show the snapshots, the memory of other functions, and cannot be covered.

    Args:
        paths: what the user wants shown.
        home: the data folder.

    Raises:
        UsageError: one is in the data folder, and not the code of a version; or has it in it, and is in /tmp, where
            nothing can be covered.
    """
    home = os.path.realpath(home)
    for path in paths:
        real = os.path.realpath(path)
        if os.path.dirname(real) == os.path.join(home, folders.CODE):
            continue  # The code of one version: its own.
        if _is_below(real, home) or (_is_below(home, real) and _is_below(path, "/tmp")):
            raise UsageError(
                f"{path} would show the function the data folder {home}, where the memory of all functions is kept.",
                hint="Move the files to another folder, or name another data folder with --home.",
            )


def normalise_binds(binds: Iterable[Bind]) -> tuple[Bind, ...]:
    """Sort binds by depth and leave out those that another, or a system folder, shows already in the same mode.

    Raises:
        UsageError: a path that does not exist, or that the sandbox keeps for itself.
    """
    shown = [Bind(f"/{name}") for name in _SYSTEM if os.path.isdir(f"/{name}") and not os.path.islink(f"/{name}")]
    kept: list[Bind] = []
    for bind in sorted(set(binds), key=lambda bind: (bind.path.count("/"), bind.path, not bind.writable)):
        path = os.path.normpath(bind.path)
        for place in (path, os.path.realpath(path)):  # A bind mount shows what a link leads to.
            if place in _OWN or any(_is_below(place, own) for own in _OWN_WITH_ALL_BELOW):
                raise UsageError(
                    f"{path}{f' leads to {place}, which' * (place != path)} cannot be shown inside the sandbox, which "
                    "has its own.",
                    hint="Move the files to another folder.",
                )
        if "\n" in path:
            raise UsageError(f"The path {path!r} has a line break, which CRIU cannot record.", hint="Rename it.")
        if not os.path.exists(path):
            raise UsageError(f"{path} does not exist, so it cannot be shown inside the sandbox.")
        covering = max(
            (other for other in [*shown, *kept] if _is_below(path, other.path)),
            key=lambda other: len(other.path),
            default=None,
        )
        if covering is None or covering.writable != bind.writable:
            kept.append(Bind(path, bind.writable))
    return tuple(kept)


#: Paths that are made anew for each sandbox, or would show all of the host.
_OWN = frozenset({"/", "/tmp", "/run", "/var", "/sys"})
_OWN_WITH_ALL_BELOW = ("/proc", "/dev", "/var/runtime")
