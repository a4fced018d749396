"""Servers that answer the same events otherwise, behind the same HTTP library, to compare with.

kept      AWS's own runtime interface client, processes kept warm and used again: what nothing can be faster than
          that keeps one process for one invocation
process   a process per request, without snapshot: the interpreter starts, init runs, the handler answers
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

_RUNTIME = "/2018-06-01/runtime/invocation/"
_PATIENCE_S = 30.0
_ONCE = """
import json, sys
import app
print(json.dumps(app.lambda_handler(json.load(sys.stdin), None)))
"""

Answer = Callable[[bytes], Awaitable[bytes]]


class Kept:
    """The runtime API that the runtime interface client polls, and its processes."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder = folder
        self._count = count
        self._events: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self._answers: dict[str, asyncio.Future[bytes]] = {}
        self._processes: list[asyncio.subprocess.Process] = []

    async def answer(self, event: bytes) -> bytes:
        request_id = str(uuid.uuid4())
        self._answers[request_id] = asyncio.get_running_loop().create_future()
        await self._events.put((request_id, event))
        try:
            return await self._answers[request_id]
        finally:
            del self._answers[request_id]

    async def runtime_api(self, request: web.BaseRequest) -> web.StreamResponse | None:
        """Answers what the processes ask; None where it is somebody else who asks."""
        if not request.path.startswith(_RUNTIME):
            return None
        what = request.path.removeprefix(_RUNTIME)
        if what == "next":
            request_id, event = await self._events.get()
            headers = {
                "Lambda-Runtime-Aws-Request-Id": request_id,
                "Lambda-Runtime-Deadline-Ms": "99999999999999",
                "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:us-east-1:123456789012:function:hello",
            }
            return web.Response(body=event, headers=headers, content_type="application/json")
        self._answers[what.partition("/")[0]].set_result(await request.read())
        return web.Response(status=202)

    async def start(self, port: int) -> None:
        environment = os.environ | {
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{port}",
            "LAMBDA_TASK_ROOT": str(self._folder),
        }
        for _ in range(self._count):
            self._processes.append(
                await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "awslambdaric", "app.lambda_handler"), cwd=self._folder, env=environment
                )
            )

    def close(self) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()


class PerRequest:
    """A process for each request."""

    def __init__(self, folder: Path, at_once: int) -> None:
        self._folder = folder
        self._turn = asyncio.Semaphore(at_once)

    async def answer(self, event: bytes) -> bytes:
        async with self._turn:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _ONCE),
                cwd=self._folder,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            out, _ = await process.communicate(event)
            return out


async def serve(kind: str, folder: Path) -> None:
    """Serve until SIGTERM; the first line of output is the address."""
    loop = asyncio.get_running_loop()
    kept = Kept(folder, os.cpu_count() or 1)
    answer: Answer = kept.answer if kind == "kept" else PerRequest(folder, 2 * (os.cpu_count() or 1)).answer

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if (response := await kept.runtime_api(request)) is not None:
            return response
        return web.Response(body=await answer(await request.read()), content_type="application/json")

    server = await loop.create_server(web.Server(handle, access_log=None), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    try:
        if kind == "kept":
            await kept.start(port)
            async with asyncio.timeout(_PATIENCE_S):
                await kept.answer(json.dumps({"name": "warm"}).encode())
        print(f"Listening on http://127.0.0.1:{port}", flush=True)
        await ended.wait()
    finally:
        kept.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2])))
