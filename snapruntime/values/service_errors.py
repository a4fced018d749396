"""The errors of the Lambda API: names, status codes and fields as in botocore's service model (lambda/2015-03-31).

A class is called as the API calls its error. Where they become HTTP answers, `status`, `headers` and `document` say
all there is to send; where they become exit codes stands in `snapruntime.edges.exits`.
"""

from __future__ import annotations

from typing import ClassVar

from snapruntime.values.errors import SnapruntimeError


class ServiceError(SnapruntimeError):
    """Base of the API's errors.

    Attributes:
        status: the HTTP status code.
        sender: whether the caller is at fault; else we are.
        message_field: what the error's shape in the service model calls its message.
    """

    status: ClassVar[int] = 500
    sender: ClassVar[bool] = False
    message_field: ClassVar[str] = "Message"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint, code=self.name)

    @property
    def name(self) -> str:
        """What `X-Amzn-ErrorType` says."""
        return type(self).__name__

    def document(self) -> dict[str, str]:
        """The JSON body. The hint is in the message: the API has no other place for it."""
        text = f"{self.message.removesuffix('.')}. {self.hint}" if self.hint else self.message
        return {"Type": "User" if self.sender else "Service", self.message_field: text}

    def headers(self) -> dict[str, str]:
        """The headers that carry more than the body says."""
        return {"X-Amzn-ErrorType": self.name}


def broken_constraint(field: str, value: object, constraint: str) -> str:
    """AWS's words for a parameter that does not fit; arguments as in `ValidationException`."""
    shown = "null" if value is None else f"'{value}'"
    return f"1 validation error detected: Value {shown} at '{field}' failed to satisfy constraint: {constraint}"


class ServiceException(ServiceError):
    """Something went wrong on our side."""


class _SenderError(ServiceError):
    status = 400
    sender = True
    message_field = "message"


class InvalidParameterValueException(_SenderError):
    """A parameter cannot have this value."""


class ValidationException(_SenderError):
    """A parameter does not fit its pattern or limits. The API sends it, though no service model lists it.

    Args:
        field: what the API calls it.
        value: what it is; None where it is missing.
        constraint: "Member must …", as AWS words it.
    """

    def __init__(self, field: str, value: object, constraint: str) -> None:
        super().__init__(broken_constraint(field, value, constraint))


class InvalidRequestContentException(_SenderError):
    """The body of the request is no JSON."""


class ResourceNotFoundException(_SenderError):
    """There is no such function, version or alias."""

    status = 404
    message_field = "Message"


class ResourceConflictException(_SenderError):
    """It exists already, or cannot be done in the state that the function is in."""

    status = 409


class PreconditionFailedException(_SenderError):
    """The revision that the caller knows is not the latest."""

    status = 412


class RequestTooLargeException(_SenderError):
    """The payload is larger than the API takes."""

    status = 413


class RequestEntityTooLargeException(_SenderError):
    """The request as a whole is larger than the API takes. AWS sends it, though no service model lists it."""

    status = 413


class UnsupportedMediaTypeException(_SenderError):
    """The content type of the request is none that is taken."""

    status = 415


class UnknownOperationException(_SenderError):
    """The API has no such call, or this server does not serve it."""

    status = 404


class _RefusedError(_SenderError):
    status = 403


class AccessDeniedException(_RefusedError):
    """Not for this caller."""


class MissingAuthenticationTokenException(_RefusedError):
    """The request is not signed."""


class IncompleteSignatureException(_RefusedError):
    """The request's signature lacks a part."""


class UnrecognizedClientException(_RefusedError):
    """Nobody has the access key that the request is signed with."""


class InvalidSignatureException(_RefusedError):
    """The request is not what was signed, or was signed too long ago."""


class ServiceUnavailableException(ServiceError):
    """The server is shutting down, or has as many connections as it can take. Clients try again."""

    status = 503


class CodeStorageExceededException(_SenderError):
    """The disk does not take the code."""


class InvalidZipFileException(ServiceError):
    """The code of the version cannot be unpacked."""

    status = 502


class InvalidRuntimeException(ServiceError):
    """The interpreter of the version is not there any more."""

    status = 502


class TooManyRequestsException(_SenderError):
    """A limit of concurrency or of rate is reached.

    Attributes:
        reason: the model's ThrottleReason: "ReservedFunctionConcurrentInvocationLimitExceeded", …
        retry_after_s: when to try again, seconds; None where that is not known.
    """

    status = 429

    def __init__(self, message: str, *, reason: str, hint: str = "", retry_after_s: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
        self.retry_after_s = retry_after_s

    def document(self) -> dict[str, str]:
        return {**super().document(), "Reason": self.reason}

    def headers(self) -> dict[str, str]:
        after = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return {**super().headers(), **after}


class _SnapStartError(_SenderError):
    message_field = "Message"


class SnapStartException(_SnapStartError):
    """An after-restore hook failed."""


class SnapStartTimeoutException(_SnapStartError):
    """A copy was not there within the time limit for restores."""

    status = 408


class SnapStartNotReadyException(_SnapStartError):
    """The version's snapshot is still being made."""

    status = 409


class SnapStartRegenerationFailureException(_SnapStartError):
    """The host changed under the version's snapshot, and it could not be made anew."""

    status = 409
