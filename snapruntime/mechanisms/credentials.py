"""AWS credentials for functions: found as the AWS command line finds them, served as Lambda serves them.

Under SnapStart the credentials in a function's environment would be as old as its snapshot, so Lambda has it ask an
endpoint instead (developer guide, "Using SnapStart with AWS SDKs"): GET AWS_CONTAINER_CREDENTIALS_FULL_URI, with the
header Authorization as AWS_CONTAINER_AUTHORIZATION_TOKEN says. Every AWS SDK does so by itself.
"""

from __future__ import annotations

import configparser
import hmac
import json
import os
import secrets
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from snapruntime.values.errors import UsageError
from snapruntime.values.model import Credentials

#: What is said of credentials that do not expire: when they are to be asked for again.
_ASK_AGAIN = timedelta(hours=1)
_PATH = "/2021-04-23/credentials"

Provider = Callable[[], Credentials]


def own_credentials() -> Credentials:
    """The caller's: the environment's, else those of AWS_PROFILE ("default") in the shared credentials file.

    Raises:
        UsageError: there are none, or they come from where we do not look (SSO, a process, an instance's role).
    """
    env = os.environ
    if env.get("AWS_ACCESS_KEY_ID") and env.get("AWS_SECRET_ACCESS_KEY"):
        expiration = _instant(env.get("AWS_CREDENTIAL_EXPIRATION"))
        return Credentials(
            env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"], env.get("AWS_SESSION_TOKEN"), expiration
        )
    path = Path(env.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()
    profile = env.get("AWS_PROFILE") or "default"
    file = configparser.RawConfigParser()
    try:
        file.read(path, encoding="utf-8")
        found = file[profile]
        return Credentials(
            found["aws_access_key_id"], found["aws_secret_access_key"], found.get("aws_session_token"), None
        )
    except (KeyError, configparser.Error, UnicodeDecodeError, OSError) as error:
        raise UsageError(
            f"There are no AWS credentials in the environment, nor for the profile {profile!r} in {path}.",
            hint='Put them into the environment: eval "$(aws configure export-credentials --format env)"',
        ) from error


def _instant(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None


class CredentialsEndpoint:
    """Serves one caller's credentials on loopback, to whoever has the token; a thread of its own does.

    Args:
        provider: asked at each request, so that what it has renewed is passed on.
    """

    def __init__(self, provider: Provider) -> None:
        # Only here: most runs serve no credentials, and its import takes a tenth of a command.
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

        self._token = secrets.token_urlsafe(32)
        token = self._token

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                given = self.headers.get("Authorization", "")
                if self.path != _PATH or not hmac.compare_digest(given.encode(), token.encode()):
                    self._answer(403, {"message": "This is not for you."})
                    return
                try:
                    self._answer(200, _document(provider()))
                except UsageError as error:
                    self._answer(500, {"message": error.message})

            def _answer(self, status: int, document: dict[str, str]) -> None:
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Standard error belongs to the functions' log."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="snapruntime-credentials", daemon=True)
        self._thread.start()

    @property
    def environment(self) -> dict[str, str]:
        """What a function's environment has to hold."""
        return {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://127.0.0.1:{self._server.server_port}{_PATH}",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": self._token,
        }

    def close(self) -> None:
        """Take no more requests."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _document(credentials: Credentials) -> dict[str, str]:
    expiration = credentials.expiration or datetime.now(UTC) + _ASK_AGAIN
    return {
        "AccessKeyId": credentials.access_key_id,
        "SecretAccessKey": credentials.secret_access_key,
        "Token": credentials.session_token or "",
        "Expiration": expiration.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
