"""Signatures: what botocore signs is accepted, and nothing else is."""

from __future__ import annotations

import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from snapruntime.edges.serve.sigv4 import Key, SignedRequest, read_keys, verify
from snapruntime.values.errors import UsageError
from snapruntime.values.service_errors import (
    IncompleteSignatureException,
    InvalidSignatureException,
    MissingAuthenticationTokenException,
    ServiceError,
    UnrecognizedClientException,
)

KEYS = {"AKIDEXAMPLE": Key("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", ""), "ASIATEMPORARY": Key("secret", "a token")}
#: Text that can be written as UTF-8.
TEXT = st.text(st.characters(codec="utf-8"), max_size=15)


def signed(
    url: str = "http://localhost:3001/2015-03-31/functions/f/invocations",
    *,
    method: str = "POST",
    body: bytes = b"{}",
    key: str = "AKIDEXAMPLE",
    headers: dict[str, str] | None = None,
    params: dict[str, str] | None = None,
    service: str = "lambda",
) -> SignedRequest:
    """A request that botocore has signed, as a server receives it."""
    request = AWSRequest(method=method, url=url, data=body, headers=headers or {}, params=params or {})
    secret = KEYS.get(key, Key("unknown", ""))
    SigV4Auth(Credentials(key, secret.secret, secret.token or None), service, "eu-central-1").add_auth(request)
    prepared = request.prepare()
    parts = urlsplit(prepared.url)
    received = {"host": parts.netloc, **{name.lower(): str(value) for name, value in prepared.headers.items()}}
    return SignedRequest(method, parts.path, parts.query, received, body)


def changed(request: SignedRequest, **changes: Any) -> SignedRequest:
    members = {name: getattr(request, name) for name in SignedRequest.__slots__}
    return SignedRequest(**(members | changes))


def with_headers(request: SignedRequest, headers: dict[str, str | None]) -> SignedRequest:
    """`request` with other headers; those that are None are left out."""
    merged = dict(request.headers) | headers
    return changed(request, headers={name: value for name, value in merged.items() if value is not None})


def test_what_botocore_signs_is_accepted() -> None:
    assert verify(signed(), KEYS) == "AKIDEXAMPLE"
    assert verify(signed(key="ASIATEMPORARY"), KEYS) == "ASIATEMPORARY"
    assert verify(signed(body=b"", method="GET"), KEYS) == "AKIDEXAMPLE"
    spaced = signed(headers={"X-Amz-Client-Context": "a  b   c ", "Content-Type": "application/json"})
    assert verify(spaced, KEYS) == "AKIDEXAMPLE"


@given(TEXT, st.dictionaries(TEXT.filter(bool), TEXT, max_size=4), st.binary(max_size=50))
def test_any_name_query_and_body(name: str, params: dict[str, str], body: bytes) -> None:
    # As clients send it: encoded, a colon as %3A. What would be resolved on the way is no name of a function.
    path = "x" + quote(name, safe="")
    request = signed(f"http://localhost/2015-03-31/functions/{path}/configuration", params=params, body=body)
    assert verify(request, KEYS) == "AKIDEXAMPLE"
    with pytest.raises(InvalidSignatureException):
        verify(changed(request, body=body + b" "), KEYS)


@pytest.mark.parametrize(
    "changes",
    [
        {"body": b'{"other": 1}'},
        {"method": "PUT"},
        {"raw_path": "/2015-03-31/functions/g/invocations"},
        {"raw_query": "Qualifier=2"},
    ],
)
def test_another_request_than_was_signed(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidSignatureException, match="does not match"):
        verify(changed(signed(), **changes), KEYS)


@pytest.mark.parametrize(
    ("headers", "error", "said"),
    [
        ({"authorization": None}, MissingAuthenticationTokenException, "Missing Authentication Token"),
        ({"authorization": "Bearer 1234"}, IncompleteSignatureException, "requires 'Credential'"),
        ({"authorization": "AWS4-HMAC-SHA256 Credential=a/b"}, IncompleteSignatureException, "requires 'Credential'"),
        ({"x-amz-date": None}, IncompleteSignatureException, "X-Amz-Date"),
        ({"x-amz-date": "yesterday"}, IncompleteSignatureException, "X-Amz-Date"),
        ({"x-amz-date": "20261399T000000Z"}, InvalidSignatureException, "scoped"),
        ({"host": "elsewhere"}, InvalidSignatureException, "does not match"),
        ({"x-amz-invocation-type": "Event"}, InvalidSignatureException, "have to be signed: x-amz-invocation-type"),
        ({"x-amz-security-token": "guessed"}, UnrecognizedClientException, "security token"),
    ],
)
def test_headers_that_will_not_do(headers: dict[str, str | None], error: type[ServiceError], said: str) -> None:
    with pytest.raises(error, match=said) as caught:
        verify(with_headers(signed(), headers), KEYS)
    assert caught.value.status == 403


def test_keys_that_will_not_do() -> None:
    with pytest.raises(UnrecognizedClientException):
        verify(signed(key="AKIDNOBODY"), KEYS)
    with pytest.raises(UnrecognizedClientException):
        verify(with_headers(signed(key="ASIATEMPORARY"), {"x-amz-security-token": "stolen"}), KEYS)
    with pytest.raises(InvalidSignatureException, match="does not match"):
        verify(signed(), KEYS | {"AKIDEXAMPLE": Key("another secret", "")})
    with pytest.raises(InvalidSignatureException, match="scoped"):
        verify(signed(service="s3"), KEYS)


def test_time() -> None:
    request = signed()
    now = datetime.now(UTC)
    for minutes in (-4, 0, 4):
        verify(request, KEYS, now + timedelta(minutes=minutes))
    with pytest.raises(InvalidSignatureException, match="Signature expired"):
        verify(request, KEYS, now + timedelta(minutes=6))
    with pytest.raises(InvalidSignatureException, match="not yet current"):
        verify(request, KEYS, now - timedelta(minutes=6))


def test_the_file_of_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(
        "[default]\naws_access_key_id = AKID\naws_secret_access_key = se%cret\n"
        "[other]\naws_access_key_id = ASIA\naws_secret_access_key = s\naws_session_token = t\n"
    )
    file.chmod(0o600)
    assert read_keys(file) == {"AKID": Key("se%cret", ""), "ASIA": Key("s", "t")}


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (None, 0o600, "cannot be read"),
        ("no section", 0o600, "cannot be read"),
        ("", 0o600, "no access key"),
        ("[default]\nregion = x\n", 0o600, r"\[default\].*has no key"),
        ("[default]\naws_access_key_id = AKID\naws_secret_access_key = s\n", 0o640, "Others may read"),
    ],
)
def test_files_that_will_not_do(tmp_path: Path, content: str | None, mode: int, said: str) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content)
        file.chmod(mode)
    with pytest.raises(UsageError, match=said):
        read_keys(file)


@pytest.mark.parametrize(
    "content",
    [
        "aws_secret_access_key = SECRET\n",
        "[default]\naws_access_key_id = AKID\naws_secret_access_key SECRET\n",
        "[default]\naws_secret_access_key = SECRET\naws_secret_access_key = SECRET\n",
        "[SECRET]\nregion = x\n[SECRET]\n",
    ],
)
def test_errors_do_not_quote_the_file(tmp_path: Path, content: str) -> None:
    """They go to the terminal, and after SIGHUP to the log, which more may read than the file."""
    file = tmp_path / "keys"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(UsageError, match=r"cannot be read: line \d .*\.$") as caught:
        read_keys(file)
    assert "SECRET" not in "".join(traceback.format_exception(caught.value, chain=True))
