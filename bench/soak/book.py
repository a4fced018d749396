"""Who asked for what, and what became of it: every request exactly once."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """A request that is accounted for.

    Attributes:
        function: what it was for.
        fault: what was done to it.
        outcome: "answered", "failed" or "refused".
        error: the name of the error; empty where it was answered.
    """

    function: str
    fault: str
    outcome: str
    error: str = ""


class Book:
    """All requests. Safe for use by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[str] = set()
        self._seen: set[str] = set()
        self.entries: Counter[Entry] = Counter()
        self.wrong: list[str] = []

    def opened(self, request: str) -> None:
        """A request is made."""
        with self._lock:
            if request in self._seen:
                self.wrong.append(f"{request} was made twice")
            self._seen.add(request)
            self._open.add(request)

    def closed(self, request: str, entry: Entry, wrong: str = "") -> None:
        """A request has its end; `wrong` says what about that end was not as it should be."""
        with self._lock:
            if request not in self._open:
                self.wrong.append(f"{request} ended twice")
            self._open.discard(request)
            self.entries[entry] += 1
            if wrong:
                self.wrong.append(f"{request} ({entry.function}, {entry.fault}): {wrong}")

    def unaccounted(self) -> list[str]:
        """Requests without an end."""
        with self._lock:
            return sorted(self._open)

    def count(self, **wanted: str) -> int:
        """How many requests have these attributes."""
        return sum(
            number
            for entry, number in self.entries.items()
            if all(getattr(entry, name) == value for name, value in wanted.items())
        )


class Weather:
    """Faults that may hit whoever is about, not just the request they were made for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active = 0
        self._begun = 0

    def __enter__(self) -> None:
        with self._lock:
            self._active += 1
            self._begun += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._active -= 1

    def mark(self) -> tuple[int, int]:
        """To be compared by `calm_since`."""
        with self._lock:
            return self._begun, self._active

    def calm_since(self, mark: tuple[int, int]) -> bool:
        """Whether there was none at the time of `mark` and none since."""
        return mark[1] == 0 and self.mark()[0] == mark[0]
