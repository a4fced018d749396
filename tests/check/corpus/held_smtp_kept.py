"""A raw line protocol client of one's own, connected lazily and closed after each event."""

import os
import socket


class Client:
    def __init__(self, host, port):
        self.address = (host, port)
        self.sock = None

    def __enter__(self):
        self.sock = socket.create_connection(self.address, timeout=2)
        return self

    def __exit__(self, *_):
        self.sock.close()
        self.sock = None

    def ask(self, text):
        self.sock.sendall(text)
        return self.sock.recv(100).decode()


client = Client("127.0.0.1", int(os.environ["TCP_PORT"]))
with client:
    BANNER = client.ask(b"hello\n")


def lambda_handler(event, context):
    with client:
        return client.ask(b"ping\n") + BANNER
