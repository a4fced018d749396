"""Empty the caches of resolvers in each copy.

Without it: aiohttp goes on with the addresses that it looked up at init, however old the snapshot is, since the ages
of cache entries are measured by a clock (`time.monotonic`) that stands still in a snapshot; dnspython goes on with the
name servers that were in /etc/resolv.conf then. glibc itself looks whether that file has changed.
"""

from __future__ import annotations

from typing import Any

from snapruntime import register_after_restore, register_before_snapshot
from snapruntime.hooks._living import instances

_connectors: list[Any] = []
_resolvers: list[Any] = []


@register_before_snapshot
def find() -> None:
    """Remember aiohttp's connectors, and dnspython's resolvers that read the system's configuration."""
    _connectors[:] = instances("aiohttp.connector", "TCPConnector")
    _resolvers[:] = instances("dns.resolver", "BaseResolver")


@register_after_restore
def forget() -> None:
    """Without waiting for anything: the next look-up asks again."""
    for connector in _connectors:
        connector.clear_dns_cache()
    for resolver in _resolvers:
        if resolver.cache is not None:
            resolver.cache.flush()
