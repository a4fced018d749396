"""What a function has answered, counted from its log."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from snapruntime.mechanisms.log_store import Record


@dataclass(slots=True)
class WayStatistics:
    """The answers that came about in one way.

    Attributes:
        times: from the call to the answer, milliseconds.
        errors: how many of them were errors.
    """

    times: list[float] = field(default_factory=list)
    errors: int = 0

    def percentile(self, share: float) -> float:
        """The time within which this share of them came."""
        ordered = sorted(self.times)
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(slots=True)
class Statistics:
    """All answers of a function.

    Attributes:
        ways: by how they came about.
        errors: how often each type of error was the answer, or kept a process from its start.
        not_started: requests for which no process came to life.
        max_memory_mb: the most memory that was used.
        memory_mb: the memory size.
        since: when the first of all these was.
    """

    ways: dict[str, WayStatistics] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    not_started: int = 0
    max_memory_mb: int = 0
    memory_mb: int = 0
    since: str = ""

    @property
    def answers(self) -> int:
        return sum(len(way.times) for way in self.ways.values())

    def document(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {
            "answers": self.answers,
            "since": self.since,
            "notStarted": self.not_started,
            "errors": dict(self.errors),
            "maxMemoryUsedMB": self.max_memory_mb,
            "memorySizeMB": self.memory_mb,
            "ways": {
                name: {
                    "answers": len(way.times),
                    "errors": way.errors,
                    **{f"p{int(share * 100)}Ms": way.percentile(share) for share in (0.5, 0.95, 0.99)},
                    "maxMs": way.percentile(1.0),
                }
                for name, way in self.ways.items()
            },
        }


def summarise(records: Iterable[Record], version: str | None) -> Statistics:
    """Count the reports of requests in a log.

    Args:
        records: the log.
        version: only this version's.
    """
    found = Statistics()
    for one in records:
        if not one["type"].startswith("platform.") or (ours := one["record"].get("snapruntime")) is None:
            continue
        if version is not None and ours["version"] != version:
            continue
        record, metrics = one["record"], one["record"]["metrics"]
        found.since = found.since or one["time"]
        if one["type"] != "platform.report":
            found.not_started += 1
            found.errors[str(record["errorType"])] += 1
            continue
        way = found.ways.setdefault(ours["way"], WayStatistics())
        way.times.append(ours["totalMs"])
        if record["status"] != "success":
            way.errors += 1
            found.errors[str(record.get("errorType"))] += 1
        found.max_memory_mb = max(found.max_memory_mb, metrics["maxMemoryUsedMB"])
        found.memory_mb = metrics["memorySizeMB"]
    return found
