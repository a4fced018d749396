"""What is logged of one invocation: records to the function's log, and the last 4 KB of it for the caller."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from snapruntime.mechanisms.log_store import LogStore, Record
from snapruntime.values.answer import LOG_TAIL
from snapruntime.values.function import FunctionVersion
from snapruntime.values.model import Function, Invocation
from snapruntime.workflows import lambda_log

#: The records that are kept where the least level of the system's is WARN: those of what failed.
_STATUSES_OF_WARNINGS = ("error", "timeout", "failure")
#: A line that is longer becomes several records, bytes (CloudWatch's own limit for an event).
_LONGEST_LINE = 256 << 10


class Journal:
    """The log of one invocation. Its method `sink` takes what the function writes, as it comes.

    Args:
        store: where it goes.
        version: which version is invoked.
        function: that as the runtime takes it.
        request_id: the invocation's.
    """

    def __init__(self, store: LogStore, version: FunctionVersion, function: Function, request_id: str) -> None:
        self._store = store
        self._version = version
        self._request_id = request_id
        self._function = function
        self._as_json = version.configuration.log_format == "JSON"
        self._warnings_only = version.configuration.system_log_level == "WARN"
        self._tail = bytearray()
        self._begun = b""  # A line that has not ended yet.
        self._records: list[Record] = []
        self._restoring = False  # RESTORE_START has been said, but not yet how it went.
        self._restore_ms: float | None = None  # What RESTORE_REPORT said.

    @property
    def tail(self) -> bytes:
        """The last that was logged."""
        return bytes(self._tail[-LOG_TAIL:])

    def sink(self, data: bytes) -> None:
        """What the function wrote: each line is a record; one that is a JSON object stays one."""
        self._keep(data)
        *lines, self._begun = (self._begun + data).split(b"\n")
        self._records += [self._line(line) for line in lines]
        if len(self._begun) > _LONGEST_LINE:
            self._end_line()
        self.flush()

    def flush(self) -> None:
        """Write what is to be written."""
        if self._records:
            self._store.write(self._version.name, self._records)
            self._records.clear()

    def starting(self, *, cold: bool) -> None:
        """A process is being started, or handed over, for it. Said once, however many copies it takes."""
        if self._restoring and not cold:
            return
        self._restoring = not cold
        runtime = lambda_log.runtime_version(self._function, _numbers(self._version.configuration.runtime))
        kind = "initStart" if cold else "restoreStart"
        lines = lambda_log.init_start(runtime) if cold else lambda_log.restore_start(runtime)
        record = {
            "functionName": self._version.name,
            "functionVersion": self._version.version,
            "runtimeVersion": runtime.partition("\t")[0].removeprefix("Runtime Version: "),
            "initializationType": "on-demand" if cold else "snap-start",
        }
        self._platform(kind, record, lines)

    def started(self, milliseconds: float, *, cold: bool) -> None:
        """It is there."""
        self._restoring = False
        record = {"status": "success", "metrics": {"durationMs": round(milliseconds, 3)}}
        if cold:
            self._platform("initReport", record | {"phase": "init"})
        else:
            self._restore_ms = milliseconds
            self._platform("restoreReport", record, lambda_log.restore_report(milliseconds))

    def not_started(self, milliseconds: float, error: Mapping[str, Any], phase: str) -> None:
        """It did not come to life."""
        self._restoring = False
        line = lambda_log.restore_report if phase == "after_restore" else lambda_log.init_failed
        kind = "restoreReport" if phase == "after_restore" else "initReport"
        error_type = error.get("errorType")
        record = {
            "status": "timeout" if error_type == "Sandbox.Timedout" else "error",
            "errorType": error_type,
            "metrics": {"durationMs": round(milliseconds, 3)},
            "snapruntime": {"version": self._version.version},
        }
        self._platform(kind, record, line(milliseconds, error, phase))

    def invoked(self) -> None:
        """The handler is called."""
        record = {"requestId": self._request_id, "version": self._version.version}
        self._platform("start", record, lambda_log.start(self._request_id, self._function))

    def answered(self, invocation: Invocation, way: str, total_ms: float) -> None:
        """The handler has answered, or has been given up."""
        duration = invocation.duration_ms or 0.0
        hooks = invocation.hooks_ms or 0.0
        if invocation.restore_ms is not None and self._restore_ms is not None:
            # A copy counts from its hand-over; a report repeats what the request waited for it, CRIU's part included.
            invocation = dataclasses.replace(invocation, restore_ms=max(0.0, self._restore_ms - hooks))
        metrics: dict[str, Any] = {
            "durationMs": round(duration, 3),
            "billedDurationMs": math.ceil(duration + (invocation.init_ms or 0.0) + math.ceil(hooks)),
            "memorySizeMB": self._function.memory_mb,
            "maxMemoryUsedMB": lambda_log.max_memory_mb(invocation, self._function),
        }
        if invocation.init_ms is not None:
            metrics["initDurationMs"] = round(invocation.init_ms, 3)
        if invocation.restore_ms is not None:
            metrics["restoreDurationMs"] = round(invocation.restore_ms + hooks, 3)
            metrics["billedRestoreDurationMs"] = math.ceil(hooks)
        error_type = (invocation.error or {}).get("errorType")
        status = "success" if error_type is None else "timeout" if error_type == "Sandbox.Timedout" else "error"
        record: dict[str, Any] = {"requestId": self._request_id, "status": status, "metrics": metrics}
        if error_type is not None:
            record["errorType"] = error_type
        # Ours: which process it was that answered, and what the caller waited for in all.
        record["snapruntime"] = {"version": self._version.version, "way": way, "totalMs": round(total_ms, 3)}
        text = "\n".join(
            [
                *lambda_log.interrupted(invocation),
                lambda_log.end(self._request_id),
                lambda_log.report(invocation, self._function),
            ]
        )
        self._platform("report", record, text)
        self.flush()

    def _end_line(self) -> None:
        if self._begun:
            self._records.append(self._line(self._begun))
            self._begun = b""

    def _line(self, line: bytes) -> Record:
        return self._record("function", _parsed(line.decode("utf-8", "replace").removesuffix("\r")))

    def _platform(self, kind: str, record: Record, text: str = "") -> None:
        self._end_line()
        if self._warnings_only and record.get("status") not in _STATUSES_OF_WARNINGS:
            return
        made = self._record(f"platform.{kind}", record)
        if self._tail and not self._tail.endswith(b"\n"):
            self._keep(b"\n")
        if self._as_json:
            self._keep(json.dumps(made).encode() + b"\n")
        elif text:
            self._keep(text.encode() + b"\n")
        self._records.append(made | {"text": text})

    def _record(self, kind: str, record: Any) -> Record:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"time": now, "type": kind, "record": record}

    def _keep(self, data: bytes) -> None:
        self._tail += data[-LOG_TAIL:]
        if len(self._tail) > 4 * LOG_TAIL:
            del self._tail[:-LOG_TAIL]


def _parsed(line: str) -> Any:
    if line.startswith("{"):
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            pass
    return line


def _numbers(runtime: str) -> list[int]:
    return [int(part) for part in runtime.removeprefix("python").split(".") if part.isdigit()]
