"""A circuit breaker with the time of its last failure, and a lock."""

import threading
import time
from dataclasses import dataclass, field


@dataclass
class Breaker:
    failures: int = 0
    opened_at: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def allow(self):
        with self.lock:
            return self.failures < 3 or time.monotonic() - self.opened_at > 30


breaker = Breaker()


def lambda_handler(event, context):
    return breaker.allow()
