import hashlib
import os

import redis

SCRIPT = "return redis.call('GET', KEYS[1])"
SHA = hashlib.sha1(SCRIPT.encode()).hexdigest()
pool = redis.ConnectionPool.from_url(os.environ["REDIS_URL"], max_connections=4)
client = redis.Redis(connection_pool=pool)
client.ping()


def lambda_handler(event, context):
    return [SHA, client.ping()]
