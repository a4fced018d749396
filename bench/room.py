"""Where the benchmark keeps its snapshots: apart from the user's, which it must neither use nor push out."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from snapruntime import HostError


@contextlib.contextmanager
def own_home(home: Path) -> Iterator[Path]:
    """A data folder for the benchmark's own snapshots, with the CRIU of `home`; emptied of its gigabytes afterwards.

    Raises:
        HostError: another benchmark uses it, or it cannot be made.
    """
    folder = home / "bench"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(
            f"The folder {folder} cannot be used: {error.strerror}.", hint="Name another --home."
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HostError(
                f"Another benchmark runs in {folder}.", hint="Wait for its end, or use another --home."
            ) from None
        _empty(folder)  # What a run left that was killed.
        if (home / "criu").is_dir():
            (folder / "criu").symlink_to((home / "criu").resolve())
        try:
            yield folder
        finally:
            _empty(folder)
    finally:
        os.close(lock)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
