# file: SR022
import os
import socket

line = socket.create_connection(("127.0.0.1", int(os.environ["TCP_PORT"])), timeout=2)  #! SR005


def lambda_handler(event, context):
    line.sendall(b"ping\n")
    return line.recv(100).decode()
