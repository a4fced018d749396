"""What init read, by an audit hook that watches until the snapshot; what started its threads; and who holds an fd."""

from __future__ import annotations

import gc
import os
import sys
import threading
import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_OWN_DIR = os.path.dirname(os.path.abspath(__file__)) + os.sep
_NOT_INPUT = ("/proc/", "/dev/", "/sys/", "/tmp/", _OWN_DIR)
# modules of the types whose fileno() is safe to call
_HOLDERS = {"socket", "_socket", "ssl", "_io", "select", "psycopg", "psycopg2.extensions"}
_MAX_VISITS = 200_000


class Inputs:
    def __init__(self, task_root: str) -> None:
        self._root = os.path.join(os.path.abspath(task_root), "")
        self._watching = True
        self._read, self._listed = set[str](), set[str]()
        self._opened: dict[str, str | None] = {}
        self._sockets: list[tuple[weakref.ref[Any], str | None]] = []
        self._threads: list[tuple[weakref.ref[Any], str | None]] = []
        sys.addaudithook(self._audit)
        self._start, threads = threading.Thread.start, self._threads

        def start(thread: threading.Thread) -> None:  # there is an audit event for it, but only since Python 3.12
            threads.append((weakref.ref(thread), self.place()))
            self._start(thread)

        self._recording_start, threading.Thread.start = start, start  # type: ignore[method-assign,assignment]

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._watching:
            return  # an audit hook cannot be taken off: after init this is all it costs
        try:
            if event == "socket.__new__":
                self._sockets.append((weakref.ref(args[0]), self.place()))
            elif event in ("os.listdir", "os.scandir"):
                if not sys._getframe(1).f_code.co_filename.startswith("<frozen importlib"):
                    self._listed.add(os.path.abspath(os.fsdecode("." if args[0] is None else args[0])))
            elif event in ("open", "sqlite3.connect", "ctypes.dlopen") and not isinstance(args[0], int):
                path = os.path.abspath((_database if event == "sqlite3.connect" else str)(os.fsdecode(args[0])))
                flags = args[2] if event == "open" else os.O_RDONLY
                if flags & os.O_ACCMODE != os.O_WRONLY and not flags & (os.O_TRUNC | os.O_DIRECTORY):
                    self._read.add(path)
                if not sys._getframe(1).f_code.co_filename.startswith("<frozen"):  # an import
                    self._opened[path] = self.place()
        except Exception:
            return  # else the handler's open() would fail

    def place(self, depth: int = 2) -> str | None:
        """The innermost line of the handler's own code now running, and the import that led there from another file.

        Args:
            depth: how many frames the code that is asked about is away.
        """
        inner = top = None
        frame = sys._getframe(depth)
        while frame:
            name = frame.f_code.co_filename
            if name.startswith(self._root) and "-packages/" not in name:
                place = f"{name[len(self._root) :]}:{frame.f_lineno}"
                inner = inner or place
                if frame.f_code.co_name == "<module>":
                    top = top or place
            frame = frame.f_back  # type: ignore[assignment]
        other = inner and top and inner.split(":")[0] != top.split(":")[0]
        return f"{inner}, from {top}" if other else inner

    def finish(self) -> list[str]:
        """Ends watching. Returns absolute paths: modules loaded and files read, names that could not be opened since
        nothing has them, folders listed; with a slash at the end the folders where imports were looked for, be they
        packages' or what the handler put into sys.path; but nothing of our own nor in /tmp."""
        self._watching = False
        if threading.Thread.start is self._recording_start:
            threading.Thread.start = self._start  # type: ignore[method-assign]
        found = {p for p in self._read if "/__pycache__/" not in p and not os.path.isdir(p)} | self._listed
        files = [getattr(module, "__dict__", {}).get("__file__") for module in list(sys.modules.values())]
        found.update(os.path.abspath(file) for file in files if isinstance(file, str) and os.path.isfile(file))
        searched = [path for path in list(sys.path_importer_cache) if isinstance(path, str)]
        found.update(os.path.join(os.path.abspath(path), "") for path in searched)
        return sorted(p for p in found if f"{p}/".startswith(self._root) or not f"{p}/".startswith(_NOT_INPUT))

    def started_at(self, thread: object) -> str | None:
        """The line that started this thread (None: not known)."""
        return next((place for ref, place in self._threads if ref() is thread), None)

    def describe_fd(self, fd: int, *, owned: bool = True) -> dict[str, Any]:
        """Names of what holds this fd, unless not `owned`: the search takes long; the line that opened it, or None."""
        link = f"/proc/self/fd/{fd}"
        target = os.readlink(link) if os.path.lexists(link) else ""
        place = self._opened.get(target)
        for ref, line in self._sockets:
            if _holds(ref(), fd):
                place = line
        owners, library = _owners(fd) if owned else ([], "")
        return {"fd": fd, "target": target, "owners": owners, "library": library, "opened_at": place}


def _database(name: str) -> str:
    """The file that SQLite opens: of "file:///a%20b.db?mode=ro" /a b.db, the way to one in a read-only folder."""
    if not name.startswith("file:"):
        return name
    first, *rest = os.fsencode(name[5:].removeprefix("//localhost").partition("?")[0].partition("#")[0]).split(b"%")
    return os.fsdecode(first + b"".join(bytes.fromhex(part[:2].decode()) + part[2:] for part in rest))


def _holds(thing: Any, fd: int) -> bool:
    try:
        return any(k.__module__ in _HOLDERS for k in type(thing).__mro__) and bool(thing.fileno() == fd)
    except Exception:
        return False


def _owners(fd: int) -> tuple[list[str], str]:
    """Paths "module:attribute" from all globals, latest import first; breadth first, so that the shortest name wins.
    And the module whose object keeps the first of them, or whose it is."""
    todo: list[tuple[str, int, Any, str]] = []
    for name, module in reversed(list(sys.modules.items())):
        if not name.startswith("_snapruntime_worker"):
            todo += [(f"{name}:{key}", 0, v, "") for key, v in list(getattr(module, "__dict__", {}).items())]
    found, seen, library = [], set(), ""
    for path, depth, thing, above in todo:  # grows while it is walked
        kind = type(thing)
        if id(thing) in seen or issubclass(kind, (type, type(sys), str)):
            continue
        seen.add(id(thing))
        if _holds(thing, fd):
            found.append(f"{path} ({kind.__module__}.{kind.__qualname__})")
            library = library or (above if kind.__module__ in ("socket", "_socket", "ssl", "_io") else kind.__module__)
        elif depth < 6 and len(todo) < _MAX_VISITS:
            if issubclass(kind, dict):
                todo += [
                    (f"{path}[{key!r}]", depth + 1, v, above)
                    for key, v in list(thing.items())
                    if type(key) in (str, int)
                ]
            elif issubclass(kind, (list, tuple)):
                todo += [(f"{path}[{i}]", depth + 1, v, above) for i, v in enumerate(thing)]
            elif any("__dict__" in vars(base) for base in kind.__mro__):
                # Not __dictoffset__: typing.TypeVar has one from Python 3.12 on, and lets nobody in. object's own way,
                # never a __getattr__ of the handler's.
                inside = object.__getattribute__(thing, "__dict__")
                todo += [(f"{path}.{key}", depth + 1, v, kind.__module__) for key, v in list(inside.items())]
    if not found:
        holders = [type(o) for o in gc.get_objects() if _holds(o, fd)]
        found = [f"{kind.__module__}.{kind.__qualname__}" for kind in holders]
        library = holders[0].__module__ if holders else ""
    return found[:5], library
