"""What a first call touches: learnt from the first copies that answer, brought in ahead where a copy is made ahead."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

from snapruntime.mechanisms.process import Process, Spawner
from snapruntime.mechanisms.spawner import ROOM
from snapruntime.mechanisms.store import IMAGES, StoredSnapshot
from snapruntime.mechanisms.touched import Touched, keep, recall, scan, write_images
from snapruntime.values.host import Criu

#: So many copies are looked at: events differ, and so does what they touch. It costs each a millisecond, once answered.
_COPIES = 3


class FirstTouch:
    """The first touch of the copies of one snapshot. Safe for use by several threads; nothing of it ever fails.

    Bringing pages in costs a restore about as much as it spares the first call, and memory: it is for copies that are
    restored before they are needed.
    """

    def __init__(self, home: Path, criu: Criu, spawner: Spawner, stored: StoredSnapshot, name: str) -> None:
        """
        Args:
            home: the data folder.
            name: that of the sandbox; in its folder, which the spawner takes away, are the images.
        """
        self._home = home
        self._criu = criu
        self._spawner = spawner
        self._stored = stored
        self._folder = f"{ROOM}/{name}/first-touch"
        self._lock = threading.Lock()
        self._known: Touched = recall(home, stored.id)
        self._folders: list[int] = []
        self._written = 0  # How many copies the latest of them knows of.
        self._useless = not stored.manifest["memory"]["mapped"]  # Copies that read their memory have it all.

    def learn(self, process: Process) -> None:
        """Note what a copy has touched that has just answered for the first time."""
        with self._lock:
            if self._useless or self._known.copies >= _COPIES:
                return
            with contextlib.suppress(OSError):
                touched = scan(process.pid)
                if process.alive():  # Else the PID may have been another's.
                    self._known = self._known.and_also(touched)
                    keep(self._home, self._stored.id, self._known)

    def images(self) -> int | None:
        """The folder of images that bring in what is known, open until `close`; None where there are none."""
        with self._lock:
            if not self._useless and self._written != self._known.copies:
                self._written = self._known.copies
                folder = self._spawner.path(f"{self._folder}-{self._written}")
                with contextlib.suppress(OSError):
                    if write_images(self._criu, self._stored.folder / IMAGES, self._known, folder):
                        self._folders.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            return self._folders[-1] if self._folders and not self._useless else None

    def give_up(self) -> None:
        """They could not be restored: there are none from here on."""
        self._useless = True

    def close(self) -> None:
        """Give all descriptors back."""
        with self._lock:
            self._useless = True
            while self._folders:
                os.close(self._folders.pop())
