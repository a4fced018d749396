"""Fuzzed, within bounds: the control channel at both its ends, the manifest, and what a worker says of its inputs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support import write_files
from worker.harness import Worker

from faults.conftest import MANIFEST
from snapruntime import DamagedSnapshotError
from snapruntime.mechanisms import manifest as manifests
from snapruntime.mechanisms.channel import Channel, ChannelEnds, Disconnected
from snapruntime.mechanisms.process import Exit, Process
from snapruntime.worker import wire
from snapruntime.workflows.freshness import input_changes, record_inputs
from snapruntime.workflows.launch import wire_list

BOUNDED = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
_NAMES = ["ready", "init_error", "restored", "restore_error", "result", "error", "fd_owner", "nonsense"]
_FIELDS = ["init_ms", "before_hooks_ms", "phase", "error", "hook", "hooks_ms", "request_id", "owners", "opened_at"]
HEADERS = st.builds(
    lambda kind, fields: {**fields, "type": kind},
    st.sampled_from(_NAMES),
    st.dictionaries(st.sampled_from(_FIELDS), JSON, max_size=9),
)


def framed(header: Any, body: bytes) -> bytes:
    """A frame whose header need be none that `wire.encode` would take."""
    head = json.dumps(header).encode()
    return struct.pack("!II", len(head), len(body)) + head + body


FRAMES = st.builds(framed, HEADERS | JSON, st.binary(max_size=100))
#: Streams that are frames, nearly frames, and no frames at all.
STREAMS = st.lists(FRAMES | st.binary(max_size=40), max_size=4).map(b"".join) | st.builds(
    lambda stream, at, byte: stream[: at % len(stream)] + bytes([byte]) + stream[at % len(stream) + 1 :],
    st.lists(FRAMES, min_size=1, max_size=3).map(b"".join),
    st.integers(0, 10_000),
    st.integers(0, 255),
)

#: Holds the far end of a channel: takes it over a socket, writes what it is told in pieces, and lets go of it.
FAR_END = """
import socket, sys
line = socket.socket(fileno=int(sys.argv[1]))
while True:
    data, fds, _, _ = socket.recv_fds(line, 1 << 20, 1)
    if not data:
        break
    far, size = socket.socket(fileno=fds[0]), 1 + data[0]
    try:
        for at in range(1, len(data), size):
            far.sendall(data[at : at + size])
    except OSError:
        pass
    far.close()
"""


@pytest.fixture(scope="module")
def far_end() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        process = subprocess.Popen([sys.executable, "-c", FAR_END, str(theirs.fileno())], pass_fds=[theirs.fileno()])
        theirs.close()
        yield ours
        ours.close()
        assert process.wait(10) == 0


class Ended:
    """Stands for the process behind the channel, which has ended."""

    def wait(self, timeout: float) -> Exit | None:
        return Exit(0, None, 0)


@BOUNDED
@given(STREAMS, st.integers(0, 255), st.sampled_from([("ready", "init_error"), ("result", "error"), ("restored",)]))
@example(struct.pack("!II", 2, wire.MAX_BODY) + b"{}", 0, ("ready",))
def test_the_host_takes_whatever_a_process_writes(
    far_end: socket.socket, stream: bytes, size: int, expected: tuple[str, ...]
) -> None:
    """Messages as they should be, then one of three errors, in time: however it is cut into pieces."""
    ends = ChannelEnds()
    socket.send_fds(far_end, [bytes([size]) + stream], [ends.far_control.fileno()])
    ends.close_far()
    channel = Channel(ends, cast(Process, Ended()))
    taken = []
    try:
        while True:
            header, body = channel.receive(*expected, deadline=time.monotonic() + 5)
            assert header["type"] in expected
            taken.append((header, body))
    except (Disconnected, wire.WireError):
        pass
    finally:
        channel.close()
    # Byte by byte it is the same messages, up to the first that is none.
    reader = wire.FrameReader()
    whole: list[tuple[dict[str, Any], bytes]] = []
    with contextlib.suppress(wire.WireError):
        for byte in stream:
            whole += reader.feed(bytes([byte]))
    assert repr(taken) == repr(whole[: len(taken)])  # As text, in which a NaN is the same as another.


@settings(BOUNDED, max_examples=40)
@given(st.lists(FRAMES, max_size=3).map(b"".join) | st.binary(max_size=200))
@example(b"")
@example(framed({"type": "init"}, b""))
def test_a_worker_takes_whatever_comes(tmp_path_factory: pytest.TempPathFactory, stream: bytes) -> None:
    """It ends by itself: by 0 at the end of the stream, 70 for what is no frame, 1 for one without its fields."""
    root = tmp_path_factory.getbasetemp() / "fuzzed"
    write_files(root, {"handler.py": "def handler(event, context): return event"})
    worker = Worker(root)
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            worker.sock.sendall(stream)
            worker.sock.shutdown(socket.SHUT_WR)
        assert worker.wait() in (0, 1, 70)
    finally:
        worker.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("snapshot")
    (folder / "images").mkdir()
    (folder / "images" / "core-1.img").write_bytes(b"x" * 100)
    manifests.write(folder, MANIFEST)
    return folder


@BOUNDED
@given(st.binary(max_size=200) | st.builds(lambda head, body: head + b"\n" + body, st.binary(), st.binary()))
@example(b"[" * 100_000 + b"\n")
@example(b'{"format": 1e999, "sha256": ""}\n{}')
def test_a_manifest_of_any_bytes_is_damaged(folder: Path, content: bytes) -> None:
    (folder / manifests.NAME).write_bytes(content)
    with pytest.raises(DamagedSnapshotError):
        manifests.read(folder)


@BOUNDED
@given(st.data())
def test_a_manifest_with_any_change_is_damaged(folder: Path, data: st.DataObject) -> None:
    manifests.write(folder, MANIFEST)
    content = (folder / manifests.NAME).read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    changed = data.draw(st.binary(max_size=3).filter(lambda part: part != content[at : at + len(part)] or not part))
    (folder / manifests.NAME).write_bytes(content[:at] + changed + content[at + max(1, len(changed)) :])
    with pytest.raises(DamagedSnapshotError):
        manifests.read(folder)


@BOUNDED
@given(JSON | st.fixed_dictionaries({}, optional=dict.fromkeys([*MANIFEST, "files"], JSON)))
def test_a_manifest_that_says_odd_things_rightly_signed(folder: Path, said: Any) -> None:
    """As another version might write it under our format: no field that is read later may be missing."""
    body = json.dumps({**MANIFEST, "files": {}, **said} if isinstance(said, dict) else said).encode()
    head = json.dumps({"format": manifests.FORMAT, "sha256": hashlib.sha256(body).hexdigest()}).encode()
    (folder / manifests.NAME).write_bytes(head + b"\n" + body)
    with pytest.raises(DamagedSnapshotError):  # Its inventory at the latest is not what is there.
        manifests.verify(folder, manifests.read(folder))


@BOUNDED
@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 100_000)
@example(b'["/a\\u0000b/", "/\\ud800/", "/etc/passwd/", "//", "/dev/", "relative/"]')
@example(b'["a\\u0000b", "/etc/passwd", "\\ud800", "' + b"x" * 5000 + b'", ""]')
def test_what_a_worker_says_that_it_read(body: bytes) -> None:
    """Names that can be none, or that are no files, are passed over; the rest is recorded, and unchanged since."""
    inputs = record_inputs(wire_list(body), ["/nonexistent"], time.time_ns())
    assert input_changes(json.loads(json.dumps(inputs))) == []


def test_the_far_end_is_a_process_of_its_own(far_end: socket.socket) -> None:
    """The fuzzing above is over real sockets: a stream that ends in the middle of a frame is seen as one."""
    ends = ChannelEnds()
    socket.send_fds(far_end, [b"\0" + struct.pack("!II", 10, 0) + b"{"], [ends.far_control.fileno()])
    ends.close_far()
    channel = Channel(ends, cast(Process, Ended()))
    with pytest.raises(Disconnected):
        channel.receive("ready", deadline=time.monotonic() + 5)
    channel.close()
