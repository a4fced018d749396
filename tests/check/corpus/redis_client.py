import os

import redis

cache = redis.Redis.from_url(os.environ["REDIS_URL"])
cache.ping()


def lambda_handler(event, context):
    return cache.ping()
