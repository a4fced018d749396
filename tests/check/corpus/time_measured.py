import time

_began = time.perf_counter()
TABLE = {number: number**2 for number in range(1000)}
_wall = time.time()
SQUARES = sum(TABLE.values())
INIT_MS = (time.perf_counter() - _began) * 1000
WALL_SECONDS = time.time() - _wall
del _wall


def lambda_handler(event, context):
    return {"init_ms": INIT_MS, "wall_seconds": WALL_SECONDS, "squares": SQUARES}
