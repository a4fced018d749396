"""Which runtime hooks are registered, and in which order they run. The interface is AWS's snapshot-restore-py."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeVar

    Hook = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
    F = TypeVar("F", bound=Callable[..., Any])

__all__ = ["get_after_restore", "get_before_snapshot", "register_after_restore", "register_before_snapshot"]

_before_snapshot: list[Hook] = []
_after_restore: list[Hook] = []


def register_before_snapshot(func: F, *args: Any, **kwargs: Any) -> F:
    """Have `func(*args, **kwargs)` called before the snapshot is taken. Returns func: usable as a decorator."""
    _before_snapshot.append((func, args, kwargs))
    return func


def register_after_restore(func: F, *args: Any, **kwargs: Any) -> F:
    """Have `func(*args, **kwargs)` called in every copy, after it is restored. Returns func: usable as a decorator."""
    _after_restore.append((func, args, kwargs))
    return func


def get_before_snapshot() -> list[Hook]:
    """The live list of (func, args, kwargs). Empty once the hooks have run, as on Lambda."""
    return _before_snapshot


def get_after_restore() -> list[Hook]:
    """The live list of (func, args, kwargs)."""
    return _after_restore


def before_snapshot_order() -> Iterator[Hook]:
    """Last registered first, taking each off the list; a hook may register more."""
    while _before_snapshot:
        yield _before_snapshot.pop()


def after_restore_order() -> Iterator[Hook]:
    """First registered first; a hook may register more."""
    yield from _after_restore


def hook_name(func: object) -> str:
    """How messages call it: "handler.connect"."""
    func = getattr(func, "func", func)  # functools.partial
    return f"{getattr(func, '__module__', None)}.{getattr(func, '__qualname__', type(func).__name__)}"
