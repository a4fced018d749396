"""Handlers: `create` and `total`."""

from . import pricing
from .numbers import next_number


def create(event, context):
    """An order with a number of its own; needs {"items": {NAME: COUNT}}."""
    items = event.get("items", {"tea": 1})
    return {"order": next_number(), "total": pricing.total(items)}


def total(event, context):
    return pricing.total(event["items"])
