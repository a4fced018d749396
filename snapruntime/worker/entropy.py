"""After a restore: make random again what every copy of a snapshot would otherwise repeat.

Only what a loaded module keeps for everybody; generators the handler made are its own to reseed. os.urandom, secrets
and uuid4 come from the kernel and never repeat.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType


def renew() -> list[str]:
    """Returns the names of the modules put right. A failure (a handler's own `random.py`, say) is passed over."""
    renewed = []
    for name, fix in _FIXES.items():
        if name in sys.modules:
            try:
                fix(sys.modules[name])
            except Exception:
                continue
            renewed.append(name)
    return renewed


def _uuid(module: ModuleType) -> None:
    node = int.from_bytes(os.urandom(6), "big") | 1 << 40  # RFC 4122: a random node has the multicast bit
    # _generate_time_safe is libuuid, which would go on with the host's MAC and its own frozen clock sequence
    vars(module).update(_node=node, _last_timestamp=None, _generate_time_safe=None)


_FIXES = {
    "random": lambda module: module.seed(),
    "_ssl": lambda module: module.RAND_add(os.urandom(48), 48.0),  # OpenSSL looks at the PID, 1 in every copy
    "numpy.random": lambda module: module.seed(),
    "torch": lambda module: module.seed(),
    "tempfile": lambda module: setattr(module, "_name_sequence", None),  # looks at the PID too; made anew when needed
    "uuid": _uuid,
}
