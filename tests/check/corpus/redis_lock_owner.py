"""A lock by SET NX whose owner is told by a token: with one token in all copies, each may release another's lock."""
# file: SR020

import os
import uuid

import redis

cache = redis.Redis.from_url(os.environ["REDIS_URL"])
OWNER = uuid.uuid4().hex  #! SR003


def lambda_handler(event, context):
    cache.ping()
    return {"lock": {"owner": OWNER}}
