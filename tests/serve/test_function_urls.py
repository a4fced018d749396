"""Function URLs over HTTP, as a browser or curl calls them."""

from __future__ import annotations

import http.client
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from serve.conftest import Serve, Server, create
from snapruntime.values.function_url import AuthType, Cors, InvokeMode
from snapruntime.workflows.functions import Functions
from snapruntime.workflows.urls import FunctionUrlService

SOURCE = """
    import base64

    def handler(event, context):
        path = event["rawPath"]
        if path == "/raise":
            raise ValueError("on purpose")
        if path == "/html":
            headers = {"Content-Type": "text/html"}
            return {"statusCode": 201, "headers": headers, "cookies": ["a=1", "b=2"], "body": "<p>"}
        if path == "/bytes":
            return {"statusCode": 200, "body": base64.b64encode(bytes(range(256))).decode(), "isBase64Encoded": True}
        if path == "/wrong":
            return {"statusCode": "high"}
        return event
    """


def http_call(
    server: Server,
    url: str,
    path: str = "/",
    method: str = "GET",
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, bytes, http.client.HTTPMessage]:
    """A request whose Host is that of the URL: names below localhost are not known to every resolver."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    host = url.removeprefix("http://").rstrip("/")
    connection.request(method, path, body=body, headers={"Host": host} | (headers or {}))
    response = connection.getresponse()
    answer = response.status, response.read(), response.headers
    connection.close()
    return answer


def test_a_target_that_names_the_url(server: Server, url: str) -> None:
    status, body, _ = http_call(server, url, f"{url}orders?a=b", headers={"Host": "localhost"})
    assert status == 200
    event = json.loads(body)
    assert (event["rawPath"], event["rawQueryString"]) == ("/orders", "a=b")
    assert event["headers"]["host"] == url.removeprefix("http://").rstrip("/")


@pytest.fixture(scope="module")
def url(client: Any) -> str:
    name = create(client, "web", SOURCE)
    client.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    cors = {"AllowOrigins": ["https://good.example"]}
    made = client.create_function_url_config(FunctionName=name, Qualifier="live", AuthType="NONE", Cors=cors)
    return str(made["FunctionUrl"])


def test_curl(server: Server, url: str) -> None:
    """curl takes every name below localhost for this machine, as browsers do."""
    done = subprocess.run(
        ["curl", "-sS", "-i", f"{url}a/b?x=1&x=2", "-d", '{"a": 1}', "-H", "Content-Type: application/json"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    head, _, body = done.stdout.partition("\n\n")
    assert "200 OK" in head, done.stderr
    event = json.loads(body)
    assert (event["rawPath"], event["queryStringParameters"], event["body"]) == ("/a/b", {"x": "1,2"}, '{"a": 1}')
    assert event["requestContext"]["http"]["method"] == "POST"


def test_answers(server: Server, url: str) -> None:
    status, body, headers = http_call(server, url, "/html")
    assert (status, body, headers["content-type"]) == (201, b"<p>", "text/html")
    assert headers.get_all("set-cookie") == ["a=1", "b=2"]
    assert http_call(server, url, "/bytes")[1] == bytes(range(256))
    for path in ("/raise", "/wrong"):
        assert http_call(server, url, path)[:2] == (502, b"Internal Server Error")
    status, body, headers = http_call(server, url, "/html", "HEAD")
    assert (status, body) == (201, b"")
    event = json.loads(http_call(server, url, "/", "PUT", bytes(5), {"X-Two": "a", "Cookie": "c=1; d=2"})[1])
    assert (event["body"], event["isBase64Encoded"], event["cookies"]) == ("AAAAAAA=", True, ["c=1", "d=2"])
    assert event["headers"]["x-two"] == "a"


def test_cors(server: Server, url: str) -> None:
    asked = {"Origin": "https://good.example", "Access-Control-Request-Method": "GET"}
    status, body, headers = http_call(server, url, "/", "OPTIONS", headers=asked)
    assert (status, body, headers["access-control-allow-origin"]) == (200, b"", "https://good.example")
    assert http_call(server, url, "/html", headers=asked)[2]["access-control-allow-origin"] == "https://good.example"
    assert (
        http_call(server, url, "/html", headers={"Origin": "https://x.example"})[2]["access-control-allow-origin"]
        is None
    )


def test_limits(server: Server, url: str) -> None:
    large = b"x" * 5_000_000  # As base64 it is over 6 MB.
    assert http_call(server, url, "/", "POST", large)[0] == 413
    assert http_call(server, url, "/", "POST", b"x" * 6_300_000)[0] == 413


def test_urls_that_are_not(server: Server) -> None:
    status, body, headers = http_call(server, f"http://{'x' * 32}.lambda-url.localhost/")
    assert (status, body, headers["x-amzn-errortype"]) == (403, b'{"Message":null}', "AccessDeniedException")


def test_the_alias_goes_and_the_url_stays(client: Any, server: Server) -> None:
    name = create(client, "aliasless", SOURCE)
    client.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    url = client.create_function_url_config(FunctionName=name, Qualifier="live", AuthType="NONE")["FunctionUrl"]
    assert http_call(server, url)[0] == 200
    client.delete_alias(FunctionName=name, Name="live")
    status, body, _ = http_call(server, url)
    assert (status, json.loads(body)["message"][:10]) == (403, "Forbidden.")
    client.delete_function(FunctionName=name)
    assert http_call(server, url)[1] == b'{"Message":null}'


def test_only_those_who_sign(serve: Serve, client: Any, server: Server, tmp_path: Any) -> None:
    name = create(client, "signed-url", SOURCE)
    url = client.create_function_url_config(FunctionName=name, AuthType="AWS_IAM")["FunctionUrl"]
    assert http_call(server, url)[0] == 403  # This server has no keys.
    keys = tmp_path / "keys"
    keys.touch(mode=0o600)
    keys.write_text("[a]\naws_access_key_id = AKIDONE\naws_secret_access_key = one\n")
    other = serve("--keys", str(keys))
    assert http_call(other, url)[0] == 403
    request = AWSRequest(method="POST", url=f"{url}path?a=b", data=b"text")
    SigV4Auth(Credentials("AKIDONE", "one"), "lambda", "us-east-1").add_auth(request)
    status, body, _ = http_call(other, url, "/path?a=b", "POST", b"text", dict(request.headers))
    assert status == 200, body
    assert json.loads(body)["requestContext"]["authorizer"]["iam"]["accessKey"] == "AKIDONE"
    assert http_call(other, url, "/path?a=c", "POST", b"text", dict(request.headers))[0] == 403


@pytest.mark.parametrize(
    ("method", "cors", "header"),
    [
        ("OPTIONS", Cors(allow_origins=("*",), allow_methods=("GET\r\nX-Evil: 1",)), "Access-Control-Allow-Methods"),
        ("GET", Cors(allow_origins=("*",), expose_headers=("\ud800",)), "Access-Control-Expose-Headers"),
    ],
)
def test_headers_that_cannot_be_sent(
    server: Server, client: Any, home: Path, method: str, cors: Cors, header: str
) -> None:
    """An older program kept what the API refuses now."""
    name = create(client, f"old-cors-{method}", SOURCE, publish=False)
    with Functions(home) as functions:
        url = FunctionUrlService(functions).create(
            name, None, auth=AuthType.NONE, invoke_mode=InvokeMode.BUFFERED, cors=cors
        )
    asks = {"Origin": "https://any.example", "Access-Control-Request-Method": "GET"}
    status, body, headers = http_call(server, f"http://{url.id}.lambda-url.localhost/", method=method, headers=asks)
    assert (status, headers["x-amzn-errortype"], "X-Evil" in headers) == (500, "ServiceException", False)
    assert header in json.loads(body)["Message"]
    said = f"The answer to {method} {url.id}.lambda-url.localhost/ cannot be sent: {header}"
    assert said in server.log.read_text()
