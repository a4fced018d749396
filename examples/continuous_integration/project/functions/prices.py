"""A function that prepares at init what each event needs, and is to be tested as it will run: in restored copies."""

import uuid
from decimal import Decimal

import requests

session = requests.Session()
PRICES = {"tea": Decimal("3.20"), "cake": Decimal("4.50")}


def handler(event, context):
    total = sum(PRICES[item] for item in event["items"])
    return {"total": str(total), "receipt": uuid.uuid4().hex}
