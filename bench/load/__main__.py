"""`make load-test`: exit status 0 where every target is held.

Needs root, wrk, and a CRIU that `snapruntime setup` has provided.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from snapruntime.bench.load.report import verdicts, write
from snapruntime.bench.load.run import run_load_test
from snapruntime.mechanisms.store import data_home


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m snapruntime.bench.load", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="each load of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--report", type=Path, help="write PATH.md and PATH.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="snapruntime-load-") as folder:
        home = Path(folder)
        os.chmod(home, 0o755)  # The functions' code is in it.
        (home / "criu").symlink_to(data_home() / "criu")
        found = run_load_test(
            home,
            seconds=options.seconds,
            rounds=options.rounds,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
    results = verdicts(found)
    for one in results:
        print(f"{'held  ' if one.held else 'MISSED'}  {one.claim}: {one.found}")
    if options.report:
        write(found, " ".join(["python -m snapruntime.bench.load", *sys.argv[1:]]), options.report)
    return 0 if all(one.held for one in results) else 1


if __name__ == "__main__":
    sys.exit(main())
