"""Where the program `snapruntime` begins and ends: signals, errors, exit codes.

What takes time to import is imported inside: a Ctrl-C meanwhile finds the handlers set.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
from typing import NoReturn, TextIO

from snapruntime.edges.interrupt import leave, of_signal, on_signals

#: What a write to a stream fails with, when that cannot take more: its disk, its quota, its file's size, its device.
_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def main() -> NoReturn:
    """Run the command that the arguments name, and exit."""
    on_signals(leave)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # Ignored, as some callers leave it, no child could be waited for.
    try:
        _fill_standard_streams()
    except OSError as error:
        sys.exit(_without_null_device(error))
    _allow_all_characters()
    try:
        code = _run()
        if sys.stdout:
            sys.stdout.flush()
    except BrokenPipeError:
        code = of_signal(signal.SIGPIPE)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except OSError as error:
        if not _of_a_stream(error):
            raise
        code = _unwritable(error)
    on_signals(lambda *_: None)
    with contextlib.suppress(OSError, ValueError):
        # Nothing may be left for the interpreter to flush into a closed pipe or onto a full disk: it would complain, or
        # (Python 3.13) make an exit code of its own of it.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        if not _flushed(sys.stderr):
            os.dup2(null, 2)
    sys.exit(code)


def _flushed(stream: TextIO | None) -> bool:
    try:
        if stream:
            stream.flush()
    except OSError:
        return False
    return True


def _fill_standard_streams() -> None:
    """Of a stream that was closed before we began, the number must not become that of some socket of ours.

    What is written to a closed standard output fails, as elsewhere: an answer must not be lost with exit code 0.
    Raises OSError where there is no /dev/null, which each child of ours gets as its standard input.
    """
    os.close(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 1 else os.O_RDWR)  # The lowest number that is free.


def _without_null_device(error: OSError) -> int:
    from snapruntime.edges import exits

    if sys.stderr:
        print(f"Error: {os.devnull} cannot be opened: {error.strerror}.", file=sys.stderr)
        print("Nothing works without it: mount devtmpfs, or `mknod -m 666 /dev/null c 1 3`.", file=sys.stderr)
    return exits.HOST


def _allow_all_characters() -> None:
    """What the streams' encoding has no character for is shown by its number: a locale of ASCII is no error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where it is closed.
            stream.reconfigure(errors="backslashreplace")


def _run() -> int:
    import click

    from snapruntime.edges import exits
    from snapruntime.edges.commands import commands
    from snapruntime.edges.completion import complete
    from snapruntime.values.errors import SnapruntimeError

    debug = "--debug" in sys.argv
    if (completed := complete(commands)) is not None:
        return completed
    try:
        # Not by click's main(): it makes a 1 of a closed pipe, which is the function's.
        with commands.make_context("snapruntime", sys.argv[1:]) as context:
            return commands.invoke(context) or exits.OK
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        error.show()
        return exits.USAGE
    except click.Abort:
        return of_signal(signal.SIGINT)
    except SnapruntimeError as error:
        from snapruntime.edges.console import Console
        from snapruntime.edges.report import describe

        with contextlib.suppress(OSError):  # Standard error may be what failed; the code still tells.
            Console(stderr=True, soft_wrap=True, highlight=False).print(describe(error, debug=debug))
        return exits.exit_code(error)
    except (BrokenPipeError, SystemExit):
        raise
    except Exception as error:
        if _of_a_stream(error):
            raise
        return _internal(error)


def _of_a_stream(error: Exception) -> bool:
    """Whether it is that what a command prints cannot be written. Operations on files name them; writes do not."""
    return isinstance(error, OSError) and error.errno in _UNWRITABLE and error.filename is None


def _unwritable(error: OSError) -> int:
    """Say so, if standard error is not what failed: no mistake of ours."""
    from snapruntime.edges import exits

    with contextlib.suppress(OSError):
        print(f"Error: Writing the output failed: {error.strerror}.", file=sys.stderr, flush=True)
    return exits.HOST


def _internal(error: Exception) -> int:
    """A mistake of ours: what is needed to mend it, and an exit code that no other error has."""
    import traceback

    from snapruntime.edges import exits

    traceback.print_exception(error)
    print("Error: this is a mistake in snapruntime itself; please report the lines above.", file=sys.stderr)
    return exits.INTERNAL
