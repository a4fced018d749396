"""The event stream, read by botocore's own decoder."""

from __future__ import annotations

import json

from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from snapruntime.edges.serve import eventstream

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


def decoded(data: bytes) -> list[tuple[dict[str, str], bytes]]:
    """The messages of a stream; botocore checks both CRCs of each."""
    buffer = EventStreamBuffer()
    buffer.add_data(data)
    return [(dict(message.headers), message.payload) for message in buffer]


@given(st.dictionaries(TEXT.filter(bool), TEXT, max_size=5), st.binary(max_size=200))
def test_messages_come_back(headers: dict[str, str], payload: bytes) -> None:
    assert decoded(eventstream.message(headers, payload)) == [(headers, payload)]


def test_an_answer() -> None:
    payload = bytes(range(256)) * 2050  # More than one chunk, no whole number of them.
    messages = decoded(b"".join(eventstream.answer(payload, error=None, log_result="bG9n")))
    *chunks, (last, complete) = messages
    assert len(chunks) == 3
    assert b"".join(chunk for _, chunk in chunks) == payload
    assert {headers[":event-type"] for headers, _ in chunks} == {"PayloadChunk"}
    assert (last[":event-type"], last[":message-type"]) == ("InvokeComplete", "event")
    assert json.loads(complete) == {"LogResult": "bG9n"}


def test_a_failure() -> None:
    [(headers, complete)] = decoded(b"".join(eventstream.answer(b"", error=("Unhandled", "why"), log_result=None)))
    assert headers[":content-type"] == "application/json"
    assert json.loads(complete) == {"ErrorCode": "Unhandled", "ErrorDetails": "why"}
