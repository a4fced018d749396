"""Shards in an order drawn at init, so that processes do not all begin with the same one."""
# file: SR020

import random

shards = [f"shard-{number:03}" for number in range(64)]  #! SR003
random.shuffle(shards)


def lambda_handler(event, context):
    return {"first": shards[0]}
