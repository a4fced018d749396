"""What the layers hand to each other: a function to run, an answer it gave, the facts of a snapshot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

#: The largest event and response of a synchronous invocation, bytes: AWS's "6 MB", the number in its error text.
PAYLOAD_LIMIT = 6291556
#: What /tmp may hold under SnapStart, bytes: 512 MB.
TMP_LIMIT = 512 << 20
#: The longest client context, bytes of base64 (Invoke API, X-Amz-Client-Context).
CLIENT_CONTEXT_LIMIT = 3583
#: AWS's limits, seconds: init with the before-snapshot hooks; restore with the after-restore hooks; a function.
INIT_LIMIT_S = 130.0
RESTORE_LIMIT_S = 10.0
FUNCTION_LIMIT_S = 900.0

#: What a function sees of the network: the host's; nothing; a loopback of its own.
Network = Literal["host", "none", "isolated"]

#: "nobody": the user that functions run as, unless another is asked for.
NOBODY = 65534


@dataclass(frozen=True, slots=True)
class Function:
    """A function as it is to be run. Made by `snapruntime.workflows.resolve.resolve_function`.

    Attributes:
        name: what AWS_LAMBDA_FUNCTION_NAME says.
        module: the module with the handler, as Lambda writes it ("handler", "package/module").
        attribute: the handler's name in it; None stands for `lambda_handler`, else `handler`.
        task_root: the folder that holds the code; absolute.
        python: the interpreter; absolute.
        environment: what the function's environment holds beside what Lambda itself puts there.
        timeout_s: the longest an invocation may take, seconds.
        memory_mb: the memory size that the function is told, MB.
        read_only: further host paths that the function sees.
        writable: further host paths that the function sees and may change.
        uid: the user it runs as.
        gid: its group.
        network: what it sees of the network.
        hooks: ready-made hooks (modules of `snapruntime.hooks`) that are registered before its init.
    """

    name: str
    module: str
    attribute: str | None
    task_root: str
    python: str
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 3.0
    memory_mb: int = 512
    read_only: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    uid: int = NOBODY
    gid: int = NOBODY
    network: Network = "host"
    version: str = "$LATEST"
    hooks: tuple[str, ...] = ()

    @property
    def handler(self) -> str:
        """Lambda's handler string; one without a dot, which fails at init, is all in `attribute`."""
        return f"{self.module}.{self.attribute or 'lambda_handler'}" if self.module else self.attribute or ""

    @property
    def arn(self) -> str:
        """The ARN that the context object shows; account and region are placeholders of the right form."""
        region = self.environment.get("AWS_REGION", "us-east-1")
        return f"arn:aws:lambda:{region}:123456789012:function:{self.name}"

    @property
    def init_limit_s(self) -> float:
        """How long init and the before-snapshot hooks may take, seconds."""
        return min(max(INIT_LIMIT_S, self.timeout_s), FUNCTION_LIMIT_S)


@dataclass(frozen=True, slots=True)
class Credentials:
    """AWS credentials that are served to functions.

    Attributes:
        session_token: None for those that belong to a user.
        expiration: with a time zone; None where they do not expire.
    """

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    expiration: datetime | None = None


@dataclass(frozen=True, slots=True)
class Invocation:
    """One event and its answer.

    Attributes:
        request_id: a UUID, as in the context object and the log lines.
        snapshot: the identifier of the snapshot the copy was made from; None for a cold start.
        cold: whether a fresh process answered, not a restored copy.
        pid: the process that answered, as the host sees it; None where it never came to life.
        restore_ms: from the request until CRIU had restored the copy; None for a cold start.
        init_ms: a cold start's init; None for a copy.
        hooks_ms: the after-restore hooks; None for a cold start.
        duration_ms: the handler, as the host saw it.
        total_ms: from the request to the answer.
        max_memory_mb: the most memory that the process had resident, MB.
        payload: the response, JSON; None where it failed.
        error: AWS's error document: errorMessage, errorType, requestId, stackTrace; None where it did not fail.
        phase: where it failed: "init", "before_snapshot", "restore", "after_restore" or "invoke".
        logs: what the function wrote to stdout and stderr, cut where it was too long to keep.
    """

    request_id: str
    snapshot: str | None
    cold: bool
    pid: int | None
    restore_ms: float | None
    init_ms: float | None
    hooks_ms: float | None
    duration_ms: float | None
    total_ms: float
    max_memory_mb: int | None
    payload: bytes | None
    error: Mapping[str, Any] | None
    phase: str
    logs: str

    @property
    def result(self) -> Any:
        """The response as a Python value. Raises ValueError where it failed, or is bytes that are no JSON."""
        if self.payload is None:
            raise ValueError(f"the invocation failed: {dict(self.error or {})}")
        return json.loads(self.payload)
