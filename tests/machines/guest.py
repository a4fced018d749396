"""On the machine: run the steps one by one, and tell the console. Standard library only; started by its init.

What a step prints goes to the console as it comes. Around it stand lines that begin with `MARK`, each with one JSON
object, for `boot` to read: {"begin": NAME}, {"end": NAME, "status": N or null, "seconds": S}, {"done": true}.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

MARK = "@@machine "


def tell(**what: object) -> None:
    """One line for `boot`; begun anew, since a step may have left a line unfinished."""
    print(f"\n{MARK}{json.dumps(what)}", flush=True)


def run(step: dict[str, Any]) -> int | None:
    """The exit status of one step; None where it was not done in its time, and was killed with all it started."""
    process = subprocess.Popen(
        step["argv"],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={
            "PATH": "/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "APT_CONFIG": "/project/apt.conf",
            "LANG": "C.UTF-8",
            "COLUMNS": "140",
            "CI": "true",
        },
        start_new_session=True,
    )
    # Not the console itself: for a terminal, programs draw.
    show = threading.Thread(target=_show, args=(process.stdout,), daemon=True)
    show.start()
    try:
        return process.wait(step["seconds"])
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        show.join(10)  # What outlives its step may hold the pipe for ever.


def _show(lines: IO[bytes] | None) -> None:
    for line in lines or ():
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()


def main() -> None:
    """Run the steps of the file that is named on the command line."""
    for step in json.loads(Path(sys.argv[1]).read_text("utf-8")):
        tell(begin=step["name"])
        began = time.monotonic()
        status = run(step)
        tell(end=step["name"], status=status, seconds=round(time.monotonic() - began, 1))
    tell(done=True)


if __name__ == "__main__":
    main()
