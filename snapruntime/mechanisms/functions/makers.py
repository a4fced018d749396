"""Who is at work: whether the process that was to make a snapshot still lives.

    HOME/functions/makers/ID    a lock on it is held by the process that goes by this name

A lock of flock(2) ends with its process, however that ends, and is seen from other PID namespaces, where its PID would
mean nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import uuid
from pathlib import Path

from snapruntime.mechanisms.folders import try_lock


class Makers:
    """The names of those who make snapshots.

    Args:
        root: the folder of the locks; it must exist.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._name = ""
        self._held = -1

    def me(self) -> str:
        """Our own name; others see us live from here on, until `close` or our end."""
        with self._lock:
            while not self._name:
                name = uuid.uuid4().hex
                self._held = os.open(self._root / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                if try_lock(self._held, fcntl.LOCK_EX) and (self._root / name).exists():
                    self._name = name
                else:  # Somebody who clears up saw it before it was locked.
                    os.close(self._held)
            return self._name

    def is_alive(self, name: str) -> bool:
        """Whether whoever went by this name lives. The lock of one who does not is removed."""
        if not name:
            return False
        path = self._root / name
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                if not try_lock(lock, fcntl.LOCK_EX):
                    return True
                path.unlink(missing_ok=True)
            finally:
                os.close(lock)
        return False

    def clear(self) -> None:
        """Remove the locks of all who are dead."""
        for path in self._root.iterdir():
            self.is_alive(path.name)

    def close(self) -> None:
        with self._lock:
            if self._held >= 0:
                (self._root / self._name).unlink(missing_ok=True)
                os.close(self._held)
            self._name, self._held = "", -1
