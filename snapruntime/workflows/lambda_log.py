"""Lambda's own log lines. Tabs between the fields, two decimals, a tab at the end of REPORT: as CloudWatch shows them.

Sources: the developer guide (Monitoring for SnapStart; Billing of INIT since August 2025) and captured logs.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from snapruntime.values.errors import printable
from snapruntime.values.model import Function, Invocation

#: Error types that Lambda's platform reports, not the function; in a REPORT they are the status.
_PLATFORM = ("Runtime.ExitError", "Runtime.OutOfMemory", "Runtime.Unknown")
_HOOKS = {"before_snapshot": "Runtime.BeforeSnapshotError", "after_restore": "Runtime.AfterRestoreError"}
_TIMEOUT = "Sandbox.Timedout"


def runtime_version(function: Function, version: Sequence[int]) -> str:
    """The fields that say which runtime it is. The ARN is made up, stable for one interpreter, of the right form.

    Args:
        version: of the interpreter; only major and minor are told, so that all commands say the same of a function.
    """
    name = ".".join(map(str, version[:2]))
    digest = hashlib.sha256(f"{function.python} {name}".encode("utf-8", "surrogateescape")).hexdigest()
    region = function.environment.get("AWS_REGION", "us-east-1")
    return f"Runtime Version: python:{name}\tRuntime Version ARN: arn:aws:lambda:{region}::runtime:{digest}"


def init_start(runtime: str) -> str:
    return f"INIT_START {runtime}"


def init_report(milliseconds: float) -> str:
    """After init and the before-snapshot hooks went well. Lambda writes it for snapshots, not for cold starts."""
    return f"INIT_REPORT Init Duration: {milliseconds:.2f} ms"


def init_failed(milliseconds: float, error: Mapping[str, Any], phase: str) -> str:
    return f"INIT_REPORT Init Duration: {milliseconds:.2f} ms\tPhase: init{_status(error, phase)}"


def restore_start(runtime: str) -> str:
    return f"RESTORE_START {runtime}"


def restore_report(milliseconds: float, error: Mapping[str, Any] | None = None, phase: str = "") -> str:
    """Args: milliseconds: CRIU's part and the after-restore hooks'."""
    return f"RESTORE_REPORT Restore Duration: {milliseconds:.2f} ms" + (_status(error, phase) if error else "")


def start(request_id: str, function: Function) -> str:
    return f"START RequestId: {request_id} Version: {function.version}"


def interrupted(invocation: Invocation) -> list[str]:
    """What Lambda says where the handler gave no answer: it ran out of time, or its process ended."""
    error = invocation.error or {}
    kind, message = error.get("errorType"), str(error.get("errorMessage"))
    if kind == _TIMEOUT:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return [f"{now} {invocation.request_id} {message.partition(' Error: ')[2]}"]
    return [message, str(kind)] if kind in _PLATFORM else []


def end(request_id: str) -> str:
    return f"END RequestId: {request_id}"


def report(invocation: Invocation, function: Function) -> str:
    """The REPORT line. Billed are the handler, a cold start's init and the after-restore hooks, but not CRIU's part."""
    duration = invocation.duration_ms or 0.0
    extra = (invocation.init_ms or 0.0) + math.ceil(invocation.hooks_ms or 0.0)
    fields = [
        f"REPORT RequestId: {invocation.request_id}",
        f"Duration: {duration:.2f} ms",
        f"Billed Duration: {math.ceil(duration + extra)} ms",
        f"Memory Size: {function.memory_mb} MB",
        f"Max Memory Used: {max_memory_mb(invocation, function)} MB",
    ]
    if invocation.init_ms is not None:
        fields.append(f"Init Duration: {invocation.init_ms:.2f} ms")
    if invocation.restore_ms is not None:
        hooks = invocation.hooks_ms or 0.0
        fields.append(f"Restore Duration: {invocation.restore_ms + hooks:.2f} ms")
        fields.append(f"Billed Restore Duration: {math.ceil(hooks)} ms")
    status = ""
    if invocation.error and invocation.error.get("errorType") in (*_PLATFORM, _TIMEOUT):
        status = _status(invocation.error, "invoke").lstrip("\t")
    return "\t".join([*fields, status])


def max_memory_mb(invocation: Invocation, function: Function) -> int:
    """What a report says was used: the memory size at most, as on Lambda.

    What was measured can be more: what copies share counts as resident, and the limit leaves room for our own part.
    """
    return min(invocation.max_memory_mb or 0, function.memory_mb)


def _status(error: Mapping[str, Any], phase: str) -> str:
    kind = printable(str(error.get("errorType", "")))
    if kind == _TIMEOUT:
        return "\tStatus: timeout"
    return f"\tStatus: error\tError Type: {kind if kind in _PLATFORM else _HOOKS.get(phase, kind)}"
