"""After a restore: make random again what every copy of a snapshot would otherwise repeat.

Only what a loaded module keeps for everybody; generators the handler made are its own to reseed (hooks/ has hooks that
do). os.urandom, secrets and uuid4 come from the kernel and never repeat.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from types import ModuleType
    from typing import Any

#: Functions that put a module's generator into a state the caller chose.
_SEEDERS: dict[str, tuple[str, ...]] = {
    "random": ("seed", "setstate"),
    "numpy.random": ("seed", "set_state"),
    "torch": ("manual_seed", "set_rng_state"),
    "polars": ("set_random_seed",),
    "multiprocessing.process": (),  # Its key is looked at in another way.
}


class Seeds:
    """Which of the shared generators init seeded explicitly: a meta path finder, since a state does not tell.

    It wraps their seeding functions when their module is loaded, and takes itself off again in `finish`.

    Attributes:
        seeded: module -> the handler's line, "" where that is not known.
    """

    def __init__(self, place: Callable[[], str | None]) -> None:
        self.seeded: dict[str, str] = {}
        self._place = place
        self._wrapped: list[tuple[ModuleType, str, Any, Any]] = []
        sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in _SEEDERS:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        loader: Any = spec and spec.loader

        def execute(module: ModuleType) -> None:
            del loader.exec_module  # of the instance: the class's own comes to light
            loader.exec_module(module)
            for function in _SEEDERS[name]:
                self._wrap(name, module, function)
            if name == "multiprocessing.process" and hasattr(module, "AuthenticationString"):
                module.current_process().authkey.drawn = True  # what a handler sets instead is another object

        if hasattr(loader, "__dict__"):
            loader.exec_module = execute  # the loader stays what it is: inspect and importlib.resources look at it
        return spec

    def _wrap(self, name: str, module: ModuleType, function: str) -> None:
        original = getattr(module, function, None)
        if not callable(original):
            return  # a handler's own random.py

        def seed(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            self.seeded.pop(name, None)
            if any(value is not None for value in (*args, *kwargs.values())):
                self.seeded[name] = self._place() or ""
            return result

        setattr(module, function, seed)
        self._wrapped.append((module, function, original, seed))

    def finish(self) -> None:
        sys.meta_path.remove(self)
        for module, function, original, seed in self._wrapped:
            if getattr(module, function) is seed:
                setattr(module, function, original)


def renew(keep: Collection[str] = ()) -> list[str]:
    """Returns the names of the modules put right. A failure (a handler's own `random.py`, say) is passed over.

    Args:
        keep: modules whose state is left as it is in the snapshot.
    """
    renewed = []
    for name, fix in _FIXES.items():
        if name in sys.modules and name not in keep:
            try:
                fix(sys.modules[name])
            except Exception:
                continue
            renewed.append(name)
    return renewed


def _uuid(module: ModuleType) -> None:
    node = int.from_bytes(os.urandom(6), "big") | 1 << 40  # RFC 4122: a random node has the multicast bit
    # _generate_time_safe is libuuid, which would go on with the host's MAC and its own frozen clock sequence
    vars(module).update(_node=node, _last_timestamp=None, _generate_time_safe=None)


def _multiprocessing(module: ModuleType) -> None:
    """Another key for what authenticates by the key that the module drew; a key that was set is a shared secret."""
    key = module.current_process().authkey
    if not getattr(key, "drawn", False) or module._children:
        return  # Children have inherited it: they would not let us in any more.
    fresh = type(key)(os.urandom(32))
    fresh.drawn = True
    for process in (module.current_process(), *module._dangling):  # Those made, and not started yet, have it too.
        if process._config.get("authkey") is key:
            process._config["authkey"] = fresh


_FIXES: dict[str, Callable[[Any], object]] = {
    "random": lambda module: module.seed(),
    "_ssl": lambda module: module.RAND_add(os.urandom(48), 48.0),  # OpenSSL looks at the PID, 1 in every copy
    # The cryptography package brings an OpenSSL of its own; the keys that it generates would repeat.
    "cryptography.hazmat.bindings._rust": lambda module: module._openssl.lib.RAND_add(os.urandom(48), 48, 48.0),
    "numpy.random": lambda module: module.seed(),
    "torch": lambda module: module.seed(),
    # Seeds itself once, then counts on; sample, shuffle and sinks draw from it.
    "polars": lambda module: module.set_random_seed(int.from_bytes(os.urandom(8), "big")),
    "tempfile": lambda module: setattr(module, "_name_sequence", None),  # looks at the PID too; made anew when needed
    "uuid": _uuid,
    "multiprocessing.process": _multiprocessing,
}
