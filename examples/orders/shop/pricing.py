"""Prices, read once at init: prices.json is an input of the snapshot, so that a change of it makes a new one."""

import json
from decimal import Decimal
from pathlib import Path

with (Path(__file__).parent / "prices.json").open() as file:
    PRICES = {name: Decimal(price) for name, price in json.load(file).items()}


def total(items):
    return sum(PRICES[name] * count for name, count in items.items())
