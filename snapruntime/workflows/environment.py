"""The environment variables that a function finds: Lambda's own, and those it was given."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from snapruntime.mechanisms.interpreter import Interpreter
from snapruntime.mechanisms.sandbox import RUNTIME_FOLDER
from snapruntime.values.errors import UsageError
from snapruntime.values.model import Function

SNAP_START, ON_DEMAND = "snap-start", "on-demand"

#: Names that Lambda sets and a function's configuration may not (developer guide, "Defined runtime environment
#: variables": the reserved ones). The region and the credentials are reserved there too; here nobody else gives them.
RESERVED = frozenset(
    {
        "_HANDLER",
        "_X_AMZN_TRACE_ID",
        "AWS_LAMBDA_FUNCTION_NAME",
        "AWS_LAMBDA_FUNCTION_VERSION",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
        "AWS_LAMBDA_INITIALIZATION_TYPE",
        "AWS_LAMBDA_LOG_GROUP_NAME",
        "AWS_LAMBDA_LOG_STREAM_NAME",
        "AWS_LAMBDA_RUNTIME_API",
        "AWS_EXECUTION_ENV",
        "LAMBDA_TASK_ROOT",
        "LAMBDA_RUNTIME_DIR",
    }
)


def check_environment(environment: dict[str, str]) -> None:
    """Refuse what cannot be an environment variable, or is Lambda's own.

    Raises:
        UsageError: says which.
    """
    for name, value in environment.items():
        if name in RESERVED:
            raise UsageError(f"The environment variable {name} is reserved: Lambda sets it itself.")
        if not (isinstance(name, str) and isinstance(value, str)):  # The Python API's callers need not be typed.
            raise UsageError(f"The environment variable {name!r} is no text: {value!r}.")
        if not name or "=" in name or "\0" in name + value:
            raise UsageError(f"{name!r} cannot be the name, or its value the value, of an environment variable.")
        try:
            (name + value).encode()
        except UnicodeEncodeError:  # What starts workers is told in JSON.
            raise UsageError(f"The environment variable {name!a} is not UTF-8.") from None


def environment_of(function: Function, interpreter: Interpreter, initialization_type: str) -> dict[str, str]:
    """All of the environment of `function`'s worker."""
    major, minor, _ = interpreter.version
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin:/opt/bin",
        "LANG": "C.UTF-8",  # Lambda says en_US.UTF-8, a locale that many hosts do not have.
        "TZ": ":UTC",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": function.environment.get("AWS_REGION", "us-east-1"),
        "AWS_EXECUTION_ENV": f"AWS_Lambda_python{major}.{minor}",
        **function.environment,
        "AWS_LAMBDA_FUNCTION_NAME": function.name,
        "AWS_LAMBDA_FUNCTION_VERSION": function.version,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_mb),
        "AWS_LAMBDA_INITIALIZATION_TYPE": initialization_type,
        "LAMBDA_TASK_ROOT": function.task_root,
        "LAMBDA_RUNTIME_DIR": RUNTIME_FOLDER,
        "_HANDLER": function.handler,
        **(_log_names(function) if initialization_type == ON_DEMAND else {}),
    }


def _log_names(function: Function) -> dict[str, str]:
    """Lambda's names of the log. A process has a stream of its own, so those that share a snapshot have no name."""
    stream = f"{datetime.now(UTC):%Y/%m/%d}/[{function.version}]{uuid.uuid4().hex}"
    return {"AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function.name}", "AWS_LAMBDA_LOG_STREAM_NAME": stream}
