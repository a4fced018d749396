"""A signal that the function sends to itself ends it, as it would on Lambda.

The kernel spares the first process of a PID namespace whatever comes from inside and is not handled, SIGKILL too
(pid_namespaces(7)). So where Python code sends such a signal, the host is told, and the process ends by itself. Not
seen are native code's: its abort() ends by the instruction behind it, with SIGSEGV or SIGTRAP.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found,unused-ignore]  # without signal's enums, which take time
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# those that by default do no more than stop a process, which a snapshot's never is, or nothing
_HARMLESS = {"SIGCHLD", "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGWINCH"}


def install(end: Callable[[int], None]) -> None:
    """Have `end` called with the number of a signal that is to end this process. It does not return."""
    harmless = {0} | {getattr(_signal, name) for name in _HARMLESS}

    def sent(number: int) -> None:
        if os.getpid() != 1 or number in harmless or _signal.getsignal(number) != _signal.SIG_DFL:
            return
        if number not in _signal.pthread_sigmask(_signal.SIG_BLOCK, ()):
            end(number)

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if event == "signal.pthread_kill" or (event in ("os.kill", "os.killpg") and args[0] in (0, 1)):
            sent(args[1])

    def abort() -> None:
        sent(_signal.SIGABRT)
        aborts()

    def raise_signal(number: int) -> None:
        sent(number)
        raises(number)

    aborts, raises = os.abort, _signal.raise_signal  # the only ones without an audit event
    os.abort, _signal.raise_signal = abort, raise_signal  # type: ignore[assignment]
    sys.addaudithook(audit)
