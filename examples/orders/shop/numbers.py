"""Order numbers. Random ones differ in each copy of a snapshot: the state of `random` and `uuid` is renewed."""

import uuid


def next_number():
    return str(uuid.uuid4())
