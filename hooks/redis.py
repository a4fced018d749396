"""Close redis-py's connections before the snapshot; each is opened again by its next command.

Without it: a connection by a unix socket stops the snapshot ("stream sockets to other processes cannot be saved"). One
by TCP is closed in the copies, and the first command of each finds out by an error, which redis-py retries only where
its retry policy says so (`retry=None`, or a version before 6, does not).
"""

from __future__ import annotations

from snapruntime import register_before_snapshot
from snapruntime.hooks._living import instances


@register_before_snapshot
def disconnect() -> None:
    """Those of pools and those that are held directly."""
    for connection in instances("redis.connection", "AbstractConnection"):
        connection.disconnect()
