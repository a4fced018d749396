"""Errors as people read them: what failed and why, what to do next; with --debug, all there is."""

from __future__ import annotations

import errno
import os
import re
import traceback
from collections.abc import Iterator, Sequence

from rich.text import Text

from snapruntime.mechanisms.criu import CriuError
from snapruntime.values.errors import FunctionError, SnapruntimeError, printable
from snapruntime.values.function import ACCOUNT, REGION
from snapruntime.values.model import RESTORE_LIMIT_S
from snapruntime.values.service_errors import (
    AccessDeniedException,
    InvalidParameterValueException,
    ResourceConflictException,
    ResourceNotFoundException,
    SnapStartNotReadyException,
    TooManyRequestsException,
    ValidationException,
)

_FAILED = {
    "init": "The function's init failed",
    "before_snapshot": "A before-snapshot hook failed",
    "after_restore": "An after-restore hook failed",
    "invoke": "The function failed",
}

#: A command is alone with its reservation, so what is used up is one of 0.
_STOPPED = (
    "0 invocations at once are reserved for the function, which stops it. "
    "`snapruntime publish HANDLER --name FUNCTION --reserve none` lets it run again."
)
_NO_ROOM = "This host had no room for another process in time: try again when less runs on it."

_CROWDED = (
    "The limit of processes is reached: raise it (ulimit -u; pids.max of the control group: of a service TasksMax=, of "
    "a container --pids-limit), or run fewer copies at once."
)

_SERVICE_HINTS = (
    (AccessDeniedException, "", f"The functions here are of account {ACCOUNT}: their names alone will do."),
    (ResourceNotFoundException, "not reachable", f"The functions here are of {REGION}: their names alone will do."),
    (ResourceNotFoundException, "alias", "`snapruntime show FUNCTION` lists its aliases."),
    (ResourceNotFoundException, "", "`snapruntime ls` lists the functions, `snapruntime show FUNCTION` its versions."),
    (InvalidParameterValueException, "UnreservedConcurrentExecution", "`snapruntime show FUNCTION` tells what it has."),
    (ResourceConflictException, "aliases reference", "Have `snapruntime alias` point them elsewhere or delete them."),
    (ValidationException, "'functionName'", "A name has letters, digits, - and _ only; :VERSION or :ALIAS may follow."),
    (SnapStartNotReadyException, "", "Another process is making its snapshot: try again in a moment."),
)


def describe(error: SnapruntimeError, *, debug: bool = False) -> Text:
    """ "Error: …", and the hint on a line of its own."""
    text = Text("Error: ", style="bold red")
    text.append(_sentence(error), style="not bold default")
    return _with_rest(text, error, debug)


def describe_failure(
    failures: Sequence[SnapruntimeError], count: int, worst: SnapruntimeError, *, debug: bool = False
) -> Text:
    """The same for a run in which `failures` of `count` answers failed."""
    text = Text("Error: ", style="bold red")
    if count > 1:
        text.append(f"{len(failures)} of {count} invocations failed. ", style="not bold default")
    text.append(_sentence(worst), style="not bold default")
    return _with_rest(text, worst, debug)


def _sentence(error: SnapruntimeError) -> str:
    if not isinstance(error, FunctionError):
        return error.message
    kind = error.document.get("errorType", "")
    # Which request it was, is said where there are several: in the log.
    said = ": ".join(filter(None, (str(kind), re.sub(r"^RequestId: \S+ Error: ", "", error.message))))
    return f"{_FAILED.get(error.phase, 'The function failed')}: {printable(said)}"


def _with_rest(text: Text, error: SnapruntimeError, debug: bool) -> Text:
    if hint := _crowded(error) or error.hint or _hint(error):
        text.append(f"\n{hint}", style="not bold cyan")
    if debug:
        lines = [line for one in _chain(error) if isinstance(one, CriuError) for line in one.log]
        if lines:
            text.append("\nCRIU's log:\n  " + "\n  ".join(lines), style="not bold default")
        trace = "".join(traceback.format_exception(error)).rstrip()
        text.append(f"\n{trace}", style="not bold dim")
    return text


def _crowded(error: SnapruntimeError) -> str:
    """Where no process could be started, which CRIU and the kernel say in the same words wherever it happens."""
    if isinstance(error, FunctionError) or os.strerror(errno.EAGAIN) not in error.message:
        return ""
    return _CROWDED


def _hint(error: SnapruntimeError) -> str:
    """What to do about a failure that Lambda's own words leave unexplained."""
    if "attempted relative import with no known parent package" in error.message:
        return "Its folder is a package: from the folder above, run it as package.module.function."
    missing = re.search(r"Unable to import module '(\w+)[^']*': No module named '(\w+)'", error.message)
    if missing and missing[1] == missing[2]:
        return f"{missing[1]} is looked for in the current folder: change to the one that it is in."
    if missing:
        return f"{missing[2]} is neither in the code's folder nor in its Python's environment: --python names another."
    if isinstance(error, FunctionError) and error.phase == "after_restore" and error.code == "Sandbox.Timedout":
        return f"An after-restore hook did not end: a restore and its hooks have {RESTORE_LIMIT_S:g} s, as on Lambda."
    if isinstance(error, TooManyRequestsException):
        return _STOPPED if error.reason.startswith("Reserved") else _NO_ROOM
    # The API's errors are in AWS's own words, which say nothing of our commands.
    for kind, words, hint in _SERVICE_HINTS:
        if isinstance(error, kind) and words in error.message:
            return hint
    return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__
