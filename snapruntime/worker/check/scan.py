"""The objects of a function, from the globals of its own modules on: what in them must not be the same in two copies.

The scan only describes: what a thing is, how it is reached, a digest of its value. Whether that is wrong is seen by
comparing the scans of several processes, which the host does.
"""

from __future__ import annotations

import gc
import os
import re
import sys
import threading
import time

from . import kinds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ..inputs import Inputs

MAX_DEPTH, MAX_VISITS, MAX_ITEMS, MAX_SECONDS = 9, 100_000, 1000, 3.0
#: Credentials that expire. Other secrets that a function keeps are configuration: the same at each start.
_SECRET = re.compile("AWS_SECRET_ACCESS_KEY|AWS_SESSION_TOKEN")
_PLAIN = (dict, list, tuple, set, frozenset)
#: Links of objects to things that are not theirs: the logging module's tree, classes, modules, the interpreter's own.
_NOT_FOLLOWED = frozenset({"manager", "parent", "__module__", "__dict__", "__weakref__", "__doc__", "__annotations__"})


class _Found:
    """One object on the way: how it is reached, and whose it is.

    Attributes:
        path: for people: "handler.client._pool[0]".
        source: [file, global name, class or None, attribute or None] of the assignment that made it, as far as known.
        own: whether the function's own containers and classes alone lead to it.
        heals: whether a library on the way makes dead connections anew.
        pooled: whether a connection pool keeps it.
        hook: the ready-made hook for it, or for what holds it; empty where there is none.
        cached: whether an lru_cache keeps it.
    """

    __slots__ = ("cached", "depth", "heals", "hook", "own", "path", "pooled", "source", "thing")
    depth: int
    own: bool
    heals: bool
    pooled: bool
    hook: str
    cached: bool

    def __init__(self, thing: Any, path: str, source: list[str | None], above: _Found | None = None) -> None:
        self.thing, self.path, self.source = thing, path, source
        self.depth = above.depth + 1 if above else 0
        self.own = above.own if above else True
        self.heals = above.heals if above else False
        self.pooled = above.pooled if above else False
        self.hook = above.hook if above else ""
        self.cached = above.cached if above else False


class _Scan:
    def __init__(self, task_root: str, inputs: Inputs) -> None:
        self.root = os.path.join(os.path.realpath(task_root), "")
        self.inputs = inputs
        self.libraries = _vendored(self.root)
        self.folders: dict[str, str] = {}
        self.own_files: dict[str, bool] = {}
        self.items: list[dict[str, Any]] = []
        self.truncated = False
        self.secrets = {
            value: name for name, value in os.environ.items() if len(value) >= 8 and _SECRET.search(name)
        }  # fmt: skip

    def is_own(self, module: str | None) -> bool:
        """Whether a module is the function's: below its folder, and not one of a library that lies there too."""
        file = getattr(sys.modules.get(module or ""), "__file__", None)
        if not isinstance(file, str) or not (os.path.isabs(file) or os.path.exists(file)):
            return False  # Made by a program, and named as it liked: torch's `_classes.py`.
        if file not in self.own_files:
            self.own_files[file] = self._is_own_file(file)
        return self.own_files[file]

    def _is_own_file(self, file: str) -> bool:
        # Folder by folder: thousands of modules lie in a few, and each step of a realpath is a call of the system.
        folder, name = os.path.split(file)
        if folder not in self.folders:
            self.folders[folder] = os.path.realpath(folder)
        file = os.path.realpath(file) if os.path.islink(file) else os.path.join(self.folders[folder], name)
        if not file.startswith(self.root) or "-packages/" in file:
            return False
        return file[len(self.root) :].split("/")[0].split(".")[0] not in self.libraries

    def walk(self) -> None:
        """Breadth first. By type(), never isinstance(): that would run the __getattribute__ of objects."""
        ends = time.monotonic() + MAX_SECONDS
        todo = [*self._globals()]
        seen = kinds.keepers() | {id(None), id(sys.modules), id(os.environ)}
        keep = []  # What is made on the way must live on, or its id could be another's.
        for found in todo:  # Grows while it is walked: breadth first, so that the shortest path wins.
            if len(todo) > MAX_VISITS or time.monotonic() > ends:
                self.truncated = True
                break
            thing, kind = found.thing, type(found.thing)
            # What a library's object holds is reported by its kind alone: nobody asks for its digest.
            plain = kinds.value_of(thing, kind) if found.own and kind in (str, bytes, int, float) else None
            if plain is None and kind not in (str, bytes, int, float, bool):
                at = id(thing)  # Once: Python tells audit hooks of each, and the worker has one.
                if at in seen:
                    continue
                seen.add(at)
                keep.append(thing)
            try:
                if not self._report(found, kind, plain) and found.depth < MAX_DEPTH:
                    todo += self._inside(found, kind)
            except BaseException:
                continue  # An object that does not let itself be looked at, or ends who does.

    def _globals(self) -> Iterator[_Found]:
        for name, module in list(sys.modules.items()):
            if self.is_own(name):
                file = os.path.realpath(str(module.__file__))
                for key, value in list(vars(module).items()):
                    if not (key.startswith("__") or issubclass(type(value), type(sys))):
                        yield _Found(value, f"{name}.{key}", [file, key, None, None])

    def _report(self, found: _Found, kind: type, plain: tuple[str, str] | None) -> bool:
        """Add an item for what is of interest by itself; True where there is no need to look inside."""
        thing = found.thing
        if plain is not None or kind in (str, bytes, int, float, bool):
            if plain is not None:
                self._add(found, plain[0], digest=plain[1], **self._about_text(thing))
            return True
        names = kinds.names_of(kind)
        found.hook = next((kinds.HOOKS[name] for name in names if name in kinds.HOOKS), found.hook)
        state = kinds.generator_state(thing, names)
        if state is not None:
            self._add(found, "generator", digest=state)
            return True
        value = kinds.value_of(thing, kind)
        if value is not None:
            if found.own:
                self._add(found, value[0], digest=value[1])
            return True
        found.heals = found.heals or kinds.heals(thing, names)
        found.pooled = found.pooled or not kinds.POOLS.isdisjoint(names)
        resource = kinds.resource_of(thing, names)
        if resource is not None:
            fd = resource[1].get("fd")
            place = None if fd is None else self.inputs.describe_fd(fd, owned=False)["opened_at"]
            self._add(found, resource[0], place=place, **resource[1])
            return True
        return bool(kind.__module__ in ("_io", "_thread", "_weakref"))

    def _about_text(self, thing: Any) -> dict[str, Any]:
        """Whether a value is a secret of the environment, or the name of a temporary file."""
        secret = self.secrets.get(thing) if type(thing) is str else None
        temporary = type(thing) is str and thing.startswith("/tmp/") and os.path.lexists(thing)
        return ({"secret": secret} if secret else {}) | ({"temporary": True} if temporary else {})

    def _add(self, found: _Found, kind: str, **details: Any) -> None:
        described = {"path": found.path, "kind": kind, "type": _name(type(found.thing)), "source": found.source}
        marks = {"heals": found.heals, "pooled": found.pooled, "hook": found.hook, "cached": found.cached}
        self.items.append({**described, **marks, **details})

    def _inside(self, found: _Found, kind: type) -> Iterator[_Found]:
        thing, path, source = found.thing, found.path, found.source
        if issubclass(kind, dict):
            for key, value in list(thing.items())[:MAX_ITEMS]:
                shown = repr(key) if type(key) in (str, int) and len(repr(key)) < 60 else f"<{_name(type(key))}>"
                yield _Found(value, f"{path}[{shown}]", source, found)
        elif issubclass(kind, (set, frozenset)):
            for value in sorted(thing, key=repr)[:MAX_ITEMS]:
                yield _Found(value, f"{path}{{…}}", source, found)
        elif issubclass(kind, (list, tuple)) or _name(kind) == "collections.deque":
            fields = getattr(kind, "_fields", ())
            for index, value in enumerate(list(thing)[:MAX_ITEMS]):
                yield _Found(value, f"{path}.{fields[index]}" if fields else f"{path}[{index}]", source, found)
        elif kind.__name__ == "_lru_cache_wrapper":
            yield from self._cached(found)
        elif kind.__name__ == "function":
            if self.is_own(thing.__module__):
                yield from self._function(found)
        elif kind.__name__ in ("method", "builtin_function_or_method"):
            if not issubclass(type(thing.__self__), type(sys)):
                yield _Found(thing.__self__, f"{path}.__self__", source, found)
        elif kind.__name__ == "partial":
            for index, value in enumerate([thing.func, *thing.args, *thing.keywords.values()]):
                yield _Found(value, f"{path}.partial[{index}]", source, found)
        elif issubclass(kind, type):
            if self.is_own(thing.__module__):
                yield from self._attributes(found, dict(vars(thing)), thing)
        elif not issubclass(kind, type(sys)):
            if not self.is_own(kind.__module__) and kind.__module__ != "types":
                found.own = False
            yield from self._attributes(found, _attributes_of(thing, kind), kind)
        if issubclass(kind, _PLAIN) and kind not in _PLAIN and kind.__dictoffset__:
            yield from self._attributes(found, _attributes_of(thing, kind), kind)

    def _attributes(self, found: _Found, attributes: dict[str, Any], kind: type) -> Iterator[_Found]:
        module = sys.modules.get(kind.__module__)
        own = self.is_own(kind.__module__)
        for key, value in attributes.items():
            if key not in _NOT_FOLLOWED and not issubclass(type(value), type(sys)):
                source = found.source
                if own and module is not None:
                    source = [os.path.realpath(str(module.__file__)), source[1], kind.__qualname__, key]
                yield _Found(value, f"{found.path}.{key}", source, found)

    def _function(self, found: _Found) -> Iterator[_Found]:
        function, source = found.thing, found.source
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):  # noqa: B905 (Python 3.9)
            try:
                yield _Found(cell.cell_contents, f"{found.path}.<{name}>", source, found)
            except ValueError:
                continue  # An empty cell.
        defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        for index, value in enumerate(defaults):
            yield _Found(value, f"{found.path}.<default {index}>", source, found)
        yield from self._attributes(found, dict(vars(function)), type(function))

    def _cached(self, found: _Found) -> Iterator[_Found]:
        """What an lru_cache keeps: its dictionary is seen by the garbage collector only."""
        if not self.is_own(getattr(found.thing, "__module__", None)):
            return
        kept: list[Any] = []
        for thing in gc.get_referents(found.thing):
            if type(thing) is not dict:
                kept.append(thing)  # A bounded cache shows the collector each key and result.
            elif thing is not getattr(found.thing, "__dict__", None):
                kept += [value for value in thing.values() if type(value).__name__ != "_lru_list_elem"]
        for number, value in enumerate(kept[:MAX_ITEMS]):
            below = _Found(value, f"{found.path}.<cached {number}>", found.source, found)
            below.cached = value is not getattr(found.thing, "__wrapped__", None)
            yield below

    def others(self) -> None:
        """What no global needs to hold: threads, child processes, credentials in the environment."""
        for thread in threading.enumerate():
            target = getattr(thread, "_target", None) or getattr(type(thread), "run", None)
            code = getattr(getattr(target, "__func__", target), "__code__", None)
            own = code is not None and self.is_own(getattr(target, "__module__", None))
            if thread is not threading.main_thread() and code is not None and (own or hasattr(thread, "finished")):
                place = [os.path.realpath(code.co_filename), None, None, None] if own else None
                self.items.append(
                    {"path": f"thread {thread.name}", "kind": "thread", "type": _name(type(thread)), "source": place}
                    | ({"line": code.co_firstlineno, "function": f"{target.__module__}.{code.co_name}"} if own else {})
                )
        known = {item["pid"] for item in self.items if item["kind"] == "child"}
        for task in os.listdir("/proc/self/task"):
            try:
                with open(f"/proc/self/task/{task}/children", encoding="ascii") as file:
                    children = [int(pid) for pid in file.read().split()]
            except OSError:
                continue
            for pid in children:
                if pid not in known:
                    self.items.append(
                        {"path": f"child process {pid}", "kind": "child", "type": "process", "source": None}
                    )
        if os.environ.get("AWS_SECRET_ACCESS_KEY"):
            self.items.append(
                {"path": "os.environ['AWS_SECRET_ACCESS_KEY']", "kind": "environment", "type": "str", "source": None}
            )


def scan(task_root: str, inputs: Inputs) -> dict[str, Any]:
    """items (see `_Scan._add`), shared (states of shared generators), files (of its own modules), sqlite (whether it is
    loaded), truncated, ms."""
    started = time.perf_counter()
    shared = kinds.shared_generators()  # First: the scan itself must not have drawn from them.
    one = _Scan(task_root, inputs)
    one.walk()
    one.others()
    ms = round((time.perf_counter() - started) * 1000, 1)
    files = [os.path.realpath(str(module.__file__)) for name, module in list(sys.modules.items()) if one.is_own(name)]
    return {
        "items": one.items,
        "shared": shared,
        "files": files,
        "sqlite": "_sqlite3" in sys.modules,
        "truncated": one.truncated,
        "ms": ms,
    }


def _attributes_of(thing: Any, kind: type) -> dict[str, Any]:
    """The attributes that an object itself holds: its __dict__ and slots, never by a __getattr__ of its own."""
    found: dict[str, Any] = {}
    if any("__dict__" in vars(base) for base in kind.__mro__):  # See `..inputs`: __dictoffset__ does not tell.
        found.update(object.__getattribute__(thing, "__dict__"))
    for base in kind.__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            member: Any = vars(base).get(name)
            if type(member).__name__ == "member_descriptor":
                try:
                    found[name] = member.__get__(thing)
                except AttributeError:
                    continue  # Not set.
    return found


def _vendored(root: str) -> set[str]:
    """The libraries that lie in the function's own folder, as `pip install --target` leaves them: by their metadata."""
    found: set[str] = set()
    for entry in os.listdir(root):
        if entry.endswith(".dist-info"):
            try:
                with open(f"{root}{entry}/RECORD", encoding="utf-8") as file:
                    found.update(line.split("/")[0].split(",")[0].split(".")[0] for line in file)
            except OSError:
                continue
    return found


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
