"""A call that is answered before it has come to its end: what it has still to do then, nobody has to wait for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace

from snapruntime.edges.serve.exchange import Call, Reply

_log = logging.getLogger("snapruntime.serve")
#: How long the rest of a call lets its reply go first, seconds. Both need the interpreter, and to take it in turns
#: cost the reply a third of a millisecond.
_FIRST_S = 0.005


class Early:
    """A call, to be run in a thread.

    Args:
        answer: gives the reply; None where it has told it (`Call.tell`).
        call: what it is asked.

    Attributes:
        reply: has the reply as soon as it is known, or what the call raised.
        sent: to be set when the reply is on its way.
    """

    def __init__(self, answer: Callable[[Call], Reply | None], call: Call) -> None:
        self.reply: Future[Reply] = Future()
        self.sent = threading.Event()
        self._answer = answer
        self._call = replace(call, tell=self._tell)

    def begin(self, threads: Executor) -> None:
        """Run it in one of `threads`. Where none can be had, nobody is to wait for its reply."""
        try:
            threads.submit(self.run)
        except BaseException:
            self.reply.cancel()
            raise

    def run(self) -> None:
        """Run it, to its very end."""
        if not self.reply.set_running_or_notify_cancel():
            return
        try:
            if (reply := self._answer(self._call)) is not None:
                self.reply.set_result(reply)
            elif not self.reply.done():
                raise RuntimeError("a call without a reply")
        except BaseException as error:
            if not self.reply.done():
                self.reply.set_exception(error)
            else:
                _log.exception("A mistake in snapruntime itself, after the answer to %s", self._call.request_id)

    def _tell(self, reply: Reply) -> None:
        self.reply.set_result(reply)
        self.sent.wait(_FIRST_S)
