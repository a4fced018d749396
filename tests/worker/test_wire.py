from __future__ import annotations

import json
import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapruntime.worker import wire

VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(max_size=8)
    | st.lists(st.text(max_size=4), max_size=3)
)
HEADERS = st.builds(
    lambda fields, kind: {**fields, "type": kind},
    st.dictionaries(st.text(max_size=4), VALUES, max_size=3),
    st.text(max_size=9),
)
FRAMES = st.lists(st.tuples(HEADERS, st.binary(max_size=64)), max_size=4)


def stream_of(data: bytes) -> list[bytes]:
    """What sock.recv would give, one byte at a time being the worst case."""
    return [data[i : i + 1] for i in range(len(data))]


@given(FRAMES, st.data())
@settings(max_examples=60)
def test_any_cut_of_the_stream_gives_the_same_frames(
    frames: list[tuple[wire.Header, bytes]], data: st.DataObject
) -> None:
    stream = b"".join(wire.encode(*frame) for frame in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    reader, got = wire.FrameReader(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += reader.feed(stream[start:end])
    assert got == frames
    assert not reader.in_frame


@given(st.tuples(HEADERS, st.binary(max_size=64)), st.data())
@settings(max_examples=40)
def test_an_end_inside_a_frame_is_an_error_and_between_frames_is_none(
    frame: tuple[wire.Header, bytes], data: st.DataObject
) -> None:
    stream = wire.encode(*frame)
    whole, half = iter(stream_of(stream)), iter(stream_of(stream[: data.draw(st.integers(1, len(stream) - 1))]))
    assert wire.receive(lambda _: next(whole, b"")) == frame
    assert wire.receive(lambda _: next(whole, b"")) is None
    with pytest.raises(wire.WireError, match="middle of a frame"):
        wire.receive(lambda _: next(half, b""))


@given(st.binary(max_size=256))
@settings(max_examples=300)
def test_garbage_gives_frames_or_wire_error_and_never_anything_else(garbage: bytes) -> None:
    reader = wire.FrameReader()
    try:
        frames = reader.feed(garbage)
    except wire.WireError:
        return
    for header, body in frames:
        assert isinstance(header["type"], str)
        assert isinstance(body, bytes)


@given(st.binary(min_size=2, max_size=64))
def test_a_header_that_is_no_typed_object_is_refused(header: bytes) -> None:
    try:
        if isinstance(json.loads(header.decode())["type"], str):
            return
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    with pytest.raises(wire.WireError):
        wire.FrameReader().feed(struct.pack("!II", len(header), 0) + header)


@pytest.mark.parametrize(
    ("header", "body"), [(0, 0), (1, 0), (wire.MAX_HEADER + 1, 0), (20, wire.MAX_BODY + 1), (2**32 - 1, 2**32 - 1)]
)
def test_lengths_over_the_limit_are_refused_before_anything_is_read(header: int, body: int) -> None:
    with pytest.raises(wire.WireError, match="limits"):
        wire.FrameReader().feed(struct.pack("!II", header, body))


def test_frames_at_the_limits_pass() -> None:
    padding = wire.MAX_HEADER - len(b'{"type":"x","p":""}')
    frame = ({"type": "x", "p": "a" * padding}, bytes(wire.MAX_BODY))
    reader = wire.FrameReader()
    assert reader.feed(wire.encode(*frame)) == [frame]
    with pytest.raises(wire.WireError, match="limits"):
        wire.encode({"type": "x", "p": "a" * (padding + 1)})
    with pytest.raises(wire.WireError, match="limits"):
        wire.encode({"type": "x"}, bytes(wire.MAX_BODY + 1))


@pytest.mark.parametrize("header", [{}, {"type": 1}, {"type": "x", "v": object()}, {"type": "x", "v": float("nan")}])
def test_what_is_no_message_cannot_be_sent(header: wire.Header) -> None:
    with pytest.raises(wire.WireError):
        wire.encode(header)


def test_circular_and_deep_headers_are_wire_errors() -> None:
    deep = b'{"type":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(wire.WireError):
        wire.FrameReader().feed(struct.pack("!II", len(deep), 0) + deep)
    circular: wire.Header = {"type": "x"}
    circular["self"] = circular
    with pytest.raises(wire.WireError):
        wire.encode(circular)


def test_receive_takes_one_frame_and_leaves_the_next_in_the_socket() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(wire.encode({"type": "one"}, b"1") + wire.encode({"type": "two"}))
        theirs.shutdown(socket.SHUT_WR)
        assert wire.receive(ours.recv) == ({"type": "one"}, b"1")
        assert wire.receive(ours.recv) == ({"type": "two"}, b"")
        assert wire.receive(ours.recv) is None
