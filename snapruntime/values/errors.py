"""One tree of errors.

Every error that a user can meet carries what failed and why (the message), what to do next (`hint`), and a stable
`code` for programs. Where they become exit codes stands in one place: `snapruntime.edges.exits`.
"""

from __future__ import annotations

from typing import Any


class SnapruntimeError(Exception):
    """Base of all errors raised on purpose by snapruntime.

    Args:
        message: what failed, and why.
        hint: what the user can do next; may be empty.
        code: a stable name for programs; the class's default where empty.
    """

    default_code = "Snapruntime.Error"

    def __init__(self, message: str, *, hint: str = "", code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code or self.default_code


class UsageError(SnapruntimeError):
    """The user's input cannot be used: no such file, malformed event, unknown option value."""

    default_code = "Snapruntime.Usage"


class HostError(SnapruntimeError):
    """This host lacks something: root, CRIU, a kernel option, a capability."""

    default_code = "Snapruntime.Host"


class SnapshotError(SnapruntimeError):
    """No snapshot could be taken or published, for a reason that is not the function's own error."""

    default_code = "Snapruntime.Snapshot"


class RestoreError(SnapruntimeError):
    """A snapshot could not be brought back to life."""

    default_code = "Snapruntime.Restore"


class DamagedSnapshotError(RestoreError):
    """The snapshot on disk is not what was published: a file is missing, truncated or changed."""

    default_code = "Snapruntime.DamagedSnapshot"


class FunctionError(SnapruntimeError):
    """The user's function failed: its init, a hook, the handler, its time limit, or its process.

    Attributes:
        document: AWS's error document: errorMessage, errorType, requestId, stackTrace (empty where AWS has none).
        phase: "init", "before_snapshot", "after_restore" or "invoke".
        init_ms: what init had taken until it failed, counted as that of one that does not; None in other phases.
    """

    def __init__(self, document: dict[str, Any], *, phase: str, hint: str = "") -> None:
        super().__init__(str(document.get("errorMessage", "")), hint=hint, code=str(document.get("errorType", "")))
        self.document = document
        self.phase = phase
        self.init_ms: float | None = None


def printable(text: str) -> str:
    """`text` on one line, with what a terminal would obey, or take for a line of ours, as escapes of Python's."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
