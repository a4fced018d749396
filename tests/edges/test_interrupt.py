"""Ended from outside at any moment: the right exit code, no traceback, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from support import assert_nothing_left, census

from edges.conftest import LIMIT_S, Cli, command
from snapruntime.edges import exits
from snapruntime.edges.interrupt import Stopper

Start = Callable[..., "subprocess.Popen[bytes]"]


def _read_until(process: subprocess.Popen[bytes], marker: bytes) -> bytes:
    """What the process wrote to stderr, up to and with `marker`."""
    assert process.stderr is not None
    said = b""
    while marker not in said:
        data = os.read(process.stderr.fileno(), 1 << 16)
        assert data, f"ended without {marker!r}: {said!r}"
        said += data
    return said


@pytest.mark.parametrize(
    ("arguments", "marker", "signals", "code"),
    [
        (["waits.py", "--rebuild"], b"INIT_START", [signal.SIGINT], 130),
        (["waits_at_init.py"], b"init is waiting", [signal.SIGTERM], 143),
        (["waits.py", "--rebuild"], b"INIT_REPORT", [signal.SIGINT], 130),
        (["waits.py"], b"RESTORE_START", [signal.SIGINT], 130),
        (["waits.py"], b"handler is waiting", [signal.SIGINT], 130),
        (["waits.py"], b"handler is waiting", [signal.SIGINT] * 3, 130),
        (["waits.py"], b"handler is waiting", [signal.SIGTERM], 143),
        (["waits.py"], b"handler is waiting", [signal.SIGHUP], 129),
        (["waits.py", "-n", "4", "--concurrency", "3"], b" snapshot", [signal.SIGINT], 130),
        (["waits.py", "--cold"], b"handler is waiting", [signal.SIGINT], 130),
        (["waits.py", "--json", "--compare", "--rebuild"], b"Making", [signal.SIGINT], 130),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else None,
)
def test_signals(
    start: Start, home: Path, arguments: list[str], marker: bytes, signals: list[signal.Signals], code: int
) -> None:
    before = census([home])
    process = start("run", *arguments, "--timeout", "60")
    said = _read_until(process, marker)
    below = psutil.Process(process.pid).children(recursive=True)
    for number in signals:
        process.send_signal(number)
    out, rest = process.communicate(timeout=LIMIT_S)
    assert process.returncode == code, said + rest
    assert b"Traceback" not in said + rest
    assert b"Error" not in said + rest
    assert out == b""
    psutil.wait_procs(below, timeout=5)
    assert [one for one in below if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []
    for stream in (process.stdout, process.stderr):
        assert stream is not None
        stream.close()
    assert_nothing_left(before, [home])


def test_the_snapshot_is_good_afterwards(cli: Cli) -> None:
    done = cli("run", "waits.py", "--event", '{"seconds": 0}', "--quiet")
    assert (done.returncode, done.stdout) == (0, "null\n")


def test_the_terminal_goes_while_everything_waits(start: Start, home: Path) -> None:
    # Nobody reads the log: the pipe is full, and the writer must still notice that it is to stop.
    before = census([home])
    process = start("run", "floods.py", "--timeout", "60")
    _read_until(process, b"xxxx")
    process.send_signal(signal.SIGINT)
    assert process.wait(LIMIT_S) == 130
    for stream in (process.stdout, process.stderr):
        assert stream is not None
        stream.close()
    assert_nothing_left(before, [home])


def test_ctrl_c_while_the_event_is_awaited(start: Start) -> None:
    process = start("run", "echo.py", "--event", "-", stdin=subprocess.PIPE)
    # It has come that far when it sleeps in the read: descriptor 0, in its main thread.
    call = Path(f"/proc/{process.pid}/syscall")
    while not call.read_text().startswith(f"{_READ} 0x0 "):
        assert process.poll() is None
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, said) == (130, b"")


_READ = {"x86_64": 0, "aarch64": 63}.get(os.uname().machine, 0)


@pytest.mark.parametrize("arguments", [["-n", "20"], ["-n", "20", "--concurrency", "2", "--json", "--quiet"]])
def test_nobody_reads_the_answers(home: Path, functions: Path, arguments: list[str]) -> None:
    before = census([home])
    process = subprocess.Popen(
        command(home, "run", "echo.py", *arguments), cwd=functions, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith(b"{")
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(LIMIT_S) == 141
    assert b"Traceback" not in said
    assert b"Broken" not in said
    assert_nothing_left(before, [home])


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["doctor", "--json"], ["doctor"]])
def test_nobody_reads_the_help(home: Path, arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        process = subprocess.run(command(home, *arguments), stdout=closed, stderr=subprocess.PIPE, timeout=LIMIT_S)
    assert (process.returncode, process.stderr) == (141, b"")


def test_signals_that_are_ignored_stay_ignored(home: Path, functions: Path) -> None:
    # As `nohup` and a shell's `&` do it.
    source = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", source, *command(home, "run", "waits.py", "--event", '{"seconds": 0.3}')],
        cwd=functions,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    _read_until(process, b"handler is waiting")
    process.send_signal(signal.SIGHUP)
    out, _ = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, out) == (0, b"null\n")


def test_a_closer_that_comes_late_is_called_at_once() -> None:
    called = []
    stopper = Stopper()

    def work() -> int:
        stopper.request(7)
        stopper.on_stop(lambda: called.append("early"))
        while not called:
            pass
        stopper.on_stop(lambda: called.append("late"))
        return 0

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        assert stopper.run(work) == 7
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert called == ["early", "late"]
    assert stopper.stopping


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_streams_that_were_closed_before_we_began(home: Path, functions: Path, closed: str) -> None:
    """An answer that nobody can have had is an error; that nobody is told anything else is not."""
    argv = command(home, "run", "echo.py", "--quiet")
    done = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", *argv], cwd=functions, capture_output=True, timeout=LIMIT_S
    )
    lost = "1>" in closed
    assert done.returncode == (exits.HOST if lost else exits.OK), done.stderr
    assert done.stdout.startswith(b"{") is not lost
    said = b"Error: Writing to standard output failed: Bad file descriptor.\n"
    assert done.stderr == (said if lost and "2>" not in closed else b"")


def test_little_is_imported_before_the_signals_have_handlers() -> None:
    """A Ctrl-C until then ends in a traceback of Python's."""
    source = "import sys, snapruntime.edges.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True, timeout=30)
    assert not {"concurrent.futures", "logging", "click", "rich"} & set(done.stdout.split())
