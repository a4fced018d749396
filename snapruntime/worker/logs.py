"""Lambda's logging: a root handler writing to stdout, as text or as JSON, with the request's ID in each line."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback

from . import payload, wire

_TIME = "%Y-%m-%dT%H:%M:%S"
_TEXT = "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s\n"
_NOT_EXTRA = frozenset(vars(logging.makeLogRecord({}))) - {"taskName"} | {"aws_request_id", "tenant_id", "_frame_type"}
_encode = json.JSONEncoder(ensure_ascii=False).encode


class LambdaHandler(logging.Handler):
    """Root handler and its filter in one. `request_id` and `tenant_id` are those of the running invocation."""

    def __init__(self) -> None:
        super().__init__()
        self.request_id, self.tenant_id = "", None
        self.as_json = os.environ.get("AWS_LAMBDA_LOG_FORMAT", "").upper() == "JSON"
        self.setFormatter(JsonFormatter(None, _TIME + "Z") if self.as_json else logging.Formatter(_TEXT, _TIME))

    def handle(self, record: logging.LogRecord) -> bool:
        vars(record).update(aws_request_id=self.request_id, tenant_id=self.tenant_id)
        return super().handle(record)

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        # On Lambda each record is an event of its own; a formatter of the function's ends no line.
        sys.stdout.write(text if text.endswith("\n") else text + "\n")

    def log_error(self, document: wire.Header) -> None:
        """Write an error document for whoever reads the log."""
        if self.as_json:
            now = time.strftime(_TIME + "Z", time.gmtime())
            lines = [payload.to_json({"timestamp": now, "log_level": "ERROR", **document})]
        else:
            head = ": ".join(filter(None, (document["errorType"], document["errorMessage"])))
            lines = [f"[ERROR] {head}" if head else "[ERROR]", "Traceback (most recent call last):"]
            for line in [line for part in document["stackTrace"] for line in part.splitlines() or [""]]:
                text = line.lstrip(" ")
                lines.append("\u00a0" * (len(line) - len(text)) + text)  # log viewers eat leading spaces
        try:
            sys.stdout.write("\n".join(lines) + "\n")
        except Exception:
            return  # the handler closed or replaced it: the answer to the caller matters more


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        record.levelno = min(50, max(0, record.levelno)) // 10 * 10
        record.levelname = logging.getLevelName(record.levelno)
        error = record.exc_info if record.exc_info and record.exc_info[0] else None
        fields = {
            "timestamp": self.formatTime(record, self.datefmt),
            "level": record.levelname,
            "message": record.getMessage(),
            "logger": record.name,
            "stackTrace": error and traceback.format_tb(error[2]),
            "errorType": error and error[0] and error[0].__name__,
            "errorMessage": error and str(error[1]),
            "requestId": getattr(record, "aws_request_id", None),
            "location": error and f"{record.pathname}:{record.funcName}:{record.lineno}",
            "tenantId": getattr(record, "tenant_id", None),
        }
        extra = {k: v for k, v in vars(record).items() if k not in _NOT_EXTRA and k not in fields}
        return _encode({k: v for k, v in {**fields, **extra}.items() if v is not None}) + "\n"


def install() -> LambdaHandler:
    """Before the handler's module is imported, so that it finds logging set up, as on Lambda."""
    logging.Formatter.converter = time.gmtime
    root, handler = logging.getLogger(), LambdaHandler()
    level = os.environ.get("AWS_LAMBDA_LOG_LEVEL", "")
    level = "DEBUG" if level == "TRACE" else level.upper()
    if isinstance(logging.getLevelName(level), int):
        root.setLevel(level)
    root.addHandler(handler)
    return handler
