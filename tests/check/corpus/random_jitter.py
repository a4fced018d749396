"""Spreads retries by a delay that is drawn once: all copies retry at the same moment."""
# file: SR020

import random

JITTER = random.uniform(0.0, 2.0)  #! SR003


def lambda_handler(event, context):
    return {"retry_after": 1 + JITTER}
