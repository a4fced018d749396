"""Have botocore's clients made at init use the credentials of the copy, and close their connections.

Without it: a client signs with what it found at init, be it the environment's variables, which a restore may have
changed since, or those of a credentials endpoint, until they expire; and it asks the endpoint that was there at init.
The first request of a copy also finds out that its connection is gone, and is sent a second time.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from snapruntime import register_after_restore, register_before_snapshot
from snapruntime.hooks import http_client
from snapruntime.hooks._living import instances

_found: list[Any] = []


@register_before_snapshot
def find() -> None:
    """Remember the credentials; connections are closed by the hook for http.client, which this one brings along."""
    assert http_client
    # Not aiobotocore's, whose fetching is asynchronous.
    _found[:] = [
        one
        for one in instances("botocore.credentials", "Credentials")
        if type(one).__module__ == "botocore.credentials"
    ]


@register_after_restore
def refresh() -> None:
    """No request is made here: those of an endpoint are fetched when the first request is signed."""
    for credentials in _found:
        if credentials.method == "container-role":
            provider = sys.modules["botocore.credentials"].ContainerProvider()
            uri = os.environ.get(provider.ENV_VAR_FULL)
            if uri:
                credentials._refresh_using = provider._create_fetcher(uri)
        if hasattr(credentials, "_expiry_time"):
            credentials._expiry_time = credentials._time_fetcher()
        elif credentials.method == "env" and os.environ.get("AWS_ACCESS_KEY_ID"):
            credentials.access_key = os.environ["AWS_ACCESS_KEY_ID"]
            credentials.secret_key = os.environ["AWS_SECRET_ACCESS_KEY"]
            credentials.token = os.environ.get("AWS_SESSION_TOKEN")
