"""Verification of AWS Signature Version 4: who signed this request, and is it the request that they signed?

Libraries sign; none that is kept verifies. The steps are those of the IAM user guide, "Create a signed AWS API
request"; the tests have botocore sign. Signatures in the query string (pre-signed URLs) are not taken.
"""

from __future__ import annotations

import configparser
import hashlib
import hmac
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote, unquote_plus

from snapruntime.values.errors import UsageError
from snapruntime.values.service_errors import (
    IncompleteSignatureException,
    InvalidSignatureException,
    MissingAuthenticationTokenException,
    UnrecognizedClientException,
)

#: How far the clock of a client may be off, as on AWS.
_TOLERANCE = timedelta(minutes=5)
_SERVICE = "lambda"
_ALGORITHM = "AWS4-HMAC-SHA256"
_AUTHORIZATION = re.compile(
    rf"{_ALGORITHM} +Credential=(?P<credential>[^,\s]+), *SignedHeaders=(?P<headers>[^,\s]+), *"
    r"Signature=(?P<signature>[0-9a-f]{64})"
)


@dataclass(frozen=True, slots=True)
class Key:
    """A secret access key; the session token that goes with it, or ""."""

    secret: str
    token: str


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """What a signature covers of a request.

    Attributes:
        method: GET, POST, …
        raw_path: as it came, still percent-encoded.
        raw_query: likewise, without the "?".
        headers: by name in lower case; where one came several times, joined by commas.
        body: all of it.
    """

    method: str
    raw_path: str
    raw_query: str
    headers: Mapping[str, str]
    body: bytes


def read_keys(path: Path) -> dict[str, Key]:
    """The access keys of a file in the form of ~/.aws/credentials: any profile's key may sign.

    Raises:
        UsageError: it cannot be read, others may read or change it, or it has no key.
    """
    parser = configparser.RawConfigParser()
    try:
        with path.open(encoding="utf-8") as file:
            parser.read_file(file)
            mode = path.stat().st_mode
    except configparser.Error as error:
        # Its message quotes the line, which may be a secret; from None, since --debug would show it likewise.
        raise UsageError(f"The file of access keys {path} cannot be read: {_where(error)}.") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"The file of access keys {path} cannot be read: {error}") from error
    if mode & 0o077:
        raise UsageError(f"Others may read the access keys in {path}.", hint=f"chmod 600 {path}")
    keys = {}
    for name in parser.sections():
        profile = parser[name]
        key_id, secret = profile.get("aws_access_key_id"), profile.get("aws_secret_access_key")
        if not key_id or not secret:
            raise UsageError(
                f"Profile [{name}] in {path} has no key.",
                hint="Each needs aws_access_key_id and aws_secret_access_key, as in ~/.aws/credentials.",
            )
        keys[key_id] = Key(secret, profile.get("aws_session_token", ""))
    if not keys:
        raise UsageError(f"There is no access key in {path}.", hint="It has the form of ~/.aws/credentials.")
    return keys


def _where(error: configparser.Error) -> str:
    """What is wrong with a file of keys, without what is in it."""
    match error:
        case configparser.MissingSectionHeaderError():
            return f"line {error.lineno} stands before the first [profile]"
        case configparser.ParsingError():
            return f"line {error.errors[0][0]} is no NAME = VALUE"
        case configparser.DuplicateOptionError() | configparser.DuplicateSectionError():
            return f"line {error.lineno} says again what was said before"
        case _:
            return "it has not the form of ~/.aws/credentials"


def verify(request: SignedRequest, keys: Mapping[str, Key], now: datetime | None = None) -> str:
    """The access key ID that signed `request`.

    Raises:
        MissingAuthenticationTokenException, IncompleteSignatureException, UnrecognizedClientException,
            InvalidSignatureException: nobody did, or not this request, or too long ago; in AWS's words.
    """
    given = request.headers.get("authorization")
    if not given:
        raise MissingAuthenticationTokenException("Missing Authentication Token")
    found = _AUTHORIZATION.fullmatch(given.strip())
    stamp = request.headers.get("x-amz-date", "")
    if found is None or not re.fullmatch(r"\d{8}T\d{6}Z", stamp):
        raise IncompleteSignatureException(
            "Authorization header requires 'Credential', 'SignedHeaders' and 'Signature' parameters, and an X-Amz-Date"
            f" header. Authorization={given[:200]}",
        )
    key_id, _, scope = found["credential"].partition("/")
    key = keys.get(key_id)
    token = request.headers.get("x-amz-security-token", "")
    if key is None or not hmac.compare_digest(key.token.encode(), token.encode("utf-8", "surrogateescape")):
        raise UnrecognizedClientException("The security token included in the request is invalid.")
    _check_scope(scope, stamp)
    _check_time(stamp, now or datetime.now(UTC))
    names = found["headers"].split(";")
    # What is not covered could be exchanged on the way: the host, and all that this server acts upon.
    uncovered = {name for name in request.headers if name == "host" or name.startswith("x-amz-")} - set(names)
    if uncovered:
        raise _mismatch(f" These headers have to be signed: {', '.join(sorted(uncovered))}.")
    if not hmac.compare_digest(_signature(request, names, key.secret, scope, stamp), found["signature"]):
        raise _mismatch()
    return key_id


def _check_scope(scope: str, stamp: str) -> None:
    parts = scope.split("/")
    if len(parts) != 4 or parts[0] != stamp[:8] or parts[2:] != [_SERVICE, "aws4_request"]:
        raise InvalidSignatureException(
            f"Credential should be scoped to {stamp[:8]}/REGION/{_SERVICE}/aws4_request, not '{scope[:100]}'.",
        )


def _check_time(stamp: str, now: datetime) -> None:
    try:
        signed = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise _mismatch() from None
    text = f"{now:%Y%m%dT%H%M%SZ}"
    if now - signed > _TOLERANCE:
        raise InvalidSignatureException(f"Signature expired: {stamp} is now earlier than {text} - 5 min.")
    if signed - now > _TOLERANCE:
        raise InvalidSignatureException(f"Signature not yet current: {stamp} is still later than {text} + 5 min.")


def _mismatch(more: str = "") -> InvalidSignatureException:
    return InvalidSignatureException(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access "
        f"Key and signing method. Consult the service documentation for details.{more}",
    )


def _signature(request: SignedRequest, names: list[str], secret: str, scope: str, stamp: str) -> str:
    lines = [f"{name}:{re.sub(' +', ' ', request.headers.get(name, '').strip())}\n" for name in names]
    canonical = "\n".join(
        (
            request.method,
            _canonical_path(request.raw_path),
            _canonical_query(request.raw_query),
            "".join(lines),
            ";".join(names),
            hashlib.sha256(request.body).hexdigest(),
        )
    )
    digest = hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()
    key = f"AWS4{secret}".encode()
    for part in (*scope.split("/"), f"{_ALGORITHM}\n{stamp}\n{scope}\n{digest}"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key.hex()


def _canonical_path(raw_path: str) -> str:
    """Without "." and ".." and empty parts; encoded once more, as all services but S3 want it."""
    path = posixpath.normpath(raw_path or "/").replace("//", "/")
    if raw_path.endswith("/") and path != "/":
        path += "/"
    return quote(path, safe="/~-_.")


def _canonical_query(raw_query: str) -> str:
    pairs = []
    for part in filter(None, raw_query.split("&")):
        name, _, value = part.partition("=")
        pairs.append((quote(unquote_plus(name), safe="~-_."), quote(unquote_plus(value), safe="~-_.")))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))
