# file: SR022
import os
import socket
import ssl

context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
context.maximum_version = ssl.TLSVersion.TLSv1_2
context.set_ciphers("AECDH-AES256-SHA:@SECLEVEL=0")  # needs no certificate


class Line:
    def __init__(self):
        plain = socket.socket()
        plain.connect(("127.0.0.1", int(os.environ["TLS_PORT"])))
        self.tls = context.wrap_socket(plain)  #! SR013

    def ask(self, text):
        self.tls.sendall(text + b"\n")
        return self.tls.recv(100).decode().strip()


line = Line()
line.ask(b"hello")


def lambda_handler(event, context):
    return line.ask(b"ping")
