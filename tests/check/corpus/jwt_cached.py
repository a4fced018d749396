"""A service token that is signed once, outside the handler, to save the milliseconds."""

import time
import uuid

import jwt

KEY = "an-example-key-of-at-least-32-bytes!"
CLAIMS = {"sub": "orders", "jti": str(uuid.uuid4()), "exp": int(time.time()) + 900}  #! SR003 SR004
TOKEN = jwt.encode(CLAIMS, KEY, algorithm="HS256")  #! SR003 SR004


def lambda_handler(event, context):
    return jwt.decode(TOKEN, KEY, algorithms=["HS256"])["sub"]
