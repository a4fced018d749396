"""From a connection's request to the call that it makes, and back: authentication, limits, errors, threads.

The calls block, so they run in threads; all else is asynchronous. What goes wrong becomes the API's own error here, in
one place, and is written to the log only where it is a mistake of ours.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from ipaddress import ip_address
from urllib.parse import parse_qsl

from aiohttp import web

from snapruntime.edges.serve.api import Operation, Routes
from snapruntime.edges.serve.clients import Bodies, Connections, LostClientError, drop, send
from snapruntime.edges.serve.early import Early
from snapruntime.edges.serve.exchange import Call, Reply, reply_error, unsendable
from snapruntime.edges.serve.pages import Pages
from snapruntime.edges.serve.sigv4 import Key, SignedRequest, verify
from snapruntime.edges.serve.urls import FunctionUrls
from snapruntime.mechanisms.allocator import give_back, resident_bytes
from snapruntime.mechanisms.threads import Threads
from snapruntime.values.errors import SnapruntimeError, UsageError, printable
from snapruntime.values.service_errors import (
    AccessDeniedException,
    InvalidParameterValueException,
    MissingAuthenticationTokenException,
    ServiceError,
    ServiceException,
    ServiceUnavailableException,
    TooManyRequestsException,
    UnknownOperationException,
    ValidationException,
)

_log = logging.getLogger("snapruntime.serve")

#: Threads for the calls that run no function. Few: they write to one database.
_CONTROL_THREADS = 4
#: Threads for probes and metrics, which must not wait behind code that is being unpacked.
_PAGE_THREADS = 2
#: Each so many seconds is looked whether, with no more than a few requests open, there is much memory to give back.
_TIDY_S, _FEW, _MUCH = 2.0, 8, 16 << 20
#: How a request's target begins that names the server as well, as proxies are asked.
_ABSOLUTE = re.compile(r"https?://(?:[^/?#@]*@)?(?P<host>[^/?#@]+)", re.IGNORECASE)


class Frontend:
    """Answers requests.

    Args:
        routes: the calls of the API.
        urls: function URLs.
        pages: metrics, readiness, liveness.
        keys: who may call; None where everybody may.
        any_host: whether requests may name any host, as where the server is reached from beyond this machine.
        connections: how many there may be at once.
        invocations: how many calls that run functions there may be at once, those that wait for their turn included.
        observe: told the name of each call, its status, and the seconds from request read to answer written.
    """

    def __init__(
        self,
        routes: Routes,
        urls: FunctionUrls,
        pages: Pages,
        *,
        keys: Mapping[str, Key] | None,
        any_host: bool,
        connections: int,
        invocations: int,
        observe: Callable[[str, int, float], None],
    ) -> None:
        self._routes = routes
        self._urls = urls
        self._pages = pages
        self.keys = keys
        self._any_host = any_host
        self._observe = observe
        self._bodies = Bodies()
        self._open = 0
        self._quiet = asyncio.Event()
        self._places = threading.BoundedSemaphore(invocations)
        self._threads = {
            "function": Threads(invocations, "invoke"),
            "control": Threads(_CONTROL_THREADS, "control"),
            "page": Threads(_PAGE_THREADS, "page"),
        }
        self.connections = Connections(self._handle, connections)

    async def answered(self) -> None:
        """Wait until no request is being answered."""
        while self._open:
            self._quiet.clear()
            await self._quiet.wait()

    async def tidy(self) -> None:
        """Give back the memory that a flood took, when it is over. Runs until it is cancelled."""
        least = resident_bytes()
        while True:
            await asyncio.sleep(_TIDY_S)
            if self._open <= _FEW and resident_bytes() > least + _MUCH:
                back = partial(give_back, cycles=not self._open)
                await asyncio.get_running_loop().run_in_executor(self._threads["page"], back)
                if not self._open:
                    least = resident_bytes()  # What is left is in use: it is not looked through again and again.

    def abandon(self) -> None:
        """Begin no further calls. Those that are running end with what they wait for."""
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.connections.busy(request)
        self._open += 1
        try:
            return await self._answer(request)
        finally:
            self.connections.idle(request)
            self._open -= 1
            if not self._open:
                self._quiet.set()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        request_id = str(uuid.uuid4())
        name, started = "", 0.0
        try:
            if self.connections.full:
                raise ServiceUnavailableException("Too many connections. Try again.")
            call, operation = await self._read(request, request_id)
            name, started = operation.name, time.perf_counter()
            reply = await self._in_thread(operation, call)
        except ServiceError as error:
            reply = reply_error(error)
        except LostClientError:
            drop(request)
            return web.Response(status=408)  # That nobody gets.
        except UsageError as error:
            reply = reply_error(InvalidParameterValueException(error.message, hint=error.hint))
        except SnapruntimeError as error:
            _log.error("%s failed: %s %s", name or request.path, error.message, error.hint)
            reply = reply_error(ServiceException(error.message, hint=error.hint))
        except Exception:
            _log.exception("A mistake in snapruntime itself, at %s %s", request.method, request.path)
            reply = reply_error(ServiceException("This is a mistake in snapruntime itself; its log says more."))
        if (header := unsendable(reply)) is not None:
            where = printable(f"{request.method} {request.headers.get('Host', '')}{request.path}")
            _log.error("The answer to %s cannot be sent: %s is no header that HTTP has.", where, printable(header))
            hint = "If it is of a function URL's CORS, UpdateFunctionUrlConfig mends it."
            reply = reply_error(
                ServiceException(f"The answer has a header that cannot be sent: {header!a}.", hint=hint)
            )
        response, pieces = _response(reply, request_id)
        self.connections.answer(request)
        await send(request, response, pieces)
        if started:
            self._observe(name, reply.status, time.perf_counter() - started)
        return response

    async def _read(self, request: web.BaseRequest, request_id: str) -> tuple[Call, Operation]:
        """The request, read and authenticated; and what answers it."""
        headers = _headers(request)
        target = request.raw_path
        if whole := _ABSOLUTE.match(target):
            headers["host"] = whole["host"]  # It counts, whatever the header says (RFC 9112, 3.2.2).
            target = f"/{target[whole.end() :].removeprefix('/')}"
        raw_path, _, raw_query = target.partition("?")
        if not raw_path.startswith("/"):
            raise ValidationException("path", raw_path[:100], "Member must begin with /")
        if url := self._urls.find(headers.get("host", "")):
            operation, path, signed = self._urls.operation, {"UrlId": url}, False  # The URL itself says who may call.
        else:
            self._refuse_browsers(headers)
            found = self._pages.find(request.method, raw_path) or self._routes.find(request.method, raw_path)
            if found is None:
                raise UnknownOperationException(f"snapruntime serves no such call: {request.method} {raw_path[:200]}")
            operation, path = found
            signed = self.keys is not None and not self._pages.open_to(operation, _is_near(request))
        if signed and "authorization" not in headers:
            raise MissingAuthenticationTokenException("Missing Authentication Token")  # Before any of its body is read.
        limit = operation.limit(headers)
        body = await self._bodies.read(request, limit, operation.too_large)
        call = Call(
            request_id=request_id,
            method=request.method,
            path=path,
            raw_path=raw_path,
            raw_query=raw_query,
            query=dict(parse_qsl(raw_query, keep_blank_values=True)),
            headers=headers,
            body=body,
            peer=request.remote or "",
            operation=operation.name,
        )
        if signed:
            verify(SignedRequest(call.method, raw_path, raw_query, headers, body), self.keys or {})
        return call, operation

    def _refuse_browsers(self, headers: Mapping[str, str]) -> None:
        """Without signatures, a page of any site could have its visitor's browser call the API on this machine.

        Browsers say where such a request comes from (Origin); a host that is none of ours shows that somebody's name
        leads to this machine (DNS rebinding).
        """
        if self.keys is not None:
            return
        if "origin" in headers:
            raise AccessDeniedException("The API is not for web pages: this request has an Origin.")
        if not self._any_host and not _names_this_machine(headers.get("host", "")):
            raise AccessDeniedException(
                f"This server is not {headers.get('host', '')[:100]!r}.",
                hint="Without --keys it is called by an address, or as localhost.",
            )

    async def _in_thread(self, operation: Operation, call: Call) -> Reply:
        limited = operation.threads == "function"
        if limited and not self._places.acquire(blocking=False):
            raise TooManyRequestsException("Rate Exceeded.", reason="ConcurrentInvocationLimitExceeded")
        early = Early(operation.answer, call)
        if limited:
            early.reply.add_done_callback(lambda _: self._places.release())
        early.begin(self._threads[operation.threads])
        reply = await asyncio.wrap_future(early.reply)
        asyncio.get_running_loop().call_soon(early.sent.set)  # Once it is written, or waits for its client.
        return reply


def _headers(request: web.BaseRequest) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        name = name.lower()
        separator = "; " if name == "cookie" else ","
        headers[name] = f"{headers[name]}{separator}{value}" if name in headers else value
    return headers


def _response(reply: Reply, request_id: str) -> tuple[web.StreamResponse, list[bytes] | None]:
    """aiohttp's form of an answer; the pieces to send after it, where it has several."""
    headers: list[tuple[str, str]] = [("x-amzn-RequestId", request_id), ("Server", "snapruntime"), *reply.headers]
    if reply.content_type and not any(name.lower() == "content-type" for name, _ in headers):
        headers.append(("Content-Type", reply.content_type))
    if isinstance(reply.body, bytes):
        response = web.Response(status=reply.status, body=reply.body, headers=headers)
        return response, None
    return web.StreamResponse(status=reply.status, headers=headers), list(reply.body)


def _is_near(request: web.BaseRequest) -> bool:
    """Whether the client is on this machine."""
    return not request.remote or ip_address(request.remote.partition("%")[0]).is_loopback


def _names_this_machine(host: str) -> bool:
    """Whether a Host header is an address, or a name that always means this machine (or no host at all)."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    name = name.strip("[]").lower()
    if not name or name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
