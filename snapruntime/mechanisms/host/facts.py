"""What can be read about this host: mounts, file systems, the kernel's options."""

from __future__ import annotations

import gzip
import os
import re
from pathlib import Path


def read_kernel_options(release: str, root: Path = Path("/")) -> dict[str, str] | None:
    """The running kernel's options, `NAME` (without CONFIG_) to "y" or "m"; None where they cannot be read."""
    places = (
        "proc/config.gz",
        f"boot/config-{release}",
        f"lib/modules/{release}/config",
        f"usr/lib/modules/{release}/config",
    )
    for place in places:
        try:
            data = (root / place).read_bytes()
            text = (gzip.decompress(data) if place.endswith(".gz") else data).decode(errors="replace")
        except (OSError, EOFError):
            continue
        return dict(re.findall(r"^CONFIG_(\w+)=([ym])$", text, re.MULTILINE))
    return None


def has_user_namespace(uid_map: Path = Path("/proc/self/uid_map")) -> bool:
    """Whether this process is in a user namespace of its own: the first one maps each user to itself."""
    return uid_map.read_text().split() != ["0", "0", "4294967295"]


def has_seccomp_filter(status: Path = Path("/proc/self/status")) -> bool:
    """Whether a seccomp filter is on this process, and so on all it will start."""
    match = re.search(r"^Seccomp:\s*(\d)", status.read_text(), re.MULTILINE)
    return match is not None and match[1] != "0"


def confinement() -> tuple[str, str] | None:
    """What confines this process, "apparmor" or "label" (SELinux's), and under which name; None where neither does."""
    for place in ("/proc/self/attr/apparmor/current", "/proc/self/attr/current"):
        try:
            label = Path(place).read_text().strip("\0\n ")
        except OSError:
            continue
        if not label or label.startswith(("unconfined", "kernel")) or ":unconfined_t:" in label:
            return None
        return ("label" if label.count(":") >= 3 else "apparmor"), label
    return None


def mounts() -> list[tuple[list[str], str]]:
    """The fields of each line of mountinfo (proc(5)), with the file system's type."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        fields, _, rest = line.partition(" - ")
        found.append((fields.split(), rest.split()[0]))
    return found


def file_system(path: str) -> str:
    """The type of the file system that `path` is on, as mount(8) names it."""
    path = os.path.realpath(path)
    kind, length = "unknown", -1
    for fields, candidate in mounts():
        point = re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), fields[4])
        # Of two on the same point, the later one covers the other.
        if (path == point or path.startswith(point.rstrip("/") + "/")) and len(point) >= length:
            kind, length = candidate, len(point)
    return kind


def existing_folder(path: Path) -> Path:
    """The nearest folder above `path`, itself included, that is there."""
    path = path.absolute()
    while not os.path.exists(path):  # unlike Path.exists, without an error for a folder that may not be read
        path = path.parent
    return path
