"""This process's Linux capabilities, by name (capabilities(7))."""

from __future__ import annotations

from pathlib import Path

#: The bit of each capability that snapruntime or the CRIU it starts can make use of.
BITS = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "NET_ADMIN": 12,
    "SYS_CHROOT": 18,
    "SYS_PTRACE": 19,
    "SYS_ADMIN": 21,
    "SYS_RESOURCE": 24,
    "SYS_TIME": 25,
    "MKNOD": 27,
    "CHECKPOINT_RESTORE": 40,
}


def effective(status: Path = Path("/proc/self/status")) -> frozenset[str]:
    """The names, without "CAP_", of those in `BITS` that this process has in its effective set."""
    for line in status.read_text().splitlines():
        if line.startswith("CapEff:"):
            bits = int(line.split()[1], 16)
            return frozenset(name for name, bit in BITS.items() if bits >> bit & 1)
    return frozenset()
