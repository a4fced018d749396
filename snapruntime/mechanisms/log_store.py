"""The log of each function: records of one line of JSON, in two files that take turns.

    HOME/logs/NAME.jsonl      what is written to
    HOME/logs/NAME.1.jsonl    what was, before that had grown to its limit

A record is `{"time", "type", "record"}` as Lambda's telemetry API has it and, for our own, "text": the lines that stand
for it where the function's log format is Text. Each write is one write(2) of whole lines at the file's end,
so that several processes may write to the same log.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_log = logging.getLogger("snapruntime.logs")
#: A file takes no more than about so many bytes.
FILE_LIMIT = 16 << 20

LOGS = "logs"
Record = dict[str, Any]


class LogStore:
    """The logs of one data folder. Thread-safe.

    Args:
        home: the data folder.
        file_limit: see `FILE_LIMIT`.
    """

    def __init__(self, home: Path, *, file_limit: int = FILE_LIMIT) -> None:
        self._folder = home / LOGS
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._limit = file_limit
        self._lock = threading.Lock()
        self._files: dict[str, int] = {}
        self._losing = False
        #: The logs that end in the midst of a line, where the disk took no more.
        self._torn: set[str] = set()

    def write(self, name: str, records: list[Record]) -> None:
        """Add records to a function's log. What the disk does not take is lost: an answer is worth more."""
        data = b"".join(json.dumps(record).encode() + b"\n" for record in records)
        with self._lock:
            try:
                fd = self._file(name)
                self._append(name, fd, data)
                if os.fstat(fd).st_size >= self._limit:
                    self._turn(name, fd)
            except OSError as error:
                if not self._losing:
                    _log.warning("What functions log is lost until there is room for it (%s): %s", name, error)
                self._losing = True
            else:
                if self._losing:
                    _log.warning("What functions log is kept again.")
                self._losing = False

    def _append(self, name: str, fd: int, data: bytes) -> None:
        """Write it all; where that fails in its midst, what comes next is not to be part of that line."""
        if name in self._torn:
            data = b"\n" + data
        if os.write(fd, data) < len(data):
            self._torn.add(name)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._torn.discard(name)

    def _file(self, name: str) -> int:
        """The descriptor to write to; another process may have begun another file."""
        path = self._folder / f"{name}.jsonl"
        fd = self._files.get(name, -1)
        if fd >= 0:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), path.stat()):
                    return fd
            os.close(self._files.pop(name))
        if len(self._files) >= 64:  # Of many functions only some log at the same time.
            os.close(self._files.pop(next(iter(self._files))))
        self._files[name] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self._files[name]

    def _turn(self, name: str, fd: int) -> None:
        """Begin another file, unless somebody else has."""
        path = self._folder / f"{name}.jsonl"
        fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            if os.path.samestat(os.fstat(fd), path.stat()):
                path.replace(path.with_suffix(".1.jsonl"))
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)

    def has(self, name: str) -> bool:
        """Whether a function of this name has ever logged anything."""
        return (self._folder / f"{name}.jsonl").exists()

    def read(self, name: str) -> list[Record]:
        """All records there are, oldest first."""
        return list(Follower(self._folder, name).records())

    def follow(self, name: str) -> Follower:
        """What reads the records there are, and then those that come."""
        return Follower(self._folder, name)

    def close(self) -> None:
        """Give the descriptors back."""
        with self._lock:
            while self._files:
                os.close(self._files.popitem()[1])


class Follower:
    """Reads a log from its beginning, and goes on where it was, also in the next file."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f"{name}.jsonl"
        self._before = folder / f"{name}.1.jsonl"
        self._inode: int | None = None
        self._offset = 0

    def records(self) -> Iterator[Record]:
        """The records that have come since the last call."""
        for path in (self._before, self._path):
            try:
                file = path.open("rb")
            except FileNotFoundError:
                continue
            with file:
                inode = os.fstat(file.fileno()).st_ino
                if path == self._before and self._inode not in (None, inode):
                    continue  # Has been read when it was the one that is written to.
                if inode != self._inode:
                    self._inode, self._offset = inode, 0
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # Is being written.
                    self._offset += len(line)
                    with contextlib.suppress(ValueError):
                        yield json.loads(line)
