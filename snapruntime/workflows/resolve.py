"""From what the user wrote to a `Function`: HANDLER, interpreter, user, paths."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from snapruntime.mechanisms.interpreter import locate
from snapruntime.values.errors import UsageError
from snapruntime.values.model import FUNCTION_LIMIT_S, NOBODY, Function
from snapruntime.workflows.environment import check_environment


def resolve_function(
    handler: str | os.PathLike[str],
    *,
    python: str | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 3.0,
    memory_mb: int = 512,
    read_only: Sequence[str] = (),
    writable: Sequence[str] = (),
    user: str | int = NOBODY,
    name: str | None = None,
) -> Function:
    """Find out what to run.

    Args:
        handler: a file (`handler.py`), a file and a function (`path/handler.py:function`), or Lambda's
            `module.function`, looked for in the current folder.
        python: the interpreter, or a virtual environment's folder; that of this process by default.
        environment: the function's environment variables.
        timeout_s: seconds per invocation.
        memory_mb: memory size, MB.
        read_only: further host paths to show it.
        writable: further host paths that it may change.
        user: a name or number; "nobody" by default.
        name: the function's name; by default the module's.

    Raises:
        UsageError: something of that cannot be.
    """
    handler = os.fspath(handler)
    try:
        handler.encode()
        task_root, module, attribute = _split(handler)
    except (OSError, ValueError) as error:  # Too long, not UTF-8, a zero byte: no path and no module is called so.
        raise UsageError(f"{handler[:80]!a} cannot be the name of a handler: {error}") from error
    uid, gid = _user(user)
    if not 0 < timeout_s <= FUNCTION_LIMIT_S:
        raise UsageError(f"A timeout of {timeout_s:g} s is not possible: more than 0, at most {FUNCTION_LIMIT_S:g}.")
    environment = dict(environment or {})
    check_environment(environment)
    function = Function(
        name=name or module.rpartition("/")[2].rpartition(".")[2],
        module=module,
        attribute=attribute,
        task_root=task_root,
        python=locate(python or sys.executable),
        environment=environment,
        timeout_s=timeout_s,
        memory_mb=memory_mb,
        read_only=tuple(os.path.abspath(path) for path in read_only),
        writable=tuple(os.path.abspath(path) for path in writable),
        uid=uid,
        gid=gid,
    )
    _check_readable(function)
    return function


def _split(handler: str) -> tuple[str, str, str | None]:
    """Task root, module and attribute of what the user called the handler."""
    whole = ":" not in handler or Path(handler).is_file()
    file, colon, attribute = (handler, "", "") if whole else handler.rpartition(":")
    if colon and not attribute:
        raise UsageError(f"{handler!r} names no function behind the colon.")
    path = Path(file)
    if path.is_dir():
        raise UsageError(
            f"{file} is a folder, not a Python file.", hint=f"Name the file: {file.rstrip('/')}/handler.py"
        )
    if path.suffix == ".py" and (path.is_file() or colon or "/" in file or not _module_exists(handler)):
        if not path.is_file():
            raise UsageError(
                f"There is no file {file}.", hint="HANDLER is a file, file.py:function or module.function."
            )
        real = path.resolve()  # A link's folder need not have the modules beside the file.
        if real.suffix != ".py" or "." in real.stem:
            raise UsageError(
                f"{real} cannot be imported by that name.", hint="Name it like a Python module: handler.py"
            )
        return str(real.parent), real.stem, attribute or None
    if path.is_file():
        raise UsageError(f"{file} is not a Python file: its name does not end in .py.")
    if colon:
        raise UsageError(f"There is no Python file {file}.")
    module, dot, attribute = handler.rpartition(".")
    if not dot or not module or not attribute:
        raise UsageError(
            f"{handler!r} is neither a file nor module.function.",
            hint="For example: snapruntime run handler.py, or snapruntime run package/handler.py:function",
        )
    return os.getcwd(), module, attribute


def _module_exists(handler: str) -> bool:
    """Whether `handler` reads as module.function with a module that is here: a function may be called `py`."""
    return Path(handler.rpartition(".")[0].replace(".", "/") + ".py").is_file()


def _user(user: str | int) -> tuple[int, int]:
    try:
        number = int(user)
    except ValueError:
        try:
            entry = pwd.getpwnam(str(user))
        except KeyError:
            raise UsageError(f"There is no user {user!r} on this host.") from None
        return entry.pw_uid, entry.pw_gid
    try:
        return number, pwd.getpwuid(number).pw_gid
    except KeyError:
        return number, number


def _check_readable(function: Function) -> None:
    """A clear word beforehand, where Python would only say that it finds no module."""
    file = Path(function.task_root, *function.module.replace(".", "/").split("/")).with_suffix(".py")
    for path, needed in ((Path(function.task_root), 0o5), (file, 0o4)):
        try:
            status = path.stat()
        except OSError:
            continue  # The worker says what is missing, in Lambda's words.
        shift = 6 if status.st_uid == function.uid else 3 if status.st_gid == function.gid else 0
        if function.uid and (status.st_mode >> shift) & needed != needed:
            raise UsageError(
                f"{path} cannot be read by the unprivileged user {function.uid} that functions run as.",
                hint=f"chmod o+rX {path}, or name another user with --user.",
            )
