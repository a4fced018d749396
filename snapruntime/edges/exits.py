"""Exit codes: the one place where an error becomes one. README lists them, and a test holds the two together."""

from __future__ import annotations

import signal

from snapruntime.edges.interrupt import of_signal
from snapruntime.mechanisms.criu import CriuError
from snapruntime.mechanisms.process import SpawnerError
from snapruntime.values.errors import (
    FunctionError,
    HostError,
    RestoreError,
    SnapruntimeError,
    SnapshotError,
    UsageError,
)
from snapruntime.values.service_errors import (
    CodeStorageExceededException,
    ServiceError,
    ServiceException,
    SnapStartException,
    SnapStartRegenerationFailureException,
    SnapStartTimeoutException,
)

OK = 0
FUNCTION = 1
USAGE = 2
HOST = 3
SNAPSHOT = 4
RESTORE = 5
WORSE = 6
FINDINGS = 7
#: A mistake of ours: anything that is raised and is not a SnapruntimeError (sysexits.h calls it EX_SOFTWARE).
INTERNAL = 70

#: What each code means. Those of signals are the shell's: 128 and the signal's number.
MEANINGS = {
    OK: "success",
    FUNCTION: "the function failed: its init, a hook, the handler, its time limit, its process",
    USAGE: "the command line, the event or a file cannot be used",
    HOST: "this host cannot: no root, no CRIU, a kernel option is missing",
    SNAPSHOT: "no snapshot could be taken",
    RESTORE: "a snapshot could not be restored, not even one made anew; with `--cold`: no process could be started",
    WORSE: "`bench --compare` found something worse",
    FINDINGS: "`check` found what is not safe to be copied",
    INTERNAL: "an error in snapruntime itself",
    of_signal(signal.SIGHUP): "ended by SIGHUP",
    of_signal(signal.SIGINT): "ended by Ctrl-C (SIGINT)",
    of_signal(signal.SIGPIPE): "nobody reads the output any more (SIGPIPE)",
    of_signal(signal.SIGTERM): "ended by SIGTERM",
}

_CODES: dict[type[SnapruntimeError], int] = {
    FunctionError: FUNCTION,
    UsageError: USAGE,
    HostError: HOST,
    SpawnerError: HOST,
    CriuError: HOST,
    SnapshotError: SNAPSHOT,
    RestoreError: RESTORE,
    # What a caller of the API does wrong, one of the command line does as well.
    ServiceError: USAGE,
    ServiceException: HOST,
    CodeStorageExceededException: HOST,
    SnapStartException: FUNCTION,
    SnapStartTimeoutException: FUNCTION,
    SnapStartRegenerationFailureException: SNAPSHOT,
}


def exit_code(error: BaseException) -> int:
    """The exit code for an error; the nearest class in its ancestry decides."""
    for kind in type(error).__mro__:
        if kind in _CODES:
            return _CODES[kind]
    return INTERNAL
