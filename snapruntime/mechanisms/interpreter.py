"""What a Python interpreter is made of: asked from the interpreter itself, as it will be inside the sandbox."""

from __future__ import annotations

import ast
import errno
import os
import re
import shutil
import subprocess
from dataclasses import dataclass

from snapruntime.values.errors import UsageError

#: The oldest Python that `snapruntime.worker` runs on.
OLDEST = (3, 9)
_DEADLINE_S = 60.0
#: Errors that say nothing about the interpreter.
_OUR_OWN_WANT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)

#: Without an import: that of json alone takes as long as all else that an interpreter does at its start.
_QUESTION = """
import sys
print(ascii([sys.version_info[:3], sys.implementation.name, [sys.prefix, sys.base_prefix, sys.exec_prefix,
             sys.base_exec_prefix], sys.path]))
"""

_HINT = "Give --python the path of an interpreter, or of a virtual environment's folder."


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python interpreter.

    Attributes:
        executable: the path it is started by; a virtual environment's is a link, and must stay one.
        version: major, minor, micro.
        folders: where it and the packages it imports from live; each exists.
        search_path: its sys.path without the script's own folder.
    """

    executable: str
    version: tuple[int, int, int]
    folders: tuple[str, ...]
    search_path: tuple[str, ...]


def locate(python: str) -> str:
    """The absolute path of the interpreter that the user named: a file, a virtual environment's folder, or a command.

    Raises:
        UsageError: there is none.
    """
    path = os.path.abspath(python)
    if os.path.isdir(path):
        path = os.path.join(path, "bin", "python")
    elif os.sep not in python:
        path = shutil.which(python) or path
    if not (os.path.isfile(path) and os.access(path, os.X_OK)):
        raise UsageError(
            f"There is no Python interpreter at {python}.",
            hint=_HINT,
        )
    return path


def inspect(executable: str) -> Interpreter:
    """Ask an interpreter what it is made of.

    Raises:
        UsageError: it is no Python, or one too old.
    """
    try:
        # Isolated, as the worker's environment will be too: no PYTHON* variables, no packages of one user's.
        # Opened by Popen, as DEVNULL is, it would stay open where descriptors run out (Python 3.11.2).
        with open(os.devnull, "rb") as nothing:
            done = subprocess.run(
                [executable, "-I", "-c", _QUESTION],
                cwd="/",
                env={"PATH": os.defpath},
                stdin=nothing,
                capture_output=True,
                timeout=_DEADLINE_S,
                check=True,
            )
        version, name, prefixes, search_path = ast.literal_eval(done.stdout.splitlines()[-1].decode())
    except (OSError, subprocess.SubprocessError, ValueError, SyntaxError, IndexError, TypeError) as error:
        if isinstance(error, OSError) and error.errno in _OUR_OWN_WANT:
            raise
        raise UsageError(f"{executable} does not work as a Python interpreter: {_why(error)}.", hint=_HINT) from error
    if name != "cpython" or tuple(version) < OLDEST:
        raise UsageError(
            f"{executable} is {name} {'.'.join(map(str, version))}; functions need CPython {OLDEST[0]}.{OLDEST[1]} or "
            "newer."
        )
    folders = [*prefixes, *search_path, os.path.dirname(executable), os.path.dirname(os.path.realpath(executable))]
    known = dict.fromkeys(path for path in folders if path and os.path.exists(path))
    return Interpreter(executable, tuple(version), tuple(known), tuple(path for path in search_path if path))


def _why(error: Exception) -> str:
    """Why a program did not answer the question, in a few words; what it writes may have the question in it."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, subprocess.TimeoutExpired):
        return f"it did not answer within {_DEADLINE_S:.0f} seconds"
    if not isinstance(error, subprocess.CalledProcessError):
        return "what it answers is not what Python would"
    lines = error.stderr.decode("utf-8", "replace").splitlines()
    # A Python that cannot start names an exception; another program may write anything, our question included.
    named = [line for line in lines if re.match(r"\s*(\w+\.)*\w*Error\b", line)]
    return named[-1].strip().rstrip(".") if named else f"it ended with exit status {error.returncode}"
