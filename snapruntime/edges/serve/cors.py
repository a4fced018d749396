"""CORS of function URLs: whether pages of other sites may call one is answered here, not by the function."""

from __future__ import annotations

from snapruntime.edges.serve.exchange import Call, Reply
from snapruntime.values.function_url import Cors


def preflight(cors: Cors | None, call: Call) -> Reply | None:
    """The answer to a browser that asks beforehand; None where this is no such question, or nothing is configured."""
    asked = call.headers.get("access-control-request-method")
    if cors is None or call.method != "OPTIONS" or not asked or "origin" not in call.headers:
        return None
    given = headers(cors, call)
    if given:
        if cors.allow_methods:
            given.append(("Access-Control-Allow-Methods", ",".join(cors.allow_methods)))
        if cors.allow_headers:
            given.append(("Access-Control-Allow-Headers", ",".join(cors.allow_headers)))
        if cors.max_age is not None:
            given.append(("Access-Control-Max-Age", str(cors.max_age)))
    return Reply(200, content_type="", headers=given)


def headers(cors: Cors | None, call: Call) -> list[tuple[str, str]]:
    """The headers of an answer to a page of another site; none where that site may not see it."""
    origin = call.headers.get("origin")
    if cors is None or origin is None:
        return []
    origins = cors.allow_origins or ()
    if origin not in origins and "*" not in origins:
        return []
    given = [("Access-Control-Allow-Origin", origin), ("Vary", "Origin")]
    if cors.allow_credentials:
        given.append(("Access-Control-Allow-Credentials", "true"))
    if cors.expose_headers:
        given.append(("Access-Control-Expose-Headers", ",".join(cors.expose_headers)))
    return given
