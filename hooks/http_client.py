"""Close the connections of `http.client` (urllib3's, requests' and botocore's among them) before the snapshot.

Without it: a kept-alive `http.client.HTTPConnection` is dead in the copies, and its next request raises
BrokenPipeError or RemoteDisconnected. It connects anew by itself only where it knows that it is closed.
"""

from __future__ import annotations

from snapruntime import register_before_snapshot
from snapruntime.hooks._living import instances


@register_before_snapshot
def close() -> None:
    """A closed one is opened by its next request (`auto_open`)."""
    for connection in instances("http.client", "HTTPConnection"):
        connection.close()
