"""One idempotency key for all payments of a process: all copies send the same one."""
# file: SR020

import os
import secrets

import httpx

client = httpx.Client(base_url=os.environ["HTTP_URL"], headers={"Idempotency-Key": secrets.token_hex(16)})  #! SR003


def lambda_handler(event, context):
    return client.get("/pay").status_code
