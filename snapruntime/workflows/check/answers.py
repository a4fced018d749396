"""What a process tells of itself, held to its form: the function's code can answer in the worker's place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_Is = Callable[[Any], bool]
#: No source has more lines than this.
_MAX_LINE = 10**7


def _is(*kinds: type) -> _Is:
    return lambda value: type(value) in kinds  # True is no number here.


def _list_of(is_proper: _Is) -> _Is:
    return lambda value: type(value) is list and all(map(is_proper, value))


def _texts_by_name(value: Any) -> bool:
    return type(value) is dict and all(map(_is(str), value.values()))


def _is_duration(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 1e9


def _is_line(value: Any) -> bool:
    return type(value) is int and 0 < value < _MAX_LINE


def _is_source(value: Any) -> bool:
    return value is None or (_list_of(_is(str, type(None)))(value) and len(value) == 4)


def _is_place(value: Any) -> bool:
    return value is None or (type(value) is list and len(value) == 2 and type(value[0]) is str and _is_line(value[1]))


def _has(value: Any, fields: Mapping[str, _Is], optional: Mapping[str, _Is] | None = None) -> bool:
    return (
        type(value) is dict
        and all(name in value and is_proper(value[name]) for name, is_proper in fields.items())
        and all(is_proper(value[name]) for name, is_proper in (optional or {}).items() if name in value)
    )


_ITEM = {"path": _is(str), "kind": _is(str), "type": _is(str), "source": _is_source}
_MARKS = {"heals": _is(bool), "pooled": _is(bool), "hook": _is(str), "cached": _is(bool)}
_DETAILS = {
    **dict.fromkeys(("digest", "secret", "what", "name", "function", "method"), _is(str)),
    **dict.fromkeys(("temporary", "alive"), _is(bool)),
    "place": _is(str, type(None)),
    "line": _is_line,
    "scheduled": _is(int),
}
#: Kinds of things that have a digest, and no others have one; of these and of connections more is asked.
_WITH_DIGEST = ("value", "number", "time", "generator")
_MARKED = (*_WITH_DIGEST, "connection", "tls")


def _is_item(value: Any) -> bool:
    return (
        _has(value, _ITEM, {**_MARKS, **_DETAILS})
        and ("digest" in value) == (value["kind"] in _WITH_DIGEST)
        and (value["kind"] not in _MARKED or _has(value, _MARKS))
        and ("line" not in value or bool(value["source"] and value["source"][0]))
    )


_SCAN = {
    "items": _list_of(_is_item),
    "shared": _texts_by_name,
    "files": _list_of(_is(str)),
    "sqlite": _is(bool),
    "truncated": _is(bool),
    "ms": _is_duration,
}
_REQUEST = {"target": _is(str), "headers": _texts_by_name}
_SEEN = {
    "requests": _list_of(lambda value: _has(value, _REQUEST)),
    "dead": _list_of(lambda value: _has(value, {"error": _is(str), "place": _is_place})),
}


def scan_of(answer: Any) -> dict[str, Any] | None:
    """The answer to "scan", see `snapruntime.worker.check.scan.scan`; None where it is none."""
    return answer if _has(answer, _SCAN) else None


def seen_of(answer: Any) -> dict[str, Any] | None:
    """The answer to "seen", see `snapruntime.worker.check.watch.seen`; None where it is none."""
    return answer if _has(answer, _SEEN) else None


def printable(text: str) -> str:
    """A text that can be shown: escape sequences of terminals, NUL, and halves of characters become their escapes."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode() for char in text
    )
