"""The machine that measured, as far as it can matter to the numbers."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from snapruntime import Runtime

_PACKAGES = ("snapruntime", "numpy", "pandas", "scikit-learn", "scipy", "polars", "pyarrow", "matplotlib", "psutil")

#: The folders of the code that runs while it is measured.
_CODE = ("snapruntime", "bench", "hooks")
_HERE = Path(__file__).resolve().parent


def read(path: str | Path) -> str:
    """A small file of the kernel's; empty where there is none."""
    with contextlib.suppress(OSError):
        return Path(path).read_text("utf-8", "replace").strip()
    return ""


def describe(runtime: Runtime, folder: Path) -> dict[str, Any]:
    """Args: folder: where the snapshots are."""
    info = dict(line.split("\t: ", 1) for line in read("/proc/cpuinfo").split("\n\n")[0].splitlines() if "\t: " in line)
    cpu = {name.strip(): value for name, value in info.items()}
    memory = dict(line.split(":", 1) for line in read("/proc/meminfo").splitlines())
    weak = Path("/sys/devices/system/cpu/vulnerabilities")
    return {
        "kernel": f"{platform.system()} {platform.release()} {platform.version()}",
        "machine": platform.machine(),
        "cpu": cpu.get("model name") or cpu.get("CPU part") or "unknown",
        "cpus": len(os.sched_getaffinity(0)),
        "virtual": "hypervisor" in cpu.get("flags", "").split(),
        "product": read("/sys/class/dmi/id/product_name") or "unknown",
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "none (no cpufreq)",
        "microcode": cpu.get("microcode", "unknown"),
        "mitigations": {path.name: read(path) for path in sorted(weak.glob("*"))},
        "memory": memory.get("MemTotal", "unknown").strip(),
        "swap": memory.get("SwapTotal", "unknown").strip(),
        "huge_pages": read("/sys/kernel/mm/transparent_hugepage/enabled") or "none",
        "pages_out": pages_out(),
        "cgroup": read("/proc/self/cgroup"),
        "cpu_limit": read("/sys/fs/cgroup/cpu.max") or "none",
        "disk": disk(folder),
        "python": f"{platform.python_implementation()} {platform.python_version()} ({platform.python_compiler()})",
        "criu": runtime.criu.describe(),
        "commit": commit(),
    }


def pages_out(sys: Path = Path("/sys")) -> bool:
    """Whether the kernel gives up memory that has not been used for a while, though there is free memory: by DAMON
    (Documentation/admin-guide/mm/damon). What is in the page cache, and copies' memory, then comes from the disk again.
    """
    running = (path.parent for path in sys.glob("kernel/mm/damon/admin/kdamonds/*/state") if read(path) == "on")
    actions = {read(action) for path in running for action in path.glob("contexts/*/schemes/*/action")}
    return "pageout" in actions or read(sys / "module/damon_reclaim/parameters/enabled") == "Y"


def disk(folder: Path) -> str:
    """File system and device of a folder: "ext4 on /dev/vda (rotational: 1)"."""
    device = os.stat(folder).st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    for line in read("/proc/self/mountinfo").splitlines():
        fields = line.split()
        if fields[2] == name:
            kind, source = fields[fields.index("-") + 1 :][:2]
            block = Path("/sys/dev/block", name)
            queue = next((path for path in (block / "queue", block.resolve().parent / "queue") if path.is_dir()), None)
            spins = f" (rotational: {read(queue / 'rotational')})" if queue is not None else ""
            return f"{kind} on {source}{spins}"
    return "unknown"


def commit(here: Path = _HERE) -> str:
    """The commit that the code around `here` is at; "unknown" outside of a repository.

    With "and changes" where a file was changed, or the code has one more that is not in the repository.
    """

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        # Results that a run before this one left beside the code change nothing of it.
        more = git("ls-files", "--others", "--exclude-standard", "--", *(f":/{name}/*.py" for name in _CODE))
        return git("rev-parse", "HEAD") + (" and changes" if changed or more else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions() -> dict[str, str]:
    """What is installed of what the workloads use."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def load() -> list[float]:
    """The load average of 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def available() -> int:
    """Bytes of memory that could be had without swapping."""
    for line in read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


class CacheDropper:
    """Empties the page cache: all of it where that is allowed, else of the files below one folder.

    Attributes:
        how: which of the two; for people.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._all = True
        os.sync()  # Pages that are not on the disk yet cannot be dropped.
        try:
            self.drop()
            self.how = "before each sample all of the page cache was dropped (/proc/sys/vm/drop_caches), libraries too"
        except OSError:
            self._all = False
            self.how = "before each sample the snapshots' pages were dropped (posix_fadvise); libraries stayed cached"
        self.how += "; what a live process had mapped stays, which is the interpreter, libc and CRIU prepared ahead"

    def drop(self) -> None:
        if self._all:
            with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
                file.write("3\n")
            return
        for path in self._folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(fd)
