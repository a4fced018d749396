"""The AWS CLI, unmodified, with another endpoint URL: every call, its waiters, and how it shows errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serve.conftest import ARN, LIMIT_S, ROLE, RUNTIME, Server, zipped

#: All commands in one process: the CLI takes a second to be imported.
MANY = """
import contextlib, io, json, sys
from awscli.clidriver import create_clidriver

driver = create_clidriver()
for line in sys.stdin:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = driver.main(json.loads(line))
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


class Aws:
    """`aws lambda …` in a folder, against a server."""

    def __init__(self, server: Server, folder: Path) -> None:
        self._url = server.url
        self._folder = folder
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "AWS_ACCESS_KEY_ID": "AKIDANY",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-c", MANY],
            env=self._environment,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _arguments(self, arguments: tuple[str, ...]) -> list[str]:
        return ["--endpoint-url", self._url, "lambda", *arguments]

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(self._arguments(arguments)), file=self._process.stdin, flush=True)
        code, out, err = json.loads(self._process.stdout.readline())
        return code, out, err

    def __call__(self, *arguments: str) -> Any:
        """What a command prints."""
        code, out, err = self.run(*arguments)
        assert code == 0, err
        return json.loads(out or "null")

    def binary(self, *arguments: str) -> Any:
        """The same by the program itself."""
        command = [str(Path(sys.executable).parent / "aws"), *self._arguments(arguments)]
        done = subprocess.run(
            command, env=self._environment, cwd=self._folder, capture_output=True, text=True, timeout=LIMIT_S
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def close(self) -> None:
        self._process.communicate(timeout=LIMIT_S)


@pytest.fixture
def aws(server: Server, tmp_path: Path) -> Any:
    aws = Aws(server, tmp_path)
    yield aws
    aws.close()


def test_every_call(aws: Aws, tmp_path: Path) -> None:
    (tmp_path / "code.zip").write_bytes(zipped())
    by_name = ("--function-name", "cli")
    created = aws(
        "create-function",
        *by_name,
        *("--runtime", RUNTIME, "--handler", "app.handler", "--role", ROLE, "--zip-file", "fileb://code.zip"),
        *("--snap-start", "ApplyOn=PublishedVersions", "--environment", "Variables={STAGE=cli}"),
    )
    assert created["FunctionArn"] == f"{ARN}:cli"
    aws("wait", "function-active-v2", *by_name)
    aws("wait", "function-exists", *by_name)
    assert aws("update-function-configuration", *by_name, "--timeout", "9")["Timeout"] == 9
    aws("wait", "function-updated-v2", *by_name)
    assert (
        aws("update-function-code", *by_name, "--zip-file", "fileb://code.zip")["CodeSha256"] == created["CodeSha256"]
    )
    assert aws("publish-version", *by_name)["Version"] == "1"
    aws("wait", "published-version-active", *by_name, "--qualifier", "1")
    assert aws("create-alias", *by_name, "--name", "live", "--function-version", "1")["FunctionVersion"] == "1"
    assert aws("update-alias", *by_name, "--name", "live", "--description", "d")["Description"] == "d"
    assert aws("get-alias", *by_name, "--name", "live")["Name"] == "live"
    assert len(aws("list-aliases", *by_name)["Aliases"]) == 1
    assert len(aws("list-versions-by-function", *by_name)["Versions"]) == 2
    assert "cli" in [one["FunctionName"] for one in aws("list-functions")["Functions"]]
    assert aws("get-function", *by_name)["Configuration"]["Timeout"] == 9
    assert aws("get-function-configuration", *by_name, "--qualifier", "live")["Version"] == "1"

    answer = aws.binary(
        "invoke", "--function-name", "cli:live", "--payload", '{"a": 1}', "--log-type", "Tail", "out.json"
    )
    assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "1")
    assert "LogResult" in answer
    result = json.loads((tmp_path / "out.json").read_text())
    assert (result["event"], result["type"], result["stage"]) == ({"a": 1}, "snap-start", "cli")
    failed = aws("invoke", *by_name, "--payload", '{"raise": "no"}', "out.json")
    assert failed["FunctionError"] == "Unhandled"
    assert aws("invoke", *by_name, "--invocation-type", "Event", "out.json")["StatusCode"] == 202
    assert aws("invoke", *by_name, "--invocation-type", "DryRun", "out.json")["StatusCode"] == 204

    aws("put-function-concurrency", *by_name, "--reserved-concurrent-executions", "2")
    assert aws("get-function-concurrency", *by_name) == {"ReservedConcurrentExecutions": 2}
    aws("delete-function-concurrency", *by_name)
    assert aws("get-account-settings")["AccountUsage"]["FunctionCount"] >= 1
    assert aws("create-function-url-config", *by_name, "--auth-type", "NONE")["AuthType"] == "NONE"
    assert aws("update-function-url-config", *by_name, "--auth-type", "AWS_IAM")["AuthType"] == "AWS_IAM"
    assert aws("get-function-url-config", *by_name)["AuthType"] == "AWS_IAM"
    assert len(aws("list-function-url-configs", *by_name)["FunctionUrlConfigs"]) == 1
    aws("delete-function-url-config", *by_name)
    aws("delete-alias", *by_name, "--name", "live")
    aws("delete-function", *by_name, "--qualifier", "1")
    aws("delete-function", *by_name)
    assert "ResourceNotFoundException" in aws.run("get-function", *by_name)[2]


def test_errors(aws: Aws) -> None:
    code, _, said = aws.run("invoke", "--function-name", "nothing", "out.json")
    assert code
    assert (
        "An error occurred (ResourceNotFoundException) when calling the Invoke operation: "
        f"Function not found: {ARN}:nothing" in said
    )
    code, _, said = aws.run("get-policy", "--function-name", "nothing")
    assert code
    assert "(UnknownOperationException) when calling the GetPolicy operation: snapruntime serves no such call" in said
