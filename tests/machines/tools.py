"""The programs that this host must have, and the Debian packages that they are in."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

_PACKAGES = {
    "busybox": "busybox-static",
    "depmod": "kmod",
    "git": "git",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "modprobe": "kmod",
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-system-x86_64": "qemu-system-x86",
}


def provide(emulators: Sequence[str]) -> None:
    """Install what is missing. Raises SystemExit where that cannot be done.

    Args:
        emulators: which of QEMU's programs are needed.
    """
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # Where depmod and mke2fs are, and users' shells do not look.
    if os.geteuid() != 0:
        raise SystemExit("Run it as root: file systems are made with files of root, and chroot(8) is used.")
    wanted = [name for name in _PACKAGES if not name.startswith("qemu-") or name in emulators]
    packages = sorted({_PACKAGES[name] for name in wanted if shutil.which(name) is None})
    if not packages:
        return
    if shutil.which("apt-get") is None:
        raise SystemExit(f"Install what Debian has in its packages {' '.join(packages)}, and run this again.")
    print(f"Installing {' '.join(packages)} ...", flush=True)
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    # One source of several may be out of reach; the installation decides.
    subprocess.run([*apt, "update"], stdin=subprocess.DEVNULL, check=False, env=environment)
    install = [*apt, "install", "--yes", "--no-install-recommends", *packages]
    done = subprocess.run(install, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False, env=environment)
    if done.returncode != 0:
        raise SystemExit(f"Could not install them: apt-get ended with status {done.returncode}.")
