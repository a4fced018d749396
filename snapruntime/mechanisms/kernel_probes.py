"""What CRIU found out about this kernel, kept from one run to the next.

CRIU keeps it in /run/criu.kdat and takes what it finds there as true if it was written by the same CRIU. The spawner's
/run is new in each run, so the file is kept in the data folder too, under a name that changes with everything that the
answers depend on: the boot, the kernel, CRIU, our capabilities and our namespaces (another container may differ).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import tempfile
from pathlib import Path

from snapruntime.values.host import Criu, dotted

#: Where CRIU looks, in the spawner's mount namespace.
PLACE = "/run/criu.kdat"
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")


def recall(home: Path, criu: Criu) -> bytes | None:
    """What was kept for this host as it is now; None where nothing was."""
    try:
        kept = _file(home, criu).read_bytes()
    except OSError:
        return None
    digest, answers = kept[:_DIGEST], kept[_DIGEST:]
    return answers if hashlib.sha256(answers).digest() == digest else None


def keep(home: Path, criu: Criu, answers: bytes) -> None:
    """Keep what CRIU found out. Not being able to is no error: it will be found out again."""
    path = _file(home, criu)
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=path.parent)
        with open(fd, "wb") as file:
            file.write(hashlib.sha256(answers).digest() + answers)
        os.rename(name, path)
        for other in path.parent.iterdir():
            if other != path and other.stat().st_mtime_ns < path.stat().st_mtime_ns - _OLD_NS:
                other.unlink(missing_ok=True)


#: A file that is not whole must not be used: CRIU would probe anew, and as the wrong user.
_DIGEST = hashlib.sha256().digest_size
#: Answers of other boots and containers are removed after a month.
_OLD_NS = 30 * 24 * 3600 * 10**9


def _file(home: Path, criu: Criu) -> Path:
    binary = criu.binary.stat()
    status = Path("/proc/self/status").read_text("ascii", "replace")
    facts = [
        Path("/proc/sys/kernel/random/boot_id").read_text("ascii"),
        platform.version(),
        platform.release(),
        dotted(criu.version),
        *map(str, (binary.st_size, binary.st_mtime_ns, binary.st_ino)),
        *(line for line in status.splitlines() if line.startswith(("CapEff:", "CapBnd:", "Seccomp:", "NoNewPrivs:"))),
        *(os.readlink(f"/proc/self/ns/{name}") for name in _NAMESPACES),
    ]
    return home / "kernel" / hashlib.sha256("\0".join(facts).encode()).hexdigest()[:32]
