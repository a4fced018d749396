"""The ways to answer an event. What they have in common: something is started, asked, asked again, and ended.

The clock is the client's, and is not in here: `measure` starts it before `start` and stops it when the first answer has
been checked.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import signal
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from snapruntime import ColdStarter, Instance, Snapshot
from snapruntime import Parked as ParkedCopy
from snapruntime.bench.cases import Case

BARE = Path(__file__).with_name("bare.py")
#: How long an answer may take before a way counts as not working, seconds. What waits for a thread that fork() did not
#: copy waits for ever.
LIMIT_S = 20.0


class WayError(Exception):
    """A way that could not answer; the message says why."""


class Alive(ABC):
    """Something started, that answers events.

    Attributes:
        pid: the process that answers; 0 where there is none.
        parts: what its start is known to have been made of: metric -> milliseconds.
    """

    pid: int = 0
    parts: Mapping[str, float]

    @abstractmethod
    def call(self, event: Any) -> Any:
        """The response to an event. Raises WayError."""

    def details(self) -> Mapping[str, float]:
        """What else is known of its start, where finding that out takes time: metric -> milliseconds."""
        return {}

    @abstractmethod
    def close(self) -> None:
        """End it."""


class Way(ABC):
    """A way to answer. Its constructor makes all that is made once per workload, which no request pays for.

    Attributes:
        splits: whether the end of `start` is the beginning of the first call, so that the two can be told apart.
    """

    splits = True

    @abstractmethod
    def start(self) -> Alive:
        """What a request begins with. Raises WayError, or what the runtime raises."""

    def settle(self, count: int) -> None:  # noqa: B027 - most have nothing ahead.
        """Have ahead what is made ahead of `count` requests: all of it, and nothing that others left over.

        What were left over would serve the next requests, and save what their rate has to pay for.
        """

    def close(self) -> None:  # noqa: B027 - some have nothing to give back.
        """Give everything back; not the snapshot, which ways share."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class OfInstance(Alive):
    """A process of the runtime's.

    Args:
        instance: the process.
        details: see `Alive.details`.
    """

    def __init__(self, instance: Instance, details: Callable[[], Mapping[str, float]] = dict) -> None:
        self._instance = instance
        self._details = details
        self.pid = instance.pid
        parts = {"restore": instance.restore_ms, "hooks": instance.hooks_ms, "init": instance.init_ms}
        self.parts = {name: value for name, value in parts.items() if value is not None}

    def call(self, event: Any) -> Any:
        answer = self._instance.invoke(event)
        if answer.payload is None:
            raise WayError(f"{dict(answer.error or {})}")
        return answer.result

    def details(self) -> Mapping[str, float]:
        return self._details()

    def close(self) -> None:
        self._instance.close()


class Restored(Way):
    """Copies of a snapshot, by the runtime.

    Args:
        snapshot: what of.
        details: see `Alive.details`.
        ahead: have them prepared ahead; not at the same time as others are restored, but before.
    """

    def __init__(
        self, snapshot: Snapshot, details: Callable[[], Mapping[str, float]] = dict, *, ahead: bool = False
    ) -> None:
        self._snapshot = snapshot
        self._details = details
        self._ahead = ahead

    def start(self) -> Alive:
        return OfInstance(self._snapshot.restore(), self._details)

    def settle(self, count: int) -> None:
        if self._ahead:
            self._snapshot.keep_ready(count, max(0, count - self._snapshot.wait_ready()))
            self._snapshot.wait_ready()


class Parked(Way):
    """Copies of a snapshot that were restored before they are asked for, and wait before their after-restore hooks."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._copies: queue.SimpleQueue[ParkedCopy] = queue.SimpleQueue()

    def start(self) -> Alive:
        return OfInstance(self._copies.get_nowait().resume())

    def settle(self, count: int) -> None:
        while self._copies.qsize() > count:
            self._copies.get_nowait().close()
        while self._copies.qsize() < count:
            self._copies.put(self._snapshot.park())

    def close(self) -> None:
        self.settle(0)


class Cold(Way):
    """Fresh processes in the runtime's sandbox."""

    def __init__(self, starter: ColdStarter) -> None:
        self._starter = starter

    def start(self) -> Alive:
        return OfInstance(self._starter.start())

    def close(self) -> None:
        self._starter.close()


class _OverSocket(Alive):
    """A process of `bare.py`, at the other end of a socket."""

    parts: Mapping[str, float] = {}

    def __init__(self, line: socket.socket, process: subprocess.Popen[bytes] | None) -> None:
        line.settimeout(LIMIT_S)
        self._line = line
        self._stream = line.makefile("rwb")
        self._process = process
        self.pid = process.pid if process else 0

    def call(self, event: Any) -> Any:
        try:
            self._stream.write(json.dumps(event).encode() + b"\n")
            self._stream.flush()
            answer = self._stream.readline()
        except OSError as error:
            raise WayError(f"no answer within {LIMIT_S:g} s: {error}") from error
        if not answer:
            raise WayError("the process ended without an answer")
        document = json.loads(answer)
        self.pid = document["pid"]
        return document["result"]

    def close(self) -> None:
        self._stream.close()
        self._line.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _bare(python: str, case: Case, how: str, far: socket.socket) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [python, str(BARE), str(case.path), how, str(far.fileno())],
        env={"PATH": os.defpath, **case.environment},
        stdin=subprocess.DEVNULL,
        pass_fds=[far.fileno()],
        start_new_session=True,
    )


class ColdBare(Way):
    """Fresh interpreters that import the handler and answer: no sandbox, nothing of ours."""

    splits = False

    def __init__(self, case: Case, python: str = sys.executable) -> None:
        self._case = case
        self._python = python

    def start(self) -> Alive:
        ours, far = socket.socketpair()
        with far:
            return _OverSocket(ours, _bare(self._python, self._case, "once", far))


class Fork(Way):
    """os.fork() of a process that has loaded and warmed the handler, outside of any sandbox."""

    splits = False
    process: subprocess.Popen[bytes] | None = None

    def __init__(self, case: Case, python: str = sys.executable) -> None:
        self._case = case
        self._python = python
        self.settle(1)

    def settle(self, count: int) -> None:
        """One process serves however many; none is there where nothing is to be."""
        if count == 0:
            self.close()
        elif self.process is None:
            self._control, far = socket.socketpair()
            with far:
                self.process = _bare(self._python, self._case, "serve", far)
            if self._control.recv(1) != b"!":
                self.close()
                raise WayError("the process to be forked did not come to life")

    def start(self) -> Alive:
        ours, far = socket.socketpair()
        with far:
            socket.send_fds(self._control, [b"."], [far.fileno()])
        return _Forked(ours)

    def close(self) -> None:
        if self.process is not None:
            self._control.close()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)  # With all that it has forked.
            self.process.wait()
            self.process = None


class _Forked(_OverSocket):
    def __init__(self, line: socket.socket) -> None:
        super().__init__(line, None)

    def close(self) -> None:
        super().close()
        if not self.pid:
            return  # It never answered; it ends with the process that it was forked from.
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(self.pid)
            try:
                # Its end must not be part of what is measured next. It is no child of ours, but can be waited for.
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                poll = select.poll()
                poll.register(pidfd, select.POLLIN)
                poll.poll(LIMIT_S * 1000)
            finally:
                os.close(pidfd)


class _Done(Alive):
    parts: Mapping[str, float] = {}

    def call(self, event: Any) -> Any:
        return None

    def close(self) -> None: ...


class Pass(Way):
    """`python -c pass`, from its start to its end: no fresh interpreter can answer sooner."""

    splits = False

    def __init__(self, python: str = sys.executable) -> None:
        self._python = python

    def start(self) -> Alive:
        subprocess.run([self._python, "-c", "pass"], env={"PATH": os.defpath}, stdin=subprocess.DEVNULL, check=True)
        return _Done()
