"""What a larger function has at init: an AWS client, worker threads, a connection that no snapshot can hold.

Clients and threads are in every copy as they are. The connection is closed before the snapshot, and each copy opens
one of its own.
"""

import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import boto3
from botocore.exceptions import NoCredentialsError
from snapshot_restore_py import register_after_restore, register_before_snapshot

s3 = boto3.client("s3")
pool = ThreadPoolExecutor(4, thread_name_prefix="signer")
# A thread starts when there is work and none is idle. To have all four in the snapshot, all must have work at once.
together = threading.Barrier(4)
list(pool.map(lambda _: together.wait(), range(4)))

# Stands for the connection to a database. A UDP socket that is connected needs no answer from the other side.
database = None


@register_after_restore
def connect():
    global database
    database = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    database.connect(("127.0.0.1", 9))


@register_before_snapshot
def disconnect():
    global database
    if database is not None:
        database.close()
        database = None


connect()


def sign(key):
    try:
        return s3.generate_presigned_url("get_object", Params={"Bucket": os.environ.get("BUCKET", "demo"), "Key": key})
    except NoCredentialsError:
        return None


def lambda_handler(event, context):
    keys = event.get("keys", ["a.txt", "b.txt"])
    return {
        "urls": dict(zip(keys, pool.map(sign, keys), strict=True)),
        "region": s3.meta.region_name,
        "threads": sum(thread.name.startswith("signer") for thread in threading.enumerate()),
        "connected": database is not None,
    }
