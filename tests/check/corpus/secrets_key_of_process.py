"""Signs cookies with a key of the process, as Flask's quick start does with its secret_key."""
# file: SR020

import hashlib
import hmac
import secrets

app = {"config": {"SECRET_KEY": secrets.token_bytes(32)}}  #! SR003


def lambda_handler(event, context):
    key = app["config"]["SECRET_KEY"]
    return {"cookie": hmac.new(key, b"user=1", hashlib.sha256).hexdigest()}
