"""Which request is for which function, what is done to it, and how it may end: all of it follows from the seed."""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass

from .functions import SABOTAGE

#: Of a thousand requests, how many get which fault from outside; the rest get none.
SHARES = {
    "copy killed": 40,
    "copy stopped": 4,
    "CRIU killed": 15,
    "spawner short of descriptors": 6,
    "event that is no JSON": 10,
    "copy closed before": 10,
    "copy closed meanwhile": 10,
    "cold start": 20,
    "snapshot damaged": 10,
    "disk full": 4,
    "supervisor killed": 20,
    "spawner killed": 3,
}
SABOTAGE_SHARE = 100
#: Faults that may hit others who are about.
WEATHER = {"CRIU killed", "spawner short of descriptors", "disk full"}
#: How the invocation of a copy that is hit at any moment may end.
_STRUCK = {"answered", "Runtime.ExitError", "Runtime.Unknown"}
_NO_COPY = {"Snapruntime.Restore", "Snapruntime.Spawner", "Snapruntime.Host", "Snapruntime.Snapshot"}
_REFUSED = "refused: Snapruntime.Usage"
#: How a request may end that had this fault; "answered" alone where nothing is said.
_ENDS: dict[str, set[str]] = {
    "copy killed": _STRUCK,
    "copy stopped": {"Sandbox.Timedout"},
    "event that is no JSON": {_REFUSED},
    "copy closed before": {_REFUSED},
    "copy closed meanwhile": _STRUCK | {_REFUSED},
    "disk full": {"answered", "Snapruntime.DiskFull"},
    "supervisor killed": {"answered", "Supervisor.Killed"},
    "spawner killed": _STRUCK | _NO_COPY,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What one request is to be.

    Attributes:
        number: its number.
        request: its ID.
        function: which function it is for.
        fault: what is done to it.
        sabotage: what the function is asked to do wrong; empty for nothing.
        delay: when the fault strikes, as a fraction of the longest.
    """

    number: int
    request: str
    function: str
    fault: str
    sabotage: str
    delay: float

    @classmethod
    def of(cls, seed: int, number: int) -> Plan:
        dice = random.Random(f"{seed}-{number}")
        request = str(uuid.UUID(int=dice.getrandbits(128), version=4))
        at = dice.randrange(1000)
        for fault, share in SHARES.items():
            at -= share
            if at < 0:
                function = dice.choice(["hello", "stateful"])
                return cls(number, request, function, fault, "", dice.random())
        if at < SABOTAGE_SHARE:
            return cls(number, request, "saboteur", "sabotage", dice.choice(sorted(SABOTAGE)), dice.random())
        function = dice.choices(["hello", "stateful", "moody"], [70, 25, 5])[0]
        return cls(number, request, function, "none", "", dice.random())

    def ends(self, *, calm: bool) -> set[str]:
        """How it may end: "answered", "refused: CODE", or the error's name; `calm` where no other fault was about."""
        allowed = _ENDS.get(self.fault, {"answered"})
        if self.fault == "sabotage":
            allowed = SABOTAGE[self.sabotage]
        if self.function == "moody":
            allowed = {"answered", "ValueError", "Runtime.ExitError", "Runtime.Unknown"}
        if self.fault in WEATHER or not calm:
            allowed = allowed | _STRUCK | _NO_COPY | {"Snapruntime.DiskFull"}
        return allowed
