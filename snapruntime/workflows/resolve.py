"""From what the user wrote to a `Function`: HANDLER, interpreter, user, paths."""

from __future__ import annotations

import os
import pwd
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from snapruntime.mechanisms.interpreter import locate
from snapruntime.values.errors import UsageError
from snapruntime.values.function import MEMORY_MB
from snapruntime.values.model import FUNCTION_LIMIT_S, NOBODY, Function, Network
from snapruntime.workflows.environment import check_environment
from snapruntime.workflows.freshness import HOOKS

_NO_USER = (1 << 32) - 1

_FORMS = "HANDLER is a file (handler.py), a file and its function (handler.py:function), or module.function."


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
    network: Network = "host",
    name: str | None = None,
    hooks: Sequence[str] = (),
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
        network: what it sees of the network.
        name: the function's name; by default the module's.
        hooks: names of ready-made hooks that it takes.

    Raises:
        UsageError: something of that cannot be.
    """
    handler = os.fspath(handler)
    try:
        handler.encode()
        task_root, module, attribute = _split(handler)
    except (OSError, ValueError) as error:  # Too long, not UTF-8, a zero byte: no path and no module is called so.
        raise UsageError(f"{handler[:80]!a} cannot be the name of a handler: {error}") from error
    for path in (*read_only, *writable):
        if not os.path.exists(path):
            raise UsageError(f"{path or 'An empty path'} does not exist, so it cannot be shown to the function.")
    for path in (task_root, *map(os.path.abspath, (*read_only, *writable))):
        try:
            path.encode()
        except UnicodeEncodeError:  # The protocol with CRIU, and our own, have text only.
            raise UsageError(f"The path {path!a} is not UTF-8.", hint="Rename it.") from None
    uid, gid = _user(user)
    if not 0 < timeout_s <= FUNCTION_LIMIT_S:
        raise UsageError(f"A timeout of {timeout_s:g} s is not possible: more than 0, at most {FUNCTION_LIMIT_S:g}.")
    low, high = MEMORY_MB
    if not low <= memory_mb <= high:
        raise UsageError(f"A memory size of {memory_mb} MB is not possible: at least {low}, at most {high}.")
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
        network=network,
        hooks=_known_hooks(hooks),
    )
    _check_readable(function)
    return function


def _known_hooks(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once."""
    known = sorted(path.stem for path in HOOKS.glob("[a-z]*.py"))
    for name in names:
        if name not in known:
            raise UsageError(f"There is no ready-made hook {name!r}.", hint=f"There are: {', '.join(known)}")
    return tuple(dict.fromkeys(names))


def _split(handler: str) -> tuple[str, str, str | None]:
    """Task root, module and attribute of what the user called the handler."""
    if not handler.strip():
        raise UsageError("HANDLER is empty.", hint=_FORMS)
    whole = ":" not in handler or Path(handler).is_file()
    file, colon, attribute = (handler, "", "") if whole else handler.rpartition(":")
    if colon and not attribute:
        raise UsageError(f"{handler!r} names no function behind the colon.", hint=_FORMS)
    path = Path(file)
    if path.is_dir():
        inside = sorted(str(entry) for entry in path.glob("*.py"))[:3]
        raise UsageError(
            f"{file} is a folder, not a Python file.",
            hint=f"Name a file in it: {', '.join(inside)}" if inside else f"There is no Python file in it. {_FORMS}",
        )
    if path.suffix == ".py" and (path.is_file() or colon or "/" in file or not _module_exists(handler)):
        if not path.is_file():
            raise UsageError(f"There is no file {file}.", hint=_FORMS)
        real = path.resolve()  # A link's folder need not have the modules beside the file.
        if real.suffix != ".py" or "." in real.stem:
            raise UsageError(
                f"{real} cannot be imported by that name.", hint="Name it like a Python module: handler.py"
            )
        with path.open("rb") as content:
            source = content.read()
        if b"\0" in source[: 1 << 16]:
            raise UsageError(f"{file} is not Python source: there are zero bytes in it.", hint=_FORMS)
        return str(real.parent), real.stem, attribute or _only(source)
    if path.is_file():
        raise UsageError(f"{file} is not a Python file: its name does not end in .py.", hint=_FORMS)
    if colon:
        raise UsageError(f"There is no Python file {file}.", hint=_FORMS)
    module, dot, attribute = handler.rpartition(".")
    if not dot or not module or not attribute:
        # Lambda would call this Runtime.MalformedHandlerName. Here it may as well be a file's name, mistyped.
        meant = f"Is it {handler}.py that you mean? " if Path(f"{handler}.py").is_file() else ""
        raise UsageError(f"{handler!r} is neither a file nor module.function.", hint=f"{meant}{_FORMS}")
    return os.getcwd(), module, attribute


def _only(source: bytes) -> str | None:
    """ "handler", where that is plainly the function's name; None for `lambda_handler`, and where init has to tell."""
    other = re.search(rb"\blambda_handler\b|\bimport +\*|\b__getattr__\b|\bglobals\(", source)
    return "handler" if not other and re.search(rb"^(async +)?def +handler *\(", source, re.MULTILINE) else None


def _module_exists(handler: str) -> bool:
    """Whether `handler` reads as module.function with a module that is here: a function may be called `py`."""
    return Path(handler.rpartition(".")[0].replace(".", "/") + ".py").is_file()


def _user(user: str | int) -> tuple[int, int]:
    """Root only in so many letters: a number may come from a script that meant another.

    The highest number is none: it tells setresuid(2) to leave things as they are.
    """
    if user in (NOBODY, "nobody"):
        return NOBODY, NOBODY
    try:
        number = int(user)
    except ValueError:
        try:
            entry = pwd.getpwnam(str(user))
        except KeyError:
            raise UsageError(f"There is no user {user!r} on this host.") from None
        return entry.pw_uid, entry.pw_gid
    if not 0 < number < _NO_USER:
        raise UsageError(f"User {user}: root only by name, and no number below 0 or above {_NO_USER - 1}.")
    try:
        return number, pwd.getpwuid(number).pw_gid
    except KeyError:
        return number, number


def _check_readable(function: Function) -> None:
    """A clear word beforehand, where Python would only say that it finds no module."""
    file = Path(function.task_root, *function.module.replace(".", "/").split("/")).with_suffix(".py")
    for path, needed in ((Path(function.task_root), 0o5), (file, 0o4)):
        check_permission(function, path, needed)


def check_permission(function: Function, path: Path, needed: int) -> None:
    """Args: needed: permission bits of one class, as of "others" (inode(7)). Raises UsageError where it lacks them."""
    try:
        status = path.stat()
    except OSError:
        return  # The worker says what is missing, in Lambda's words.
    shift = 6 if status.st_uid == function.uid else 3 if status.st_gid == function.gid else 0
    if function.uid and (status.st_mode >> shift) & needed != needed:
        raise UsageError(
            f"{path} cannot be read by the unprivileged user {function.uid} that functions run as.",
            hint=f"chmod o+rX {path}, or name another user with --user.",
        )
