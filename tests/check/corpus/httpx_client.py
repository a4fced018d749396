import os

import httpx

client = httpx.Client(base_url=os.environ["HTTP_URL"], timeout=2)
client.get("/config").raise_for_status()


def lambda_handler(event, context):
    return client.get("/prices").json()
