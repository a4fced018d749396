"""Message ids from a prefix of the process and a counter."""
# file: SR020

import itertools
import secrets

_prefix = secrets.token_hex(4)  #! SR003
_numbers = itertools.count()


def next_id():
    return f"{_prefix}-{next(_numbers)}"


def lambda_handler(event, context):
    return {"id": next_id()}
