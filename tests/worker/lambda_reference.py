"""AWS's own runtime (awslambdaric) in a real process, against a Runtime API small enough to read."""

from __future__ import annotations

import http.client
import json
import os
import select
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from typing import Any

DEADLINE_S = 30.0
http.client._MAXLINE = 1 << 21  # type: ignore[attr-defined]  # it sends a stack trace in a header


class RuntimeApi(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.events: Queue[tuple[bytes, dict[str, str]] | None] = Queue()
        self.answers: Queue[dict[str, Any]] = Queue()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


class _Answers(BaseHTTPRequestHandler):
    server: RuntimeApi
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None: ...

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            **(headers or {}),
            "Content-Length": str(len(body)),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path.endswith("/restore/next"):
            self.server.answers.put({"path": "ready"})
            return self._answer(200)
        event = self.server.events.get()
        if event is not None:
            self._answer(200, *event)
        return None

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        self.server.answers.put({"path": self.path.split("/runtime/")[1], "body": body, "headers": self.headers})
        self._answer(202)


class Reference:
    """The same questions as harness.Worker takes, put to awslambdaric."""

    def __init__(self, root: Path, handler: str = "handler.handler", env: dict[str, str] | None = None) -> None:
        self.api = RuntimeApi()
        base = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TZ": ":UTC", "PYTHONDONTWRITEBYTECODE": "1"}
        base |= {
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self.api.server_port}",
            "AWS_EXECUTION_ENV": "AWS_Lambda_python3.12",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "awslambdaric", handler],
            cwd=root,
            env=base | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._log = b""

    def answer(self) -> dict[str, Any] | None:
        """What it posts next; None where the process ends instead."""
        pidfd = os.pidfd_open(self.process.pid)
        try:
            while True:
                try:
                    return self.api.answers.get(timeout=0.02)
                except Empty:
                    if select.select([pidfd], [], [], 0)[0] and self.api.answers.empty():
                        return None
        finally:
            os.close(pidfd)

    def invoke(
        self, event: Any = None, *, raw: bytes | None = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any] | None:
        base = {"Lambda-Runtime-Aws-Request-Id": "req-1", "Lambda-Runtime-Deadline-Ms": "99999999999999"}
        base["Lambda-Runtime-Invoked-Function-Arn"] = "arn:fn"
        self.api.events.put((json.dumps(event).encode() if raw is None else raw, {**base, **(headers or {})}))
        return self.answer()

    def wait(self) -> int:
        return self.process.wait(DEADLINE_S)

    def log(self) -> str:
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        while select.select([fd], [], [], 0)[0]:
            data = os.read(fd, 1 << 16)
            if not data:
                break
            self._log += data
        return self._log.decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.api.events.put(None)
        self.api.shutdown()
        self.api.server_close()
        if self.process.stdout:
            self.process.stdout.close()
