"""Threads for calls that block: as many as are wanted at once, and no longer than they are wanted."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

_T = TypeVar("_T")
_Work = tuple[Future[Any], Callable[[], Any]]
#: A thread that has had nothing to do for so long ends, seconds.
IDLE_S = 10.0


class Threads(Executor):
    """Like ThreadPoolExecutor, whose threads stay until its end, however many a flood once took.

    Args:
        most: threads at once; what is beyond waits.
        name: what they are called.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        #: Those that wait for work. Who came last is taken first, so that the others can end.
        self._idle: list[SimpleQueue[_Work | None]] = []
        self._waiting: deque[_Work] = deque()
        self._ending = False

    def submit(self, call: Callable[..., _T], /, *arguments: Any, **named: Any) -> Future[_T]:
        future: Future[_T] = Future()
        work = (future, lambda: call(*arguments, **named))
        with self._lock:
            if self._ending:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if self._idle:
                self._idle.pop().put(work)
            elif len(self._threads) < self._most:
                inbox: SimpleQueue[_Work | None] = SimpleQueue()
                inbox.put(work)  # Among its arguments, it would keep it to its end.
                thread = threading.Thread(target=self._work, args=(inbox,), name=self._name)
                thread.start()
                self._threads.add(thread)
            else:
                self._waiting.append(work)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._lock:
            self._ending = True
            dropped = list(self._waiting) if cancel_futures else []
            if cancel_futures:
                self._waiting.clear()
            while self._idle:
                self._idle.pop().put(None)
            threads = list(self._threads)
        for future, _ in dropped:
            future.cancel()
        for thread in threads if wait else ():
            thread.join()

    def _work(self, inbox: SimpleQueue[_Work | None]) -> None:
        work = inbox.get()
        while work is not None:
            _run(*work)
            work = None  # While it waits, a thread keeps nothing of what a call was about.
            work = self._next(inbox)

    def _next(self, inbox: SimpleQueue[_Work | None]) -> _Work | None:
        """What a thread does next; None where it ends."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            if self._ending:
                self._threads.discard(threading.current_thread())
                return None
            self._idle.append(inbox)
        work: _Work | None = None
        try:
            work = inbox.get(timeout=IDLE_S)
        except Empty:
            with self._lock:
                if inbox in self._idle:
                    self._idle.remove(inbox)
                else:  # In the moment between.
                    work = inbox.get()
        if work is None:
            with self._lock:
                self._threads.discard(threading.current_thread())
        return work


def _run(future: Future[Any], call: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
