"""Whether this process runs inside a container, whose, and which of that engine's flags would give what is missing."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_ENGINES = ("podman", "docker", "kubernetes", "lxc", "systemd-nspawn")
#: Those that are told by flags of their `run`; of one that does not say who it is, this is likely.
_BY_FLAGS = ("podman", "docker", "unknown")


@dataclass(frozen=True, slots=True)
class Container:
    """What surrounds this process. `engine`: "" outside of any; "unknown" where there is one that does not say."""

    engine: str

    def grant(self, *capabilities: str) -> str:
        """What to do to get capabilities (named without CAP_)."""
        if self.engine and os.geteuid() != 0:
            return self.become_root()  # Who is not has none, whatever the container was given.
        if self.engine == "kubernetes":
            return f"Add {', '.join(capabilities)} to securityContext.capabilities.add of the container."
        if self.engine == "systemd-nspawn":
            names = ",".join(f"CAP_{name}" for name in capabilities)
            return f"Start the container with --capability={names}."
        if self.engine == "lxc":
            return f"Take {' '.join(capabilities).lower()} out of lxc.cap.drop of the container."
        if self.engine:
            return f"Start the container with {' '.join(f'--cap-add={name}' for name in capabilities)}."
        if os.geteuid() != 0:
            return "Run it with sudo, or as root."
        names = ", ".join(f"CAP_{name}" for name in capabilities)
        return f"Let what starts it (systemd unit, setpriv, …) leave it {names}."

    def become_root(self) -> str:
        """What to do where this process is not root's."""
        if self.engine == "kubernetes":
            return "Set runAsUser: 0 in the container's securityContext."
        if self.engine in _BY_FLAGS:
            return "Start the container with --user 0."
        return "Run it with sudo, or as root."

    def volume(self, folder: Path) -> str | None:
        """What to do where `folder` cannot be written; None outside of containers."""
        if self.engine == "kubernetes":
            return f"Mount a volume at {folder} (volumeMounts)."
        return f"Start the container with -v VOLUME:{folder}." if self.engine in _BY_FLAGS else None

    def tmpfs(self, folder: Path) -> str | None:
        """The same of a folder for what need not last."""
        if self.engine == "kubernetes":
            return f"Mount an emptyDir at {folder} (volumeMounts)."
        return f"Start the container with --tmpfs {folder}." if self.engine in _BY_FLAGS else None

    def loosen(self, what: str) -> str | None:
        """What to do against a restriction: "seccomp", "apparmor" or "label"."""
        if self.engine == "kubernetes":
            field = {"seccomp": "seccompProfile", "apparmor": "appArmorProfile", "label": "seLinuxOptions"}[what]
            return f"Set {field} in the container's securityContext (type Unconfined), or privileged: true."
        if self.engine in _BY_FLAGS:
            value = "label=disable" if what == "label" else f"{what}=unconfined"
            return f"Start the container with --security-opt {value}."
        return None

    def leave_user_namespace(self) -> str:
        """What to do where this process's root is no root outside."""
        if self.engine == "kubernetes":
            return "Set hostUsers: true in the pod's spec."
        if self.engine == "lxc":
            return "Take lxc.idmap out of the container's configuration (a privileged container)."
        if self.engine == "systemd-nspawn":
            return "Start the container with --private-users=no."
        if self.engine:
            return "Start the container as root (sudo podman, no rootless docker), with --userns=host."
        return "Run it outside of user namespaces (unshare --user, rootless engines)."


def find_container(root: Path = Path("/")) -> Container:
    """Look for the marks that engines leave. `root` is for tests."""

    def text(path: str) -> str:
        try:
            return (root / path).read_text(errors="replace")
        except OSError:
            return ""

    if "KUBERNETES_SERVICE_HOST" in os.environ or "kubepods" in text("proc/1/cgroup"):
        return Container("kubernetes")
    if (root / "run/.containerenv").exists():
        return Container("podman")
    if (root / ".dockerenv").exists() and not _is_disk(text("proc/self/mountinfo")):
        return Container("docker")
    named = text("run/systemd/container").strip() or os.environ.get("container", "")  # noqa: SIM112
    if not named and (match := re.search(r"/(docker|lxc|libpod)[-/]", text("proc/1/cgroup"))):
        named = {"libpod": "podman"}.get(match[1], match[1])
    named = {"oci": "podman"}.get(named, named)
    return Container(named if named in _ENGINES or not named else "unknown")


def _is_disk(mountinfo: str) -> bool:
    """Whether `/` is a disk: then /.dockerenv only tells that the disk was made from a Docker image (micro-VMs)."""
    return re.search(r"^\d+ \d+ \S+ / / .* - \S+ /dev/(?!mapper/)", mountinfo, re.MULTILINE) is not None
