"""The life of the server: ready, reloaded, drained, ended; and what systemd is told of it."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from snapruntime.edges.serve import systemd
from snapruntime.edges.serve.frontend import Frontend
from snapruntime.edges.serve.listeners import Listener
from snapruntime.values.errors import SnapruntimeError

_log = logging.getLogger("snapruntime.serve")
#: What connections get to be closed in, seconds. (To aiohttp, 0 means that there is no limit.)
_AT_ONCE_S = 0.1
#: How often is looked whether functions can be run, seconds.
_LOOK_S = 0.5


class Life:
    """Runs a frontend until a signal ends it.

    SIGTERM and SIGINT end it gracefully: no new connections, no new requests, an answer to those that are there, for as
    long as the deadline allows. A second one ends it at once. SIGHUP has the access keys read anew.

    Args:
        frontend: answers requests.
        listeners: where it listens; closed at the end.
        reload: reads anew what may be; raises SnapruntimeError where that cannot be used, and all stays as it was.
        drain: lets what runs in the background come to an end; given the seconds there are for it, says whether it has.
        drain_s: how long the end may take, seconds.
        alive: whether functions can be run at all; when not any more, the server ends, for systemd to start another.
    """

    def __init__(
        self,
        frontend: Frontend,
        listeners: Sequence[Listener],
        *,
        reload: Callable[[], None],
        drain: Callable[[float], bool],
        drain_s: float,
        alive: Callable[[], bool],
    ) -> None:
        self._frontend = frontend
        self._listeners = listeners
        self._reload = reload
        self._drain = drain
        self._drain_s = drain_s
        self._alive = alive
        self._thread = ThreadPoolExecutor(1, "drain")
        self._ending = asyncio.Event()
        self._at_once = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether requests are taken, and functions can be run."""
        return not self._ending.is_set() and self._alive()

    async def run(self, announce: Callable[[], None]) -> bool:
        """Serve until a signal ends it. Whether all that ran has come to its end.

        Args:
            announce: called when connections are taken.
        """
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.end)
        loop.add_signal_handler(signal.SIGINT, self.end)
        loop.add_signal_handler(signal.SIGHUP, self._reload_now)
        servers = [await loop.create_server(self._frontend.connections, sock=one.socket) for one in self._listeners]
        tasks = (_feed_watchdog(), self._watch(), self._frontend.tidy())
        watches = [asyncio.create_task(task) for task in tasks]
        announce()
        systemd.notify("READY=1", f"STATUS=Listening on {', '.join(one.describe() for one in self._listeners)}")
        await self._ending.wait()
        systemd.notify("STOPPING=1", "STATUS=Answering the last requests")
        for server in servers:
            server.close()
        for listener in self._listeners:
            listener.close()
        last = [asyncio.create_task(self._answer_the_last()), asyncio.create_task(self._at_once.wait())]
        await asyncio.wait(last, timeout=self._drain_s, return_when=asyncio.FIRST_COMPLETED)
        ended = last[0].done() and last[0].result()
        if not ended:
            _log.warning("Not all that ran had come to its end, and is ended: clients lose their connections.")
        for task in (*last, *watches):
            task.cancel()
        await self._frontend.connections.shutdown(_AT_ONCE_S)
        return ended

    def end(self) -> None:
        """End: gracefully at first, at once when asked again. To be called from the event loop."""
        if self._ending.is_set():
            self._at_once.set()
        self._ending.set()

    async def _answer_the_last(self) -> bool:
        """Wait for the answers to requests that are there, and for what runs in the background: whether it ended."""
        deadline = time.monotonic() + self._drain_s
        self._frontend.connections.take_no_more()
        await self._frontend.answered()
        loop = asyncio.get_running_loop()
        # Not in asyncio's own threads, which it would wait for however it ends.
        draining = loop.run_in_executor(self._thread, self._drain, max(0.0, deadline - time.monotonic()))
        self._thread.shutdown(wait=False)
        return await draining

    async def _watch(self) -> None:
        """End at once where no function can be run any more."""
        while self._alive():
            await asyncio.sleep(_LOOK_S)
        _log.error("The spawner process has ended, and all that it had started with it.")
        self._at_once.set()
        self._ending.set()

    def _reload_now(self) -> None:
        systemd.notify(*systemd.reloading())
        try:
            self._reload()
            _log.info("Reloaded.")
        except SnapruntimeError as error:
            _log.error("Not reloaded, all stays as it was: %s %s", error.message, error.hint)
        systemd.notify("READY=1")


async def _feed_watchdog() -> None:
    """Tell systemd that the event loop turns, where it wants to hear it."""
    period = systemd.watchdog_s()
    while period is not None:
        systemd.notify("WATCHDOG=1")
        await asyncio.sleep(period)
