"""Connections and their clients: how many, how slow they may be, and how much memory all their requests may take.

aiohttp parses HTTP (in C) and closes connections that stay silent; here is what keeps clients that are slow, greedy or
hostile from the others: each rule costs only the client that breaks it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from snapruntime.values.service_errors import InvalidRequestContentException, ServiceError, ServiceUnavailableException

#: How long a connection may be silent, or take for the head of its request, seconds.
SILENCE_S = 30.0
#: How long a body, of a request or an answer, may take: this many seconds, and more for large ones.
GRACE_S = 10.0
RATE = 64 << 10  # bytes per second
#: What all large bodies that are being read may take together, bytes; the first 64 KiB of each do not count.
BODIES = 256 << 20
_SMALL = 64 << 10
#: The longest request line and header, bytes. A client context has 3.5 KB, a query of a function URL may have 10 KB.
LINE = 16 << 10


class _Connection(RequestHandler):
    """aiohttp's connection; one whose client has said all that it will say is answered nevertheless.

    Such a client (shutdown(2), `nc -N`) and one that has gone look alike until something is written to them: which it
    is, the answer shows. What had not come completely by then never will.
    """

    __slots__ = ("_answered", "_connections", "_ended", "_request")

    def __init__(self, connections: Connections, **options: Any) -> None:
        super().__init__(connections, **options)
        self._connections = connections
        self._answered = 0
        self._ended = False
        self._request: web.BaseRequest | None = None  # The one that is being answered.

    @property
    def _waits(self) -> bool:
        """Whether all that came has been answered. (What is no HTTP counts as well: it ends the connection.)"""
        return self._request_count == self._answered

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Whether the connection stays open."""
        if self._waits or (self._request is not None and not self._request.content.is_eof()):
            return None
        self._ended = True
        self._connections.half_closed(self)
        return True

    def begin(self, request: web.BaseRequest) -> None:
        self._request = request
        if self._ended and not request.content.is_eof():
            self.force_close()

    def answered(self) -> None:
        self._request = None
        self._answered += 1
        if self._ended and self._waits:  # aiohttp would wait for another request.
            self.close()


class Connections(web.Server):
    """aiohttp's server of connections, with a limit.

    Args:
        handler: answers one request.
        most: connections at once. Beyond, those that wait for a request are closed, the longest waiting first.
    """

    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], most: int) -> None:
        super().__init__(handler)
        self._options: dict[str, Any] = {
            "loop": asyncio.get_running_loop(),
            "keepalive_timeout": SILENCE_S,
            "access_log": None,
            "logger": _quiet(),
            "max_line_size": LINE,
            "max_field_size": LINE,
            "lingering_time": GRACE_S,
            "auto_decompress": False,  # A few bytes could become gigabytes.
        }
        self._most = most
        self._counted: set[RequestHandler] = set()
        #: Those that wait for a request; the one that waits longest comes first.
        self._idle: dict[RequestHandler, None] = {}

    def __call__(self) -> RequestHandler:
        return _Connection(self, **self._options)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._idle[handler] = None
        self._counted.add(handler)
        if self.full and self._idle:
            oldest = next(iter(self._idle))
            self._forget(oldest)
            oldest.force_close()

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        self._forget(handler)
        super().connection_lost(handler, exc)

    def _forget(self, handler: RequestHandler) -> None:
        self._idle.pop(handler, None)
        self._counted.discard(handler)

    def busy(self, request: web.BaseRequest) -> None:
        """A request's head has been read: its connection is not closed for another's sake."""
        self._idle.pop(request.protocol, None)
        if isinstance(request.protocol, _Connection):
            request.protocol.begin(request)

    def half_closed(self, handler: RequestHandler) -> None:
        """Its client may have gone: it counts as if it had, so that those who have do not fill the server."""
        self._forget(handler)

    def answer(self, request: web.BaseRequest) -> None:
        """Its answer is there: who takes it slowly counts."""
        if request.transport is not None:
            self._counted.add(request.protocol)

    def idle(self, request: web.BaseRequest) -> None:
        """Its answer has been sent."""
        if isinstance(request.protocol, _Connection):
            request.protocol.answered()
        if request.transport is not None:
            self._idle[request.protocol] = None

    def take_no_more(self) -> None:
        """Close each connection: now, or when the request on it has been answered."""
        self.pre_shutdown()
        for handler in list(self._idle):
            handler.force_close()

    @property
    def full(self) -> bool:
        """Whether there are more connections than there may be, none of them idle."""
        return len(self._counted) > self._most


def _quiet() -> logging.Logger:
    """Where aiohttp tells of requests that are no HTTP, with a traceback each: nowhere, since anybody can send them.

    Mistakes of ours do not come to it; the frontend logs them.
    """
    logger = logging.getLogger("snapruntime.serve.aiohttp")
    logger.setLevel(logging.CRITICAL)
    return logger


class Bodies:
    """Reads requests' bodies, within the memory that all of them may take."""

    def __init__(self, most: int = BODIES) -> None:
        self._left = most

    async def read(self, request: web.BaseRequest, limit: int, too_large: Callable[[int], ServiceError]) -> bytes:
        """The whole body.

        Raises:
            ServiceError: it is larger than `limit` (`too_large`), is no HTTP, or there is no room for it now.
            LostClientError: it does not come.
        """
        length = request.content_length
        if length is not None and length > limit:
            raise too_large(limit)
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # Such a client asks before it sends much.
        pieces: list[bytes] = []
        piece, size, taken = b"", 0, 0
        try:
            async with asyncio.timeout(GRACE_S + (limit if length is None else length) / RATE):
                while piece := await request.content.readany():
                    pieces.append(piece)
                    size += len(piece)
                    if size > limit:
                        raise too_large(limit)
                    wanted = max(0, size - _SMALL) - taken
                    if wanted > self._left:
                        raise ServiceUnavailableException("Too many large requests are being read. Try again.")
                    self._left -= wanted
                    taken += wanted
            return b"".join(pieces)
        except (TimeoutError, ConnectionError):
            raise LostClientError from None
        except RuntimeError:  # aiohttp's, where the connection was lost before the first byte was asked for.
            if request.transport is not None:
                raise
            raise LostClientError from None
        except web.RequestPayloadError as error:  # A chunk without length, and the like.
            raise InvalidRequestContentException(f"The body of the request cannot be read: {error}") from error
        finally:
            self._left += taken
            # An error's traceback has this frame, and aiohttp the error in a cycle, which may stay for long.
            pieces.clear()
            piece = b""


class LostClientError(Exception):
    """A client has gone, or sends too slowly: its connection is to be closed, without further words."""


async def send(request: web.BaseRequest, response: web.StreamResponse, pieces: list[bytes] | None) -> None:
    """Send an answer. A client that does not take it in time loses its connection; one that has gone is no error.

    Args:
        pieces: what is sent one after the other; None where the response has its body.
    """
    size = response.content_length or sum(map(len, pieces or ()))
    try:
        async with asyncio.timeout(GRACE_S + size / RATE):
            await response.prepare(request)
            for piece in pieces or ():
                await response.write(piece)
            await response.write_eof()
    except TimeoutError:
        drop(request)
    except ConnectionError:
        pass  # aiohttp notices it too, when it finishes the response.


def drop(request: web.BaseRequest) -> None:
    """Close a connection without further words."""
    if request.transport is not None:
        request.transport.abort()
