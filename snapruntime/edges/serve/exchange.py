"""A request as it was read, and what is to be answered: all that the API's calls see of HTTP."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from snapruntime.values.service_errors import ServiceError

JSON = "application/json"
#: What a header's name is, and what its value cannot have in it (RFC 9110, 5.5 and 5.6.2).
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Call:
    """One request, read to its end.

    Attributes:
        request_id: a UUID, which the answer and the function's context carry.
        method: GET, POST, …
        path: the parts of the path that name something, decoded, by what they are called in the route.
        raw_path: the path as it came, still percent-encoded.
        raw_query: the query likewise, without the "?".
        query: the query's parameters, decoded; of the same name, the last counts.
        headers: by name in lower case; where one came several times, joined by commas.
        body: all of it.
        peer: the client's IP address; "" for a unix socket.
        operation: the call's name in the service model.
        tell: takes the reply where there is one before all has been done.
    """

    request_id: str
    method: str
    path: Mapping[str, str]
    raw_path: str
    raw_query: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    peer: str
    operation: str = ""
    tell: Callable[[Reply], None] = lambda _: None

    @property
    def action(self) -> str:
        """What policies call the call."""
        return "InvokeFunction" if self.operation.startswith("Invoke") else self.operation


@dataclass(frozen=True, slots=True)
class Reply:
    """What to answer.

    Attributes:
        status: the HTTP status code.
        body: the whole of it, or pieces that are sent one after the other.
        content_type: of the body; "" for none.
        headers: further ones; a list where one may come several times.
    """

    status: int
    body: bytes | Iterable[bytes] = b""
    content_type: str = JSON
    headers: list[tuple[str, str]] = field(default_factory=list)


def unsendable(reply: Reply) -> str | None:
    """The name of a header that HTTP cannot carry, for a line end in it or what is no UTF-8; None where all can be."""
    for name, value in reply.headers:
        try:
            value.encode()
        except UnicodeEncodeError:
            return name
        if not HEADER_NAME.fullmatch(name) or CONTROL.search(value):
            return name
    return None


def reply_json(document: Any, status: int = 200) -> Reply:
    """A JSON document as the answer."""
    return Reply(status, json.dumps(document, separators=(",", ":")).encode())


def reply_error(error: ServiceError) -> Reply:
    """An error as the API sends it."""
    answer = reply_json(error.document(), error.status)
    answer.headers.extend(error.headers().items())
    return answer
