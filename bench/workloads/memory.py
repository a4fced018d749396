"""So many MiB of memory, every page of it written and none like another; a few bytes of it read for each event."""

import os
import random
from typing import Any

_MIB = 1 << 20

MEMORY = bytearray(int(os.environ["BENCH_MIB"]) * _MIB)
for _start in range(0, len(MEMORY), _MIB):
    MEMORY[_start : _start + _MIB] = random.Random(_start).randbytes(_MIB)


def lambda_handler(event: dict[str, Any], context: object) -> list[int]:
    return [MEMORY[offset] for offset in event["offsets"]]
