# file: SR020
import os
import uuid

import requests

session = requests.Session()
session.headers["X-Client-Id"] = str(uuid.uuid4())  #! SR003


def lambda_handler(event, context):
    return session.get(os.environ["HTTP_URL"] + "/prices", timeout=2).status_code
