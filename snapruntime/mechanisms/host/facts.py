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
