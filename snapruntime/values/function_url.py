"""Function URLs: a function that HTTP clients call without knowing of Lambda."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class AuthType(StrEnum):
    """Who may call a function URL."""

    #: Whoever holds an access key.
    AWS_IAM = "AWS_IAM"
    #: Everybody.
    NONE = "NONE"


class InvokeMode(StrEnum):
    """How a function URL sends answers; what a Python function returns is sent in one piece either way."""

    BUFFERED = "BUFFERED"
    RESPONSE_STREAM = "RESPONSE_STREAM"


@dataclass(frozen=True, slots=True)
class Cors:
    """Which pages of other sites may call a function URL; members as in the API, None where they were not given."""

    allow_credentials: bool | None = None
    allow_headers: tuple[str, ...] | None = None
    allow_methods: tuple[str, ...] | None = None
    allow_origins: tuple[str, ...] | None = None
    expose_headers: tuple[str, ...] | None = None
    max_age: int | None = None


@dataclass(frozen=True, slots=True)
class FunctionUrl:
    """The URL of a function, or of one of its aliases.

    Attributes:
        id: 32 letters and digits, the first label of its host name.
        function: the function's name.
        alias: the alias; None for `$LATEST`.
        auth: whether callers have to sign.
        invoke_mode: given back as it came.
        cors: None where nothing was said of it.
        created: UTC, "2026-11-24T11:23:58.123Z".
        modified: likewise.
    """

    id: str
    function: str
    alias: str | None
    auth: AuthType
    invoke_mode: InvokeMode
    cors: Cors | None
    created: str
    modified: str
