# file: SR020
import os


def signer():
    nonce = os.urandom(8).hex()

    def sign(text):
        return f"{nonce}.{text}"

    return sign


sign = signer()  #! SR003


def lambda_handler(event, context):
    return sign("hello")
