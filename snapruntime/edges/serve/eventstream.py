"""The framing of application/vnd.amazon.eventstream, which InvokeWithResponseStream answers in.

A message is: total length, length of the headers, CRC-32 of those two; the headers; the payload; CRC-32 of all before
it. Big endian. A header is: length of its name, name, 7 (which stands for text), length of the text, text.
Source: Smithy's specification of the Amazon event stream encoding; botocore can only read it.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping

CONTENT_TYPE = "application/vnd.amazon.eventstream"
#: How much of a response one PayloadChunk carries, bytes. A message may have 16 MiB; smaller ones reach a client that
#: shows them as they come earlier.
_CHUNK = 256 << 10
_TEXT = 7


def message(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One message."""
    head = b"".join(_header(name.encode(), value.encode()) for name, value in headers.items())
    prelude = struct.pack("!II", 16 + len(head) + len(payload), len(head))
    body = b"".join((prelude, struct.pack("!I", zlib.crc32(prelude)), head, payload))
    return body + struct.pack("!I", zlib.crc32(body))


def _header(name: bytes, value: bytes) -> bytes:
    return b"".join((struct.pack("!B", len(name)), name, struct.pack("!BH", _TEXT, len(value)), value))


def event(kind: str, payload: bytes, content_type: str) -> bytes:
    """A message that carries an event of the stream."""
    return message({":event-type": kind, ":content-type": content_type, ":message-type": "event"}, payload)


def answer(payload: bytes, *, error: tuple[str, str] | None, log_result: str | None) -> Iterator[bytes]:
    """The messages of a whole invocation: the payload in chunks, then InvokeComplete.

    Args:
        error: ErrorCode and ErrorDetails, where the function failed.
        log_result: the end of the log in base64, where the client asked for it.
    """
    for start in range(0, len(payload), _CHUNK):
        yield event("PayloadChunk", payload[start : start + _CHUNK], "application/octet-stream")
    complete: dict[str, str] = {}
    if error is not None:
        complete |= {"ErrorCode": error[0], "ErrorDetails": error[1]}
    if log_result is not None:
        complete["LogResult"] = log_result
    yield event("InvokeComplete", json.dumps(complete).encode(), "application/json")
