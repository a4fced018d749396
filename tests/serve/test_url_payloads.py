"""Function URLs: requests as events, and what functions return as answers."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from snapruntime.edges.serve import cors
from snapruntime.edges.serve.exchange import Call
from snapruntime.edges.serve.urls import FunctionUrls, event_of, reply_of
from snapruntime.values.function_url import AuthType, Cors, FunctionUrl, InvokeMode

ID = "0123456789abcdefghijklmnopqrstuv"
URL = FunctionUrl(ID, "f", None, AuthType.NONE, InvokeMode.BUFFERED, None, "", "")


def call(
    method: str = "GET",
    raw_path: str = "/",
    raw_query: str = "",
    headers: dict[str, str] | None = None,
    body: bytes = b"",
) -> Call:
    given = {"host": f"{ID}.lambda-url.localhost:3001", "user-agent": "test", **(headers or {})}
    return Call("request-1", method, {"UrlId": ID}, raw_path, raw_query, {}, given, body, "127.0.0.1")


@pytest.mark.parametrize(
    ("host", "found"),
    [
        (f"{ID}.lambda-url.localhost:3001", ID),
        (f"{ID}.lambda-url.localhost", ID),
        (f"{ID.upper()}.Lambda-Url.example.org", ID),
        ("localhost:3001", None),
        (f"{ID}.example.org", None),
        (f"{ID[1:]}.lambda-url.localhost", None),
        ("", None),
    ],
)
def test_hosts(host: str, found: str | None) -> None:
    assert FunctionUrls.find(host) == found


def test_an_event() -> None:
    asked = call("POST", "/a%20b/%C3%BC", "q=1&q=2&empty=&s=%2Fx+y", {"cookie": "a=1; b=2", "x-one": "1,2"})
    event = event_of(URL, asked, None)
    context = event.pop("requestContext")
    assert context.pop("timeEpoch") > 1_700_000_000_000
    assert context.pop("time").endswith(" +0000")
    assert context == {
        "accountId": "anonymous",
        "apiId": ID,
        "domainName": f"{ID}.lambda-url.localhost",
        "domainPrefix": ID,
        "http": {
            "method": "POST",
            "path": "/a b/ü",
            "protocol": "HTTP/1.1",
            "sourceIp": "127.0.0.1",
            "userAgent": "test",
        },
        "requestId": "request-1",
        "routeKey": "$default",
        "stage": "$default",
    }
    assert event == {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/a b/ü",
        "rawQueryString": "q=1&q=2&empty=&s=%2Fx+y",
        "cookies": ["a=1", "b=2"],
        "headers": {
            "host": f"{ID}.lambda-url.localhost:3001",
            "user-agent": "test",
            "cookie": "a=1; b=2",
            "x-one": "1,2",
            "x-forwarded-for": "127.0.0.1",
            "x-forwarded-proto": "http",
        },
        "queryStringParameters": {"q": "1,2", "empty": "", "s": "/x y"},
        "isBase64Encoded": False,
    }


def test_who_signed_is_in_the_event() -> None:
    context = event_of(URL, call(), "AKID")["requestContext"]
    assert context["accountId"] == "123456789012"
    assert context["authorizer"]["iam"]["accessKey"] == "AKID"


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        ("application/json; charset=utf-8", b'{"a": "\xc3\xbc"}', True),
        ("text/plain", b"text", True),
        ("application/problem+json", b"{}", True),
        ("text/plain", b"\xff", False),
        ("application/x-www-form-urlencoded", b"a=1", False),
        ("image/png", b"\x89PNG", False),
        ("", b"?", False),
    ],
)
def test_bodies(kind: str, body: bytes, text: bool) -> None:
    event = event_of(URL, call("POST", headers={"content-type": kind} if kind else {}, body=body), None)
    assert event["isBase64Encoded"] is not text
    assert event["body"] == (body.decode() if text else base64.b64encode(body).decode())


FAILED = (502, b"Internal Server Error")


@pytest.mark.parametrize(
    ("result", "status", "body"),
    [
        ({"message": "hi"}, 200, b'{"message": "hi"}'),
        ("text", 200, b"text"),
        (None, 200, b"null"),
        ([1, 2], 200, b"[1, 2]"),
        ({"statusCode": 201, "body": "made"}, 201, b"made"),
        ({"statusCode": "204"}, 204, b""),
        ({"statusCode": 200, "body": {"a": 1}}, 200, b'{"a":1}'),
        ({"statusCode": 200, "body": "/wA=", "isBase64Encoded": True}, 200, b"\xff\x00"),
        ({"statusCode": 200, "headers": None}, 200, b""),
        ({"statusCode": 200, "body": "no base64!", "isBase64Encoded": True}, *FAILED),
        ({"statusCode": "no number"}, *FAILED),
        ({"statusCode": 99}, *FAILED),
        ({"statusCode": float("inf")}, *FAILED),
        ({"statusCode": 200, "headers": {"X-A": "\x7f"}}, *FAILED),
        ({"statusCode": 200, "headers": {"X-A": "1\r\nX-B: 2"}}, *FAILED),
        ({"statusCode": 200, "headers": {"X A": "1"}}, *FAILED),
        ({"statusCode": 200, "headers": {"X-A": {}}}, *FAILED),
        ({"statusCode": 200, "headers": "text"}, *FAILED),
        ({"statusCode": 200, "cookies": 1}, *FAILED),
        ({"statusCode": 200, "cookies": "a=b"}, *FAILED),
        ({"statusCode": 200, "body": "\ud800"}, *FAILED),
    ],
)
def test_answers(result: Any, status: int, body: bytes) -> None:
    reply = reply_of(json.dumps(result).encode())
    assert (reply.status, reply.body, reply.content_type) == (status, body, "application/json")


def test_headers_and_cookies_of_an_answer() -> None:
    result = {
        "statusCode": 302,
        "headers": {
            "Location": "/x",
            "Content-Type": "text/html",
            "X-Number": 1,
            "X-Flag": True,
            "Content-Length": "9",
        },
        "cookies": ["a=1; HttpOnly", "b=2"],
    }
    assert reply_of(json.dumps(result).encode()).headers == [
        ("Location", "/x"),
        ("Content-Type", "text/html"),
        ("X-Number", "1"),
        ("X-Flag", "true"),
        ("Set-Cookie", "a=1; HttpOnly"),
        ("Set-Cookie", "b=2"),
    ]


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"\xff", "orders returned is not JSON"),
        (b'{"statusCode": 99}', "its statusCode is '99'"),
        (b'{"statusCode": null}', "its statusCode is 'None'"),
        (b'{"statusCode": 200, "headers": {"X": null}}', "the value of its header 'X'"),
        (b'{"statusCode": 200, "headers": {"a b": "c"}}', "the name of its header 'a b'"),
        (b'{"statusCode": 200, "headers": ["a"]}', "its headers are no object"),
        (b'{"statusCode": 200, "cookies": "a=b"}', "its cookies are no list"),
        (b'{"statusCode": 200, "body": "$", "isBase64Encoded": true}', "its body is no base64"),
    ],
)
def test_who_hosts_it_is_told_why(caplog: pytest.LogCaptureFixture, payload: bytes, why: str) -> None:
    """The answer does not say it, as on AWS; and the function has nothing to log."""
    assert reply_of(payload, "orders").status == 502
    assert why in caplog.text


def test_what_is_no_json_is_a_bad_gateway() -> None:
    assert reply_of(b"\xff").status == 502


CORS = Cors(
    allow_credentials=True,
    allow_headers=("X-A",),
    allow_methods=("GET", "POST"),
    allow_origins=("https://good.example",),
    expose_headers=("X-B",),
    max_age=60,
)
GOOD, EVIL = {"origin": "https://good.example"}, {"origin": "https://evil.example"}
ASKED = {"access-control-request-method": "POST"}


def test_cors_of_a_site_that_may() -> None:
    reply = cors.preflight(CORS, call("OPTIONS", headers=GOOD | ASKED))
    assert reply is not None
    assert dict(reply.headers) == {
        "Access-Control-Allow-Origin": "https://good.example",
        "Access-Control-Allow-Credentials": "true",
        "Access-Control-Expose-Headers": "X-B",
        "Access-Control-Allow-Methods": "GET,POST",
        "Access-Control-Allow-Headers": "X-A",
        "Access-Control-Max-Age": "60",
        "Vary": "Origin",
    }
    anywhere = cors.headers(Cors(allow_origins=("*",)), call(headers=EVIL))
    assert ("Access-Control-Allow-Origin", "https://evil.example") in anywhere


def test_cors_of_others() -> None:
    assert cors.headers(CORS, call(headers=EVIL)) == []
    assert cors.headers(CORS, call()) == []
    assert cors.headers(None, call(headers=GOOD)) == []
    reply = cors.preflight(CORS, call("OPTIONS", headers=EVIL | ASKED))
    assert reply is not None
    assert reply.headers == []


@pytest.mark.parametrize(
    ("config", "method", "headers"),
    [(None, "OPTIONS", GOOD | ASKED), (CORS, "OPTIONS", GOOD), (CORS, "GET", GOOD | ASKED)],
)
def test_what_the_function_answers_itself(config: Cors | None, method: str, headers: dict[str, str]) -> None:
    assert cors.preflight(config, call(method, headers=headers)) is None
