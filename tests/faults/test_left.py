"""What a supervisor leaves that is killed with copies alive: the kernel's part, and the part of the next start."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from support import Write, spawner_of, wait_until

from snapruntime import Function, Runtime

ROOT = Path(__file__).resolve().parents[2]
SUPERVISOR = """
import sys, threading
from pathlib import Path
from snapruntime import Runtime, resolve_function
with Runtime(Path(sys.argv[1])) as runtime, runtime.snapshot(resolve_function(sys.argv[2])) as snapshot:
    snapshot.keep_ready(2)
    snapshot.wait_ready()
    with snapshot.restore() as copy:
        assert copy.invoke({}).result == 1
        print("alive", flush=True)
        threading.Event().wait(60)
"""


def groups_of(pid: int) -> set[Path]:
    """The control groups of a supervisor: the folders that it holds locked, and those in them."""
    links = {os.path.realpath(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
    runs = {Path(link) for link in links if re.search("/snapruntime/[0-9a-f]{12}$", link)}
    return runs | {group for run in runs for group in run.iterdir() if group.is_dir()}


@contextmanager
def supervising(home: Path, function: Function) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs SUPERVISOR, from when its copy is alive."""
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(home), f"{function.task_root}/handler.py"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == b"alive\n"
        yield supervisor


def are_dead(processes: Iterable[psutil.Process]) -> bool:
    """Collected, or waiting for it: where these tests are the first process of a container, nobody else does it."""
    return all(not one.is_running() or one.status() == psutil.STATUS_ZOMBIE for one in processes)


def test_what_a_killed_supervisor_leaves(runtime: Runtime, criu_home: Path, write: Write) -> None:
    """Processes and mounts go with its spawner; groups with the next start, which leaves those of the living."""
    function = write("def handler(event, context): return 1")
    with runtime.snapshot(function) as snapshot, snapshot.restore() as living:
        mounts, mine = Path("/proc/self/mounts").read_text(), groups_of(os.getpid())
        with supervising(criu_home, function) as supervisor:
            below = psutil.Process(supervisor.pid).children(recursive=True)
            left = groups_of(supervisor.pid)
            assert len(below) >= 4, "two spawners, a copy, CRIU waiting for its request"
            supervisor.kill()
        wait_until(lambda: are_dead(below), "all are dead")
        assert Path("/proc/self/mounts").read_text() == mounts
        Runtime(criu_home).close()
        assert not any(group.exists() for group in left)
        assert all(group.exists() for group in mine)
        assert living.invoke({}).result == 1


def stop(process: psutil.Process) -> None:
    process.suspend()
    wait_until(lambda: process.status() == psutil.STATUS_STOPPED, "it is stopped")


@pytest.mark.parametrize("which", ["inner", "outer"])
def test_a_spawner_that_was_stopped_goes_on_to_its_end(criu_home: Path, which: str) -> None:
    """It was waited for in vain, half a minute, and then killed."""
    runtime = Runtime(criu_home)
    runtime._spawner.path("/")  # It has started.
    process = runtime._spawner._process
    stop(spawner_of(runtime) if which == "inner" else psutil.Process(process.pid))
    runtime.close()
    assert process.returncode == 0


def test_a_stopped_spawner_does_not_outlive_its_supervisor(criu_home: Path, write: Write) -> None:
    function = write("def handler(event, context): return 1")
    with supervising(criu_home, function) as supervisor:
        (outer,) = psutil.Process(supervisor.pid).children()
        below = outer.children(recursive=True)
        stop(outer.children()[0])
        supervisor.kill()
    wait_until(lambda: are_dead(below), "all end")


def test_a_spawner_that_has_ended_is_told_to_go_on() -> None:
    """As `close` does, at the very moment: its go-between ended with a traceback on the user's standard error."""
    code = """
import os, signal
from snapruntime.mechanisms import spawner
pid = os.fork() or os._exit(0)
spawner._wait_for(pid)
os.kill(os.getpid(), signal.SIGCONT)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
