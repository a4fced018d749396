"""`snapruntime serve` as a process of its own, and what has to be said to it beside requests."""

from __future__ import annotations

import base64
import io
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path
from typing import Any, Self

_FUNCTIONS = "/2015-03-31/functions"
_ROLE = "arn:aws:iam::123456789012:role/any"
_PATIENCE_S = 60.0


class Served:
    """A server on a free port of this machine.

    Attributes:
        url: its address.
    """

    def __init__(self, home: Path, *options: str) -> None:
        command = [sys.executable, "-m", "snapruntime", "--home", str(home), "serve", "--listen", "127.0.0.1:0"]
        self._process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().split()[-1]

    def call(self, method: str, path: str, document: dict[str, Any] | None = None) -> Any:
        """One call of the control plane."""
        body = None if document is None else json.dumps(document).encode()
        request = urllib.request.Request(self.url + path, data=body, method=method)
        with urllib.request.urlopen(request, timeout=_PATIENCE_S) as answer:
            return json.loads(answer.read() or b"null")

    def publish(self, name: str, source: Path) -> str:
        """A function of one file, with SnapStart; returns the path that invokes its version 1, once that is Active."""
        code = io.BytesIO()
        with zipfile.ZipFile(code, "w") as archive:
            archive.write(source, "app.py")
        self.call(
            "POST",
            _FUNCTIONS,
            {
                "FunctionName": name,
                "Runtime": f"python3.{sys.version_info.minor}",
                "Handler": "app.lambda_handler",
                "Timeout": 60,  # A busy machine is no error of the function.
                "MemorySize": 1769,  # One processor's worth, as the others have it.
                "Role": _ROLE,
                "Code": {"ZipFile": base64.b64encode(code.getvalue()).decode()},
                "SnapStart": {"ApplyOn": "PublishedVersions"},
            },
        )
        self.call("POST", f"{_FUNCTIONS}/{name}/versions", {})
        deadline = time.monotonic() + _PATIENCE_S
        while self.call("GET", f"{_FUNCTIONS}/{name}/configuration?Qualifier=1")["State"] == "Pending":
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} is still Pending after {_PATIENCE_S} s")
            time.sleep(0.05)
        return f"{_FUNCTIONS}/{name}/invocations?Qualifier=1"

    def seconds_of(self, call: str) -> dict[float, float]:
        """How many calls were answered within so many seconds, from request read to answer written, by /metrics."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=_PATIENCE_S) as answer:
            text = answer.read().decode()
        pattern = rf'snapruntime_http_request_seconds_bucket\{{call="{call}",le="([^"]+)",status="200"\}} (\S+)'
        return {float(bound): float(count) for bound, count in re.findall(pattern, text)}

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
