"""What init read, by an audit hook that watches until the snapshot; and who holds an fd, by a search of the objects."""

from __future__ import annotations

import gc
import os
import sys
import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_OWN_DIR = os.path.dirname(os.path.abspath(__file__)) + os.sep
_NOT_INPUT = ("/proc/", "/dev/", "/sys/", "/tmp/", _OWN_DIR)
_HOLDERS = {"socket", "_socket", "ssl", "_io", "select"}  # modules of the types whose fileno() is safe to call
_MAX_VISITS = 200_000


class Inputs:
    def __init__(self, task_root: str) -> None:
        self._root = os.path.join(os.path.abspath(task_root), "")
        self._watching = True
        self._read: set[str] = set()
        self._opened: dict[str, str | None] = {}
        self._sockets: list[tuple[weakref.ref[Any], str | None]] = []
        sys.addaudithook(self._audit)

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._watching:
            return  # an audit hook cannot be taken off: after init this is all it costs
        try:
            if event == "socket.__new__":
                self._sockets.append((weakref.ref(args[0]), self._place()))
            elif event in ("open", "sqlite3.connect", "ctypes.dlopen") and not isinstance(args[0], int):
                path = os.path.abspath(os.fsdecode(args[0]))
                flags = args[2] if event == "open" else os.O_RDONLY
                if flags & os.O_ACCMODE != os.O_WRONLY and not flags & (os.O_TRUNC | os.O_DIRECTORY):
                    self._read.add(path)
                if not sys._getframe(1).f_code.co_filename.startswith("<frozen"):  # an import
                    self._opened[path] = self._place()
        except Exception:
            return  # else the handler's open() would fail

    def _place(self) -> str | None:
        """The innermost line of the handler's own code now running, and the import that led there from another file."""
        inner = top = None
        frame = sys._getframe(2)
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
        """Ends watching. Returns the absolute paths of modules loaded and files read, but not our own nor in /tmp."""
        self._watching = False
        found = {path for path in self._read if "/__pycache__/" not in path}
        files = [getattr(module, "__dict__", {}).get("__file__") for module in list(sys.modules.values())]
        found.update(os.path.abspath(file) for file in files if isinstance(file, str))
        return sorted(
            p for p in found if (p.startswith(self._root) or not p.startswith(_NOT_INPUT)) and os.path.isfile(p)
        )

    def describe_fd(self, fd: int) -> dict[str, Any]:
        """Names of what holds this fd and the line that opened it (None: not known)."""
        link = f"/proc/self/fd/{fd}"
        target = os.readlink(link) if os.path.lexists(link) else ""
        place = self._opened.get(target)
        for ref, line in self._sockets:
            if _holds(ref(), fd):
                place = line
        return {"fd": fd, "target": target, "owners": _owners(fd), "opened_at": place}


def _holds(thing: Any, fd: int) -> bool:
    try:
        return any(k.__module__ in _HOLDERS for k in type(thing).__mro__) and bool(thing.fileno() == fd)
    except Exception:
        return False


def _owners(fd: int) -> list[str]:
    """Attribute paths from the modules' globals, latest import first; breadth first, so that the shortest name wins."""
    todo: list[tuple[str, int, Any]] = []
    for name, module in reversed(list(sys.modules.items())):
        if not name.startswith("_snapruntime_worker"):
            todo += [(f"{name}.{key}", 0, value) for key, value in list(getattr(module, "__dict__", {}).items())]
    found, seen = [], set()
    for path, depth, thing in todo:  # grows while it is walked
        kind = type(thing)
        if id(thing) in seen or issubclass(kind, (type, type(sys), str)):
            continue
        seen.add(id(thing))
        if _holds(thing, fd):
            found.append(f"{path} ({kind.__module__}.{kind.__qualname__})")
        elif depth < 6 and len(todo) < _MAX_VISITS:
            if issubclass(kind, dict):
                todo += [
                    (f"{path}[{key!r}]", depth + 1, v) for key, v in list(thing.items()) if type(key) in (str, int)
                ]
            elif issubclass(kind, (list, tuple)):
                todo += [(f"{path}[{i}]", depth + 1, v) for i, v in enumerate(thing)]
            elif kind.__dictoffset__:  # object's own way in, never a __getattr__ of the handler's
                inside = object.__getattribute__(thing, "__dict__")
                todo += [(f"{path}.{key}", depth + 1, v) for key, v in list(inside.items())]
    if not found:
        found = [f"{type(o).__module__}.{type(o).__qualname__}" for o in gc.get_objects() if _holds(o, fd)]
    return found[:5]
