# file: SR020
import secrets
from functools import lru_cache


@lru_cache
def session_token(user):  #! SR012
    return f"{user}:{secrets.token_hex(16)}"


session_token("system")


def lambda_handler(event, context):
    return {"token": session_token("system")}
