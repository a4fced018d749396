"""Errors as people read them: what failed and why, what to do next; with --debug, all there is."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Sequence

from rich.text import Text

from snapruntime.mechanisms.criu import CriuError
from snapruntime.values.errors import FunctionError, SnapruntimeError

_FAILED = {
    "init": "The function's init failed",
    "before_snapshot": "A before-snapshot hook failed",
    "after_restore": "An after-restore hook failed",
    "invoke": "The function failed",
}


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
    return f"{_FAILED.get(error.phase, 'The function failed')}: {said}"


def _with_rest(text: Text, error: SnapruntimeError, debug: bool) -> Text:
    if hint := error.hint or _hint(error):
        text.append(f"\n{hint}", style="not bold cyan")
    if debug:
        lines = [line for one in _chain(error) if isinstance(one, CriuError) for line in one.log]
        if lines:
            text.append("\nCRIU's log:\n  " + "\n  ".join(lines), style="not bold default")
        trace = "".join(traceback.format_exception(error)).rstrip()
        text.append(f"\n{trace}", style="not bold dim")
    return text


def _hint(error: SnapruntimeError) -> str:
    """What to do about a failure that Lambda's own words leave unexplained."""
    if "attempted relative import with no known parent package" in error.message:
        return "Its folder is a package: from the folder above, run it as package.module.function."
    return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__
