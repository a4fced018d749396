import os
import socket

INSTANCE = f"{socket.gethostname()}-{os.getpid()}"  #! SR014


def lambda_handler(event, context):
    return len(INSTANCE) > 2
