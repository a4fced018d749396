"""The control channel between host and worker: one stream socket, the worker's end is fd 3. The host imports this too.

A frame is `!II` (header length, body length), the header (a JSON object, UTF-8, with "type"), the body (raw bytes).

host → worker
  init         initialization_type ("snap-start" | "on-demand"), task_root, and one of
               handler: Lambda's string "module.function" ("/" or "." between packages), or
               module: the same without the function, which then is lambda_handler, else handler;
               may have hooks [names of modules in snapruntime.hooks, imported before the handler]
  rehearse     request_id, deadline_ms: as before an invocation, but nothing of the function runs
  restore      environment {name: value, or null to unset}; may have keep_seeds (leave seeded generators as they are)
  invoke       request_id, deadline_ms (Unix epoch), invoked_function_arn; may have client_context and cognito_identity
               (JSON text), tenant_id, trace_id, response_limit (bytes); body = the event
  describe_fd  fd
  check        do ("scan" | "watch" | "seen"), task_root
worker → host
  ready          wire, python, init_ms, before_hooks_ms, before_hooks (how many ran), threads [text], os_threads,
                 seeded {module: line of the handler that seeded its generator explicitly};
                 body = JSON list of what init looked at (a long one would not fit a header), see Inputs.finish
  init_error     phase ("init" | "before_snapshot"), function_error_type, error, hook (name | null), init_ms; exit 1, 64
  rehearsed      body = JSON of no meaning
  restored       hooks_ms, after_hooks (how many ran), entropy_us, entropy [modules put right]
  restore_error  function_error_type, error, hook, hooks_ms; exit 65
  result         request_id, duration_ms, content_type; body = the response
  error          request_id, duration_ms, error
  checked        body = the answer, JSON; see `snapruntime.worker.check`
  signalled      signal: it ends because it sent itself that one (see `signals`); in place of any other answer
  fd_owner       fd, target (says /proc), owners ["handler:client (socket.socket)"], opened_at ("handler.py:12" | null),
                 library (the module whose object keeps it | "")
`error` is Lambda's error document. End of file on fd 3 ends the worker at once, an invalid message with status 70.
"""

from __future__ import annotations

import json
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Json = Any  # whatever JSON can hold; for annotations elsewhere too, without the cost of importing typing
    Header = dict[str, Json]
    Frame = tuple[Header, bytes]

WIRE_VERSION = 1
MAX_HEADER = 1 << 20
MAX_BODY = 8 << 20
_LENGTHS = struct.Struct("!II")
_CHUNK = 1 << 18


class WireError(Exception):
    """No valid frame: it cannot be sent, or was received, after which the stream cannot be read any further."""


def encode(header: Header, body: bytes = b"") -> bytes:
    """One frame as bytes. WireError: no type, a value JSON does not have, or over a limit."""
    if not isinstance(header.get("type"), str):
        raise WireError(f"frame header without a type: {sorted(header)}")
    try:
        head = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as e:
        raise WireError(f"header of a {header['type']!r} frame is not JSON: {e}") from e
    _check_lengths(len(head), len(body))
    return b"".join((_LENGTHS.pack(len(head), len(body)), head, body))


class FrameReader:
    """Takes bytes as they come, gives frames as they become complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._sizes: tuple[int, int] | None = None

    def feed(self, data: bytes) -> list[Frame]:
        """The frames completed by `data`. WireError on the first thing that can be no frame."""
        self._buffer += data
        frames = []
        while not self.wanted():
            if self._sizes is None:
                self._sizes = _LENGTHS.unpack_from(self._buffer)
                del self._buffer[: _LENGTHS.size]
                _check_lengths(*self._sizes)
            else:
                end = self._sizes[0]
                header, body = bytes(self._buffer[:end]), bytes(self._buffer[end : end + self._sizes[1]])
                del self._buffer[: end + len(body)]
                self._sizes = None
                frames.append((_decode_header(header), body))
        return frames

    def wanted(self) -> int:
        """Bytes missing of the current frame, or of its lengths: who reads no more never reads into the next."""
        return max(0, (sum(self._sizes) if self._sizes else _LENGTHS.size) - len(self._buffer))

    @property
    def in_frame(self) -> bool:
        """True where the stream must not end now."""
        return bool(self._buffer or self._sizes)


def receive(read: Callable[[int], bytes]) -> Frame | None:
    """The next frame, by a blocking `read` such as `sock.recv`. None at end of file, WireError if inside a frame."""
    reader = FrameReader()
    while True:
        data = read(min(reader.wanted(), _CHUNK))
        if not data:
            if reader.in_frame:
                raise WireError("control channel closed in the middle of a frame")
            return None
        for frame in reader.feed(data):
            return frame


def _check_lengths(header: int, body: int) -> None:
    if not 2 <= header <= MAX_HEADER or body > MAX_BODY:
        raise WireError(f"frame of {header} + {body} bytes: the limits are {MAX_HEADER} (header) and {MAX_BODY} (body)")


def _decode_header(data: bytes) -> Header:
    try:
        header = json.loads(str(data, "utf-8"))
    except (ValueError, RecursionError) as e:
        raise WireError(f"frame header is not JSON: {e}") from e
    if not isinstance(header, dict) or not isinstance(header.get("type"), str):
        raise WireError("frame header is no JSON object with a type")
    return header
