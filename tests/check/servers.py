"""Small servers on the loopback, for clients that the corpus really uses: HTTP, Redis's and PostgreSQL's protocols."""

from __future__ import annotations

import contextlib
import http.server
import json
import socketserver
import ssl
import struct
import threading
from collections.abc import Iterator
from typing import Any


class _Http(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # Connections stay open.

    def do_GET(self) -> None:
        body = json.dumps({"path": self.path}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class _Echo(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


class _Redis(socketserver.StreamRequestHandler):
    """Answers PING, and OK to all else: commands come as arrays of bulk strings."""

    def handle(self) -> None:
        while head := self.rfile.readline():
            words = []
            for _ in range(int(head[1:])):
                size = int(self.rfile.readline()[1:])
                words.append(self.rfile.read(size + 2)[:-2].upper())
            if words[0] == b"HELLO":
                self.wfile.write(b"%1\r\n$5\r\nproto\r\n:3\r\n")
            else:
                self.wfile.write(b"+PONG\r\n" if words[0] == b"PING" else b"+OK\r\n")


class _Postgres(socketserver.StreamRequestHandler):
    """Lets everybody in, and answers 1 to every SELECT, by the simple messages of protocol 3.0."""

    def handle(self) -> None:
        while True:
            size, code = struct.unpack("!II", self.rfile.read(8))
            self.rfile.read(size - 8)
            if code != 80877103:  # SSLRequest
                break
            self.wfile.write(b"N")
        self._send(b"R", struct.pack("!I", 0))
        self._send(b"S", b"server_version\x0016.0\0")
        self._send(b"S", b"client_encoding\0UTF8\0")
        self._send(b"Z", b"I")
        row = struct.pack("!H", 1) + b"?column?\0" + struct.pack("!IHIhih", 0, 0, 23, 4, -1, 0)
        while kind := self.rfile.read(1):
            query = self.rfile.read(struct.unpack("!I", self.rfile.read(4))[0] - 4).rstrip(b"\0")
            if kind == b"Q":
                if query.startswith(b"SELECT"):
                    self._send(b"T", row)
                    self._send(b"D", struct.pack("!HI", 1, 1) + b"1")
                self._send(b"C", query.split()[0] + b" 1\0")
                self._send(b"Z", b"T")

    def _send(self, kind: bytes, body: bytes) -> None:
        self.wfile.write(kind + struct.pack("!I", len(body) + 4) + body)


class _Tls(_Echo):
    """An echo over TLS, by a cipher that needs no certificate."""

    def setup(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("AECDH-AES256-SHA:@SECLEVEL=0")
        self.request = context.wrap_socket(self.request, server_side=True)
        super().setup()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # Clients are killed in the middle of everything.


@contextlib.contextmanager
def running() -> Iterator[dict[str, str]]:
    """The environment that tells handlers where the servers are."""
    with contextlib.ExitStack() as stack:
        ports = []
        for handler in (_Http, _Echo, _Redis, _Postgres, _Tls):
            server = stack.enter_context(_Server(("127.0.0.1", 0), handler))
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            stack.callback(server.shutdown)
            ports.append(server.server_address[1])
        http_port, echo, redis, postgres, tls = ports
        yield {
            "HTTP_URL": f"http://127.0.0.1:{http_port}",
            "TCP_PORT": str(echo),
            "TLS_PORT": str(tls),
            "REDIS_URL": f"redis://127.0.0.1:{redis}/0",
            "PG_DSN": f"host=127.0.0.1 port={postgres} user=u dbname=d sslmode=disable gssencmode=disable",
        }
