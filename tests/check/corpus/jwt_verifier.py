import time

import jwt

PUBLIC = {"kid-1": "an-example-key-of-at-least-32-bytes!"}
decoder = jwt.PyJWT(options={"verify_aud": False})


def lambda_handler(event, context):
    token = jwt.encode({"sub": "me", "exp": time.time() + 60}, PUBLIC["kid-1"], algorithm="HS256")
    return decoder.decode(token, PUBLIC["kid-1"], algorithms=["HS256"])["sub"]
