"""What a person sees: the run on a terminal of 80 columns, as the terminal would show it at the end."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path

from edges.conftest import LIMIT_S, command
from edges.test_log import END, INIT_REPORT, INIT_START, REPORT, RESTORE_REPORT, RESTORE_START, START

_COLUMNS = 80


def _on_terminal(
    home: Path, cwd: Path, *arguments: str, ctrl_c_after: bytes = b"(never)", env: dict[str, str] | None = None
) -> tuple[int, str]:
    """Run on a terminal of its own; the exit code and all that was written. Ctrl-C is pressed after that text."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, _COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", **(env or {})}
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "CI"):
        environment.pop(name, None)
    process = subprocess.Popen(
        command(home, *arguments), cwd=cwd, env=environment, pass_fds=[theirs], preexec_fn=lambda: os.login_tty(theirs)
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            data = os.read(ours, 1 << 16)
        except OSError:  # The last process with the terminal open has ended.
            break
        if not data:
            break
        written += data
        if ctrl_c_after in written:
            ctrl_c_after = b"(never)"
            os.write(ours, b"\x03")
    os.close(ours)
    return process.wait(LIMIT_S), written.decode()


def _screen(written: str) -> list[str]:
    """The lines on the screen in the end; knows only what a progress line is made of."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", written):
        if part == "\n":
            row += 1
            if row == len(lines):
                lines.append("")
        elif part == "\r":
            column = 0
        elif part.startswith("\x1b["):
            if part.endswith("A"):
                row -= int(part[2:-1] or 1)
            elif part.endswith("K"):
                lines[row] = ""
            else:
                assert part[-1] in "mhl", f"unexpected {part!r}"
        else:
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines]


def test_a_run_that_makes_a_snapshot(home: Path, functions: Path) -> None:
    code, written = _on_terminal(home, functions, "run", "waits.py", "--rebuild", "--event", '{"seconds": 0}')
    assert code == 0
    assert re.search(r"Initialising waits.lambda_handler .*… .*\d\.\d s", written) or "init is over" in written
    assert "Checkpointing" in written
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h")  # The cursor is there again.
    making = ["Making a snapshot: as asked for", INIT_START, "init is over", INIT_REPORT, r"Snapshot \S+ made in .*"]
    report = REPORT.removesuffix("\\t")
    patterns = [*making, RESTORE_START, RESTORE_REPORT, START, "handler is waiting", END, report, "null", ""]
    lines = _screen(written)
    assert len(lines) == len(patterns), lines
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), f"{line!r} is not {pattern}"


def test_a_comparison_fits(home: Path, functions: Path) -> None:
    code, written = _on_terminal(home, functions, "run", "echo.py", "--compare", "-n", "2")
    assert code == 0
    lines = _screen(written)
    answers = [line for line in lines if line.startswith('{"event"')]
    assert len(answers) == 4
    table = lines[len(lines) - lines[::-1].index(answers[-1]) :]
    assert table[0].split() == ["ms", "cold", "start", "restored", "copy", "=", "restore", "+", "hooks", "+", "handler"]
    assert [row.split()[0] for row in table[1:6]] == ["1", "2", "p50", "min", "max"]
    assert max(map(len, table)) <= _COLUMNS
    assert not any("Request" in line for line in lines)


def test_ctrl_c(home: Path, functions: Path) -> None:
    # Every process of the terminal's group gets it, not only ours that waits for it.
    code, written = _on_terminal(home, functions, "run", "waits.py", "--timeout", "60", ctrl_c_after=b"is waiting")
    assert code == 130
    assert _screen(written)[-2:] == ["handler is waiting", "^C"]


def test_ctrl_c_while_progress_is_shown(home: Path, functions: Path) -> None:
    code, written = _on_terminal(home, functions, "run", "waits_at_init.py", ctrl_c_after=b"init is waiting")
    assert code == 130
    assert "Traceback" not in written
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h")


def test_an_error(home: Path, functions: Path) -> None:
    code, written = _on_terminal(home, functions, "run", "no_such_file_with_[brackets].py")
    assert code == 2
    assert _screen(written) == [
        "Error: There is no file no_such_file_with_[brackets].py.",
        "HANDLER is a file (handler.py), a file and its function (handler.py:function), or module.function.",
        "",
    ]
