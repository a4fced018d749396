"""The differential comparison: what is equal in all copies and differs between cold starts was made unique at init."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from snapruntime.workflows.check.observe import Run

_TOKENS = re.compile(r"[\w.:+/=-]+|[^\w\s]")
#: A number that was measured is another at each start, and no identity.
_MEASURED = re.compile(
    r"(^|_|\b)(ms|us|ns|secs?|seconds?|millis\w*|duration|elapsed|took|latency|uptime|age)(_|\b|$)", re.I
)
_DAY = 86400


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A value that all copies gave out, and over which cold starts differ.

    Attributes:
        path: "response.token", "log", "/tmp/id.json.id", "request[0].headers.x-id".
        value: what the copies gave out.
        is_time: whether it is a time of day.
    """

    path: str
    value: Any
    is_time: bool

    @property
    def can_be_chance(self) -> bool:
        """Whether it comes from so few possible ones that copies may agree by chance."""
        return (isinstance(self.value, (bool, int, float)) and abs(self.value) < 1 << 20) or len(str(self.value)) < 6


def answered(runs: Sequence[Run]) -> list[Run]:
    """Those to compare: one that failed, or died, lacks what the others gave out. All, where none did better."""
    return [run for run in runs if run.invocation.error is None] or list(runs)


def duplicates(copies: Sequence[Run], colds: Sequence[Run]) -> list[Duplicate]:
    """All of them, in the order of the first copy's output."""
    copies, colds = answered(copies), answered(colds)
    found: list[Duplicate] = []
    if len(copies) < 2:  # One is like itself in everything.
        return found
    for path, value in copies[0].values.items():
        if all(path in run.values and _same(run.values[path], value) for run in copies):
            others = [run.values.get(path) for run in colds]
            if None not in others and _differ(others) and not _is_measured(path, value):
                found.append(Duplicate(path, value, _is_time(value)))
    for name in copies[0].texts:
        found += _in_text(name, [run.texts.get(name, []) for run in copies], [run.texts.get(name, []) for run in colds])
    return found


def _in_text(name: str, copies: Sequence[list[str]], colds: Sequence[list[str]]) -> list[Duplicate]:
    """The same in lines of text: a line of all copies, and its like in each cold start, which differ in a word."""
    found = []
    for line in dict.fromkeys(copies[0]):
        if not all(line in other for other in copies) or any(line in other for other in colds):
            continue
        words = _TOKENS.findall(line)
        likes = [_most_like(words, other) for other in colds]
        if name != "log":  # A cold start's log has init's lines too; files have theirs at the same place.
            likes = [like or _words_at(copies[0], line, other) for like, other in zip(likes, colds, strict=True)]
        for position, word in enumerate(words):
            others = [like[position] if like else None for like in likes]
            if (
                None not in others
                and _differ(others)
                and not _is_measured(" ".join(words[max(0, position - 1) : position + 2]), word)
            ):
                found.append(Duplicate(name, word, _is_time(word)))
    return found


def _most_like(words: list[str], lines: list[str]) -> list[str] | None:
    """Of lines with as many words, the one that shares most; None where none shares half of them."""
    best, most = None, 0.5
    for line in lines:
        others = _TOKENS.findall(line)
        if len(others) == len(words):
            share = sum(a == b for a, b in zip(words, others, strict=True)) / len(words)
            if share >= most:
                best, most = others, share
    return best


def _words_at(lines: list[str], line: str, others: list[str]) -> list[str] | None:
    """The words of the line at the same place in a text of as many lines, where it has as many words."""
    if len(lines) != len(others):
        return None
    words = _TOKENS.findall(others[lines.index(line)])
    return words if len(words) == len(_TOKENS.findall(line)) else None


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def _differ(values: Sequence[Any]) -> bool:
    return len({repr(value) for value in values}) > 1


def _is_measured(path: str, value: Any) -> bool:
    """Whether the name of a number says that it is a duration."""
    text = str(value)
    number = isinstance(value, (int, float)) or re.fullmatch(r"[\d.]+(ms|us|ns|s)?", text) is not None
    return (
        number
        and not _is_time(value)
        and (_MEASURED.search(path) is not None or bool(re.fullmatch(r"[\d.]+(ms|us|ns|s)", text)))
    )


def _is_time(value: Any) -> bool:
    """Whether a value is a time of day of the last day: a number since 1970 in whatever unit, or ISO 8601."""
    now = time.time()
    if isinstance(value, str):
        try:
            moment = datetime.datetime.fromisoformat(value)
        except ValueError:
            if not re.fullmatch(r"\d{10,19}(\.\d+)?", value):
                return False
            value = float(value)
        else:
            value = (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    # By products: a quotient of a number with more than 308 digits is none.
    return any((now - _DAY) * unit < value < (now + _DAY) * unit for unit in (1, 10**3, 10**6, 10**9))
