"""A signer that takes its keys from the environment once, as many examples of request signing do."""
# env: AWS_SECRET_ACCESS_KEY=not-a-real-secret-key
# file: SR011

import hashlib
import hmac
import os

SECRET_KEY = os.environ["AWS_SECRET_ACCESS_KEY"]  #! SR011


def lambda_handler(event, context):
    return hmac.new(SECRET_KEY.encode(), b"GET /", hashlib.sha256).hexdigest()
