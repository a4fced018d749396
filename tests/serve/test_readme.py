"""README's "Use it from boto3" does what it says, and docs/serve.md names what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import botocore.session

from serve.conftest import LIMIT_S, RUNTIME, Serve
from serve.test_function_urls import http_call

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
GUIDE = (ROOT / "docs" / "serve.md").read_text()
[BLOCK] = re.findall(r"<!-- serve -->\n```python\n(.*?)```", README, re.DOTALL)


def test_the_code_in_the_readme(serve: Serve) -> None:
    server = serve()
    code = BLOCK.replace("http://127.0.0.1:3001", server.url).replace("python3.11", RUNTIME)
    assert code != BLOCK
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    greeting, url = done.stdout.split("\n")[:2]
    assert greeting == "Hello, Ada!"
    assert b'"message": "Hello, world!"' in http_call(server, url)[1]


def test_the_guide_lists_all_calls() -> None:
    source = (ROOT / "snapruntime" / "edges" / "serve" / "operations.py").read_text()
    served = set(re.findall(r'"([A-Z][A-Za-z]+)",\s*"(?:GET|POST|PUT|DELETE)"', source))
    model = botocore.session.get_session().get_service_model("lambda")
    assert served <= set(model.operation_names)
    listed = set(re.findall(r"`([A-Z][A-Za-z]+)`", GUIDE)) & set(model.operation_names)
    assert listed == served


def test_routes_are_those_of_the_service_model() -> None:
    source = (ROOT / "snapruntime" / "edges" / "serve" / "operations.py").read_text()
    model = botocore.session.get_session().get_service_model("lambda")
    for name, method in re.findall(r'"([A-Z][A-Za-z]+)",\s*"(GET|POST|PUT|DELETE)"', source):
        assert model.operation_model(name).http["method"] == method, name
