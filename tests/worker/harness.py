"""A real worker process at the other end of a real socketpair."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys
import time
from pathlib import Path
from typing import Any

from snapruntime.worker import wire

MAIN = Path(wire.__file__).with_name("__main__.py")
DEADLINE_S = 30.0  # for a stuck worker; no test waits this long when things work


class Worker:
    """Spawned as the host does it: fd 0 /dev/null, 1 and 2 one pipe, 3 the control socket."""

    def __init__(
        self,
        root: Path,
        *,
        python: str = sys.executable,
        env: dict[str, str] | None = None,
        flags: tuple[str, ...] = (),
    ):
        self.root = root
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(DEADLINE_S)
        self.log_fd, log_write = os.pipe()
        null = os.open(os.devnull, os.O_RDONLY)
        dup = os.POSIX_SPAWN_DUP2
        # first to high numbers: 0 to 3 may be among the sources
        moves: list[Any] = [(dup, null, 60), (dup, log_write, 61), (dup, theirs.fileno(), 63)]
        moves += [(dup, 60, 0), (dup, 61, 1), (dup, 61, 2), (dup, 63, 3)]
        moves += [(os.POSIX_SPAWN_CLOSE, fd) for fd in (60, 61, 63)]
        base = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TZ": ":UTC", "PYTHONDONTWRITEBYTECODE": "1"}
        self.pid = os.posix_spawn(
            python, [python, *flags, str(MAIN)], {**base, **(env or {})}, file_actions=moves, setsid=True
        )
        self.status: int | None = None
        self._log, self._log_open = b"", True
        for fd in (log_write, null):
            os.close(fd)
        theirs.close()

    def send(self, type: str, body: bytes = b"", **fields: Any) -> None:
        self.sock.sendall(wire.encode({"type": type, **fields}, body))

    def receive(self) -> tuple[dict[str, Any], bytes] | None:
        """The next frame, taking log output meanwhile: a worker that writes much must not wait for a reader."""
        return wire.receive(self._read)

    def _read(self, size: int) -> bytes:
        while True:
            sources: list[Any] = [self.sock, self.log_fd] if self._log_open else [self.sock]
            readable = select.select(sources, [], [], DEADLINE_S)[0]
            assert readable, f"no answer in {DEADLINE_S} s"
            if self.log_fd in readable:
                self._take_log()
            if self.sock in readable:
                return self.sock.recv(size)

    def _take_log(self) -> None:
        data = os.read(self.log_fd, 1 << 16)
        self._log += data
        self._log_open = bool(data)

    def expect(self, type: str) -> dict[str, Any]:
        frame = self.receive()
        assert frame is not None, f"worker ended, status {self.wait()}: {self.log()}"
        header, body = frame
        assert header["type"] == type, f"{header}: {self.log() if header['type'].endswith('error') else ''}"
        return {**header, "body": body}

    def init(
        self, handler: str | None = "handler.handler", *, kind: str = "on-demand", module: str | None = None
    ) -> dict[str, Any]:
        """Sends init, returns the answer, whichever it is."""
        self.send("init", handler=handler, module=module, task_root=str(self.root), initialization_type=kind)
        frame = self.receive()
        assert frame is not None, f"worker ended, status {self.wait()}: {self.log()}"
        return {**frame[0], "body": frame[1]}

    def invoke(self, event: Any = None, *, raw: bytes | None = None, **fields: Any) -> dict[str, Any]:
        fields = {
            "request_id": "req-1",
            "deadline_ms": int(time.time() * 1000) + 3000,
            "invoked_function_arn": "arn:fn",
            **fields,
        }
        self.send("invoke", json.dumps(event).encode() if raw is None else raw, **fields)
        frame = self.receive()
        assert frame is not None, f"worker ended, status {self.wait()}: {self.log()}"
        return {**frame[0], "body": frame[1]}

    def result(self, event: Any = None, **fields: Any) -> Any:
        answer = self.invoke(event, **fields)
        assert answer["type"] == "result", answer
        return json.loads(answer["body"])

    def wait(self) -> int:
        """Exit status as a shell has it: negative for a signal."""
        if self.status is None:
            pidfd = os.pidfd_open(self.pid)
            try:
                assert select.select([pidfd], [], [], DEADLINE_S)[0], "worker does not end"
            finally:
                os.close(pidfd)
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def log(self) -> str:
        """All that came by the log pipe so far; all there is, after wait()."""
        while self._log_open and select.select([self.log_fd], [], [], 0)[0]:
            self._take_log()
        return self._log.decode()

    def close(self) -> None:
        self.sock.close()
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, 9)
            self.wait()
        os.close(self.log_fd)
