import json
import os
import urllib.request

with urllib.request.urlopen(os.environ["HTTP_URL"] + "/config", timeout=5) as answer:
    CONFIG = json.load(answer)


def lambda_handler(event, context):
    return CONFIG
