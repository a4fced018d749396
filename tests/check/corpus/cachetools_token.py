import secrets

from cachetools import TTLCache

cache = TTLCache(maxsize=10, ttl=300)


def fetch_token():
    return secrets.token_urlsafe(32)


cache["token"] = fetch_token()  #! SR003


def lambda_handler(event, context):
    return len(cache.get("token") or fetch_token())
