"""What a worker and its copies see: a root of our own, made of read-only views of the host.

A `Sandbox` is the description; its methods turn it into plans (see `snapruntime.mechanisms.plan`) and into the list of
mounts that CRIU is handed. A worker sees the system's programs and libraries, its interpreter, its code, and what the
user bound; not the host's home folders, /run, /var, /sys, the snapshot store, or other processes. The only place it
can write to is /tmp, private to each copy, which starts with what init and the before-snapshot hooks left there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from snapruntime.mechanisms import linux
from snapruntime.mechanisms.criu import ExternalMount
from snapruntime.mechanisms.plan import Plan
from snapruntime.mechanisms.spawner import ROOM, host_path
from snapruntime.values.errors import UsageError
from snapruntime.values.model import TMP_LIMIT

#: Where a worker finds the code of `snapruntime.worker`; Lambda keeps its runtime there too.
RUNTIME_FOLDER = "/var/runtime/snapruntime"

#: Folders of the host that are shown as they are; where one is a symbolic link, so is it shown.
_SYSTEM = ("bin", "etc", "lib", "lib32", "lib64", "libx32", "nix", "opt", "sbin", "usr")

_DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))

_READ_ONLY = linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV
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
class Sandbox:
    """The surroundings of one snapshot's worker and copies.

    Attributes:
        name: unique among the sandboxes of one spawner.
        binds: what is shown beside the system folders; none inside another.
        runtime: the host's folder that is shown as `RUNTIME_FOLDER`.
        uid: the user the function runs as.
        gid: its group.
        tmp_bytes: how much a copy may write to /tmp.
    """

    name: str
    binds: tuple[Bind, ...]
    runtime: str
    uid: int
    gid: int
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
        for folder in _resolver_folders():
            plan += _bind(folder, root + folder, _READ_ONLY)
        late = self._late_binds
        early = [(root + bind.path, bind) for bind in self.binds if not _is_below(bind.path, "/tmp")]
        for target, bind in early + late:
            plan += _bind(bind.path, target, _WRITABLE if bind.writable else _READ_ONLY)
        plan += _bind(tmp, self.lower, _WRITABLE) if tmp is not None else [["mkdir", self.lower, 0o1777]]
        plan += [
            ["mount_point", f"{self.lower}{bind.path.removeprefix('/tmp')}", host_path(bind.path)] for _, bind in late
        ]
        plan.append(["mount", "tmpfs", root, "tmpfs", linux.MS_REMOUNT | linux.MS_RDONLY | linux.MS_NOSUID, ""])
        return plan

    def enter(self, copy: str | None = None) -> Plan:
        """Put a new process inside, in a mount and PID namespace of its own, and take its privileges.

        Args:
            copy: the name of a prepared copy, whose /tmp it gets; None for the process to be checkpointed, which works
                on the snapshot's own /tmp.
        """
        root = self.root
        return [
            ["bind", self.lower if copy is None else f"{self._copy(copy)}/tmp", f"{root}/tmp", _WRITABLE],
            *(
                ["bind", source, root + bind.path, _WRITABLE if bind.writable else _READ_ONLY]
                for source, bind in self._late_binds
            ),
            ["mount", "proc", f"{root}/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC, ""],
            ["pivot_root", root],
            ["stdin", "/dev/null"],
            ["become", self.uid, self.gid],
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
        return [["umount", f"{folder}/tmp"], ["umount", f"{folder}/scratch"], ["rmtree", folder]]

    def discard(self) -> Plan:
        """Undo `prepare`, however far it came."""
        return [["umount_all", f"{ROOM}/{self.name}"], ["rmtree", f"{ROOM}/{self.name}"]]

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


def _resolver_folders() -> list[str]:
    """Where /etc/resolv.conf really is, if outside /etc: systemd-resolved and others keep it below /run."""
    folder = os.path.dirname(os.path.realpath("/etc/resolv.conf"))
    return [folder] if _is_below(folder, "/run") and os.path.isdir(folder) else []


def normalise_binds(binds: Iterable[Bind]) -> tuple[Bind, ...]:
    """Sort binds by depth and leave out those that another, or a system folder, shows already in the same mode.

    Raises:
        UsageError: a path that does not exist, or that the sandbox keeps for itself.
    """
    shown = [Bind(f"/{name}") for name in _SYSTEM if os.path.isdir(f"/{name}") and not os.path.islink(f"/{name}")]
    kept: list[Bind] = []
    for bind in sorted(set(binds), key=lambda bind: (bind.path.count("/"), bind.path, not bind.writable)):
        path = os.path.normpath(bind.path)
        if path in _OWN or any(_is_below(path, own) for own in _OWN_WITH_ALL_BELOW):
            raise UsageError(
                f"{path} cannot be shown inside the sandbox, which has its own.",
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
