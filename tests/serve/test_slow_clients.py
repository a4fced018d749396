"""Slow clients lose their connection, and large bodies have a limit: with times that a test can wait for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from snapruntime.edges.serve import clients
from snapruntime.edges.serve.clients import Bodies, Connections, LostClientError, drop, send
from snapruntime.edges.serve.invocation import too_large
from snapruntime.values.service_errors import ServiceError

LIMIT = 10 << 20
HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture(autouse=True)
def _short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "GRACE_S", 0.3)
    monkeypatch.setattr(clients, "RATE", 100 << 20)
    monkeypatch.setattr(clients, "SILENCE_S", 0.3)


@asynccontextmanager
async def listening(bodies: Bodies) -> AsyncIterator[int]:
    """A server that answers each request with as many bytes as it got; its port."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        response = web.Response()
        try:
            body = await bodies.read(request, LIMIT, too_large)
            response.body = bytes(len(body))
        except LostClientError:
            drop(request)
            return response
        except ServiceError as error:
            response.set_status(error.status)
        await send(request, response, None)
        return response

    connections = Connections(handle, 100)
    server = await asyncio.get_running_loop().create_server(connections, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await connections.shutdown(0.1)


async def closed_after(reader: asyncio.StreamReader) -> float:
    """How long until the server closes the connection, seconds."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(10):
            while await reader.read(1 << 16):
                pass
    except ConnectionError:
        pass  # Reset, which is as good.
    return time.monotonic() - began


@pytest.mark.parametrize("beginning", [b"", b"POST / HT", b"POST / HTTP/1.1\r\nHost: a\r\n", HEAD % 5 + b"abc"])
def test_a_request_that_does_not_come(beginning: bytes) -> None:
    async def test() -> None:
        async with listening(Bodies()) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(beginning)
            assert await closed_after(reader) < 5

    asyncio.run(test())


def test_a_body_that_trickles() -> None:
    async def test() -> None:
        async with listening(Bodies()) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEAD % 1_000_000)

            async def trickle() -> None:
                while True:
                    writer.write(b"x")
                    await asyncio.sleep(0.02)

            trickling = asyncio.create_task(trickle())
            assert await closed_after(reader) < 5
            trickling.cancel()

    asyncio.run(test())


def test_an_answer_that_is_not_taken() -> None:
    async def test() -> None:
        async with listening(Bodies()) as port:
            # So little is read ahead that the answer does not fit into the buffers on its way.
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            writer.write(HEAD % LIMIT + bytes(LIMIT))
            await writer.drain()
            await reader.readline()
            await asyncio.sleep(1.0)  # The client does nothing for longer than it may.
            taken = 0
            try:
                while piece := await reader.read(1 << 16):
                    taken += len(piece)
            except ConnectionError:
                pass
            assert taken < LIMIT

    asyncio.run(test())


def test_room_for_large_bodies() -> None:
    bodies = Bodies(most=1 << 20)

    async def ask(port: int, size: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD % size + bytes(size))
        status = int((await reader.readline()).split()[1])
        writer.close()
        return status

    async def test() -> None:
        async with listening(bodies) as port:
            _, holding = await asyncio.open_connection("127.0.0.1", port)
            holding.write(HEAD % 2_000_000 + bytes(1_000_000))  # It has taken most of the room, and sends no more.
            await holding.drain()
            while bodies._left > 200_000:
                await asyncio.sleep(0.01)
            assert await ask(port, 500_000) == 503
            assert await ask(port, 60_000) == 200  # A small one needs no room.
            while bodies._left < 1 << 20:  # The slow one has been dropped.
                await asyncio.sleep(0.01)
            assert await ask(port, 500_000) == 200
            assert await ask(port, LIMIT + 1) == 413

    asyncio.run(test())
