"""Throwaway child processes with a deadline, so that trying something out never changes or blocks this process.

`run_isolated` runs a program and ends it with all it started. `child_argv` starts one of our own modules in a new
interpreter (rather than a fork: the caller may have threads): `trials`, which tries system calls, or `main` here,
which puts another program into fresh PID and mount namespaces.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parents[3])
_START = (
    "import sys; sys.path.insert(0, sys.argv.pop(1));from snapruntime.mechanisms.host import {module}; {module}.main()"
)


def run_isolated(argv: Sequence[str], timeout: float) -> tuple[int, str, str]:
    """Run `argv` with a deadline; it and all it started are killed at the end of that.

    Returns exit status, stdout, stderr. Raises TimeoutError, OSError.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LD_")} | {"LC_ALL": "C"}
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"{Path(argv[0]).name} did not answer within {timeout:g} s") from None
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return process.returncode, stdout, stderr


def child_argv(module: str, *arguments: str) -> list[str]:
    """How to start `snapruntime.mechanisms.host.<module>.main()` in a new interpreter, quickly."""
    return [sys.executable, "-I", "-S", "-c", _START.format(module=module), _ROOT, *arguments]


def main() -> None:
    """In the child: execute `sys.argv[1:]` as PID 1 of a PID namespace, with its own /proc and a tmpfs on /run.

    CRIU keeps its probe cache only where /run is a tmpfs, and reads /proc/sys, which container engines mask: in the
    namespaces that snapshots are made in, neither matters, so the check is made in such ones. Without the privilege
    the program is started as it is: its own complaint says more.
    """
    from snapruntime.mechanisms import linux

    argv = sys.argv[1:]
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWPID)
    except OSError:
        os.execv(argv[0], argv)
    pid = os.fork()
    if pid == 0:
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        try:
            linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
            linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
            linux.mount("tmpfs", "/run", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755,size=1m")
        except OSError as error:
            print(f"Warn  (snapruntime): {error}", file=sys.stderr, flush=True)
        os.execv(argv[0], argv)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    sys.exit(code if code >= 0 else 128 - code)
