"""Function URLs: any HTTP request becomes an event (payload format 2.0), and what the function returns an answer.

A URL is known by its host, ID.lambda-url.ANYTHING: browsers and curl take every name below `localhost` for this
machine, and a reverse proxy may give it a domain of its own.
"""

from __future__ import annotations

import base64
import json
import logging
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, unquote

from snapruntime.edges.serve import cors
from snapruntime.edges.serve.api import Operation
from snapruntime.edges.serve.exchange import CONTROL, HEADER_NAME, Call, Reply, reply_json
from snapruntime.edges.serve.sigv4 import Key, SignedRequest, verify
from snapruntime.values.answer import Answer
from snapruntime.values.errors import printable
from snapruntime.values.function import ACCOUNT
from snapruntime.values.function_url import AuthType, FunctionUrl
from snapruntime.values.model import PAYLOAD_LIMIT
from snapruntime.values.service_errors import (
    AccessDeniedException,
    RequestTooLargeException,
    ResourceNotFoundException,
    ServiceError,
    TooManyRequestsException,
)
from snapruntime.workflows.host import FunctionHost
from snapruntime.workflows.urls import FunctionUrlService

_log = logging.getLogger("snapruntime.serve")

_HOST = re.compile(r"(?P<id>[a-z0-9]{32})\.lambda-url\.[^/]+", re.IGNORECASE)
_TEXT = re.compile(r"text/.*|application/(json|javascript|xml|.*\+json|.*\+xml)", re.IGNORECASE)
#: Headers that concern one connection only (RFC 9110, 7.6.1), and those that are ours to set.
_NOT_THEIRS = frozenset(
    (
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
        *("content-length", "date", "server"),
    )
)


class FunctionUrls:
    """Answers requests to function URLs. Blocks; may be called from several threads.

    Args:
        urls: which there are.
        host: what runs functions.
        keys: who may sign for URLs that ask for it; None where nobody can.
    """

    def __init__(
        self, urls: FunctionUrlService, host: FunctionHost, keys: Callable[[], Mapping[str, Key] | None]
    ) -> None:
        self._urls = urls
        self._host = host
        self._keys = keys
        self.operation = Operation("FunctionUrl", "", "", self.answer, lambda _: PAYLOAD_LIMIT, _too_large, "function")

    @staticmethod
    def find(host: str) -> str | None:
        """The ID of the function URL that a Host header names; None where it names none."""
        found = _HOST.fullmatch(host)
        return found["id"].lower() if found else None

    def answer(self, call: Call) -> Reply | None:
        """Have the function answer. None where the reply has been told."""
        url = self._urls.find(call.path["UrlId"])
        if url is None:
            reply = reply_json({"Message": None}, 403)
            reply.headers.append(("x-amzn-ErrorType", "AccessDeniedException"))
            return reply
        if (preflight := cors.preflight(url.cors, call)) is not None:
            return preflight

        def tell(reply: Reply) -> None:
            reply.headers.extend(cors.headers(url.cors, call))
            call.tell(reply)

        self._invoke(url, call, tell)
        return None

    def _invoke(self, url: FunctionUrl, call: Call, tell: Callable[[Reply], None]) -> None:
        key_id = self._authenticate(url, call)
        event = json.dumps(event_of(url, call, key_id)).encode()
        if len(event) > PAYLOAD_LIMIT:  # base64 makes it longer than it came.
            raise _too_large(PAYLOAD_LIMIT)

        def tell_answer(answer: Answer) -> None:
            tell(_bad_gateway() if answer.function_error else reply_of(answer.payload, url.function))

        try:
            self._host.invoke(url.function, url.alias, event, request_id=call.request_id, tell=tell_answer)
        except ResourceNotFoundException:  # The alias is gone; the URL stays, as on AWS.
            raise _forbidden() from None
        except TooManyRequestsException:
            raise
        except ServiceError as error:
            tell(_bad_gateway(f"{url.function}: {error.message}"))

    def _authenticate(self, url: FunctionUrl, call: Call) -> str | None:
        """The access key that signed; None where nobody has to."""
        if url.auth is AuthType.NONE:
            return None
        keys = self._keys()
        if keys is None:
            raise _forbidden()
        return verify(SignedRequest(call.method, call.raw_path, call.raw_query, call.headers, call.body), keys)


def event_of(url: FunctionUrl, call: Call, key_id: str | None) -> dict[str, Any]:
    """A request as the event that a function gets (payload format 2.0)."""
    now = datetime.now(UTC)
    host = call.headers.get("host", "").rpartition(":")[0] or call.headers.get("host", "")
    path = unquote(call.raw_path)
    headers = {name: value for name, value in call.headers.items() if name != "connection"}
    headers |= {
        "x-forwarded-for": ", ".join(filter(None, [call.headers.get("x-forwarded-for"), call.peer])),
        "x-forwarded-proto": call.headers.get("x-forwarded-proto", "http"),
    }
    context: dict[str, Any] = {
        "accountId": ACCOUNT if key_id else "anonymous",
        "apiId": url.id,
        "domainName": host,
        "domainPrefix": url.id,
        "http": {
            "method": call.method,
            "path": path,
            "protocol": "HTTP/1.1",
            "sourceIp": call.peer,
            "userAgent": call.headers.get("user-agent", ""),
        },
        "requestId": call.request_id,
        "routeKey": "$default",
        "stage": "$default",
        "time": f"{now:%d/%b/%Y:%H:%M:%S +0000}",
        "timeEpoch": int(now.timestamp() * 1000),
    }
    if key_id:
        context["authorizer"] = {
            "iam": {
                "accessKey": key_id,
                "accountId": ACCOUNT,
                "callerId": key_id,
                "cognitoIdentity": None,
                "principalOrgId": None,
                "userArn": f"arn:aws:iam::{ACCOUNT}:user/{key_id}",
                "userId": key_id,
            }
        }
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": call.raw_query,
        "headers": headers,
        "requestContext": context,
        "isBase64Encoded": False,
    }
    if cookie := call.headers.get("cookie"):
        event["cookies"] = cookie.split("; ")
    if call.raw_query:
        parameters: dict[str, str] = {}
        for name, value in parse_qsl(call.raw_query, keep_blank_values=True):
            parameters[name] = f"{parameters[name]},{value}" if name in parameters else value
        event["queryStringParameters"] = parameters
    if call.body:
        event["body"], event["isBase64Encoded"] = _body(call)
    return event


def _body(call: Call) -> tuple[str, bool]:
    """Text as it is, all else as base64."""
    kind = call.headers.get("content-type", "").partition(";")[0].strip()
    if _TEXT.fullmatch(kind):
        try:
            return call.body.decode(), False
        except UnicodeDecodeError:
            pass
    return base64.b64encode(call.body).decode(), True


def reply_of(payload: bytes, name: str = "") -> Reply:
    """What a function returned as an HTTP answer: an object with a statusCode says how; all else is the body itself."""
    try:
        result = json.loads(payload)
    except (ValueError, RecursionError):
        return _bad_gateway(f"What {name} returned is not JSON.")
    if isinstance(result, str):
        return Reply(200, result.encode("utf-8", "surrogatepass"))
    if not isinstance(result, dict) or "statusCode" not in result:
        return Reply(200, payload)
    try:
        return _structured(result)
    except ValueError as error:
        return _bad_gateway(f"What {name} returned is no HTTP answer: {error}")


def _structured(result: dict[str, Any]) -> Reply:
    """Raises ValueError where it is no answer that HTTP has; the message says why."""
    given, cookies = result.get("headers") or {}, result.get("cookies") or []
    if not isinstance(given, dict):
        raise ValueError("its headers are no object")
    if not isinstance(cookies, list):
        raise ValueError("its cookies are no list")
    headers = [_header(name, value) for name, value in given.items() if name.lower() not in _NOT_THEIRS]
    headers += [_header("Set-Cookie", cookie) for cookie in cookies]
    return Reply(_status(result["statusCode"]), _content(result), headers=headers)


def _status(given: object) -> int:
    try:
        status = 0 if isinstance(given, bool) else int(given)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):  # The latter is infinity's.
        status = 0
    if not 200 <= status <= 599:
        raise ValueError(f"its statusCode is {str(given)[:100]!r}")
    return int(status)


def _content(result: dict[str, Any]) -> bytes:
    body = result.get("body")
    if body is None:
        return b""
    if not isinstance(body, str):
        return json.dumps(body, separators=(",", ":")).encode()
    if not result.get("isBase64Encoded"):
        return body.encode()
    try:
        return base64.b64decode(body, validate=True)
    except ValueError as error:
        raise ValueError(f"its body is no base64, as isBase64Encoded says: {error}") from error


def _header(name: str, value: object) -> tuple[str, str]:
    if not HEADER_NAME.fullmatch(name):
        raise ValueError(f"the name of its header {name[:100]!r} has other characters than HTTP lets it")
    text = json.dumps(value) if isinstance(value, bool | int | float) else value
    if not isinstance(text, str) or CONTROL.search(text):
        # A line end in it would begin a header of the caller's choice.
        raise ValueError(f"the value of its header {name[:100]!r} is no text of one line")
    return name, text


def _bad_gateway(why: str = "") -> Reply:
    """AWS's answer, which does not say why; where the function's own log does not either, the server's does."""
    if why:
        _log.warning("A function URL was answered by 502. %s", printable(why))
    return Reply(502, b"Internal Server Error")


def _forbidden() -> AccessDeniedException:
    return AccessDeniedException(
        "Forbidden. For troubleshooting Function URL authorization issues, see: "
        "https://docs.aws.amazon.com/lambda/latest/dg/urls-auth.html"
    )


def _too_large(_: int) -> RequestTooLargeException:
    return RequestTooLargeException("Request Entity Too Large")
