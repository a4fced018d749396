"""`make soak`: many invocations with faults; exit status 0 where nothing was lost, left behind or answered wrongly.

Needs root and a CRIU that `snapruntime setup` has provided. Mounts are made in a mount namespace of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from snapruntime import Runtime
from snapruntime.mechanisms import linux
from snapruntime.mechanisms.store import data_home

from .counts import differences
from .report import Result, write
from .run import Soak, facts

#: What its data folder may hold, bytes: some hundred snapshots would; it is also what the disk-full fault fills.
_HOME_SIZE = 768 << 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m snapruntime.bench.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--invocations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=3)
    parser.add_argument("--limit", type=float, default=600.0, help="seconds until it must have ended")
    parser.add_argument("--report", type=Path, help="write PATH.md and PATH.json")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="snapruntime-soak-") as folder, _mounted(Path(folder)) as home:
        deadline = began + options.limit - 20
        with Runtime(home) as runtime:
            soak = Soak(home, runtime, options.seed, lambda line: print(line, file=sys.stderr, flush=True))
            with soak.opened():
                # What is loaded or cached at the first use of each path belongs to the start.
                warm = max(20, options.invocations // 20)
                soak.requests(range(warm), options.threads, deadline)
                before = soak.quiesce()
                soak.requests(range(warm, options.invocations), options.threads, deadline)
                after = soak.quiesce()
    result = Result(
        command=" ".join(["python -m snapruntime.bench.soak", *sys.argv[1:]]),
        host=facts(),
        seed=options.seed,
        wanted=options.invocations,
        limit=options.limit,
        seconds=round(time.monotonic() - began, 1),
        kills=soak.kills,
        entries=dict(soak.book.entries),
        wrong=soak.book.wrong,
        unaccounted=soak.book.unaccounted(),
        before=before,
        after=after,
        leaked=differences(before, after),
    )
    print(write(result, options.report))
    return 0 if result.passed else 1


@contextlib.contextmanager
def _mounted(home: Path) -> Iterator[Path]:
    """A data folder on a file system of its own, seen by nobody else, with the CRIU of the user's own data folder."""
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    linux.mount("tmpfs", str(home), "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, f"mode=0755,size={_HOME_SIZE}")
    try:
        if (data_home() / "criu").is_dir():
            shutil.copytree(data_home() / "criu", home / "criu", symlinks=True)
        yield home
    finally:
        linux.umount(str(home))


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
