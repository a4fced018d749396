"""What the worker costs (lines, modules, threads, fds: all of it is in every snapshot), and where it runs."""

from __future__ import annotations

import io
import os
import sys
import tokenize
from pathlib import Path

import pytest

from .conftest import Spawn
from .harness import MAIN

SOURCES = sorted(MAIN.parent.glob("*.py"))
# Heavy or thread-starting modules that a restored copy would carry for nothing.
NEVER = {
    *("asyncio", "typing", "dataclasses", "inspect", "ssl", "random", "socket", "selectors", "select", "subprocess"),
    *(
        "tempfile",
        "uuid",
        "decimal",
        "pathlib",
        "argparse",
        "contextvars",
        "ctypes",
        "http",
        "urllib",
        "pickle",
        "signal",
    ),
}


def code_lines(path: Path) -> int:
    """Lines that hold code: no blank lines, comments or docstrings."""
    lines: set[int] = set()
    previous = tokenize.INDENT
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        skip = token.type in (
            tokenize.COMMENT,
            tokenize.NL,
            tokenize.NEWLINE,
            tokenize.INDENT,
            tokenize.DEDENT,
            tokenize.ENDMARKER,
        )
        docstring = token.type == tokenize.STRING and previous in (tokenize.INDENT, tokenize.NEWLINE, tokenize.DEDENT)
        if not skip and not docstring:
            lines.update(range(token.start[0], token.end[0] + 1))
        if token.type not in (tokenize.COMMENT, tokenize.NL):
            previous = token.type
    return len(lines)


def test_the_whole_worker_stays_small() -> None:
    assert sum(map(code_lines, SOURCES)) < 740


def test_it_imports_nothing_but_the_standard_library_and_itself() -> None:
    import ast

    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                top = name.split(".")[0]
                assert top in sys.stdlib_module_names or name == "_snapruntime_worker.bootstrap", (path.name, name)


def test_modules_threads_and_fds(spawn: Spawn) -> None:
    worker = spawn("""
        import sys, os
        loaded = sorted(sys.modules)
        def handler(e, c):
            later = sorted(sys.modules.keys() - {*loaded, "handler"})
            return [loaded, later, os.listdir("/proc/self/task"), sorted(map(int, os.listdir("/proc/self/fd")))]
    """, flags=("-S",))  # -S: what site and its .pth files import is not ours  # fmt: skip
    ready = worker.init(kind="snap-start")
    assert (ready["threads"], ready["os_threads"]) == ([], 1)
    loaded, later, tasks, fds = worker.result()
    assert not NEVER & set(loaded), NEVER & set(loaded)
    assert len(loaded) < 110, loaded
    assert later == []  # the first invocation must not wait for an import
    assert len(tasks) == 1
    assert [fd for fd in fds if fd <= 4][:4] == [0, 1, 2, 3]


def interpreters() -> dict[str, str]:
    """The system's own Python, and what else is installed: on the path, or beside the one that runs this test."""
    places = [*map(Path, os.get_exec_path()), *Path(sys.base_prefix).parent.glob("3.*/bin")]
    programs = [place / f"python3.{minor}" for minor in range(9, 15) for place in places if place.name != "shims"]
    found = {path.name: str(path) for path in programs if path.exists()}
    return {"system": "/usr/bin/python3", **found} if os.path.exists("/usr/bin/python3") else found


@pytest.mark.parametrize("python", interpreters().values(), ids=interpreters().keys())
def test_core_scenario_under_another_interpreter(spawn: Spawn, python: str) -> None:
    """Where the `snapruntime` package is not installed, and none of its dependencies."""
    worker = spawn(
        """
        import collections, decimal, logging, random, socket, sys, threading
        from snapshot_restore_py import register_before_snapshot, register_after_restore
        seen = [random.random()]
        client = socket.socket()
        threading.Thread(target=threading.Event().wait, name="t", daemon=True).start()
        register_before_snapshot(seen.append, "before")
        @register_after_restore
        def after(): seen.append("after")
        Point = collections.namedtuple("Point", "x")
        def handler(event, context):
            if event == "fail": raise KeyError(event)
            logging.warning("hello")
            return [seen[1:], Point(decimal.Decimal("1.0")), context.function_version, client.fileno()]
        """,
        python=python,
        env={"AWS_LAMBDA_FUNCTION_VERSION": "3"},
    )
    ready = worker.init(kind="snap-start")
    assert ready["type"] == "ready", ready
    assert ready["before_hooks"] == 1
    assert len(ready["threads"]) == 1
    worker.send("restore", environment={"A": "ü"})
    assert "random" in worker.expect("restored")["entropy"]
    seen, point, version, fd = worker.result({"a": 1})
    assert (seen, point, version) == (["before", "after"], {"x": 1.0}, "3")
    worker.send("describe_fd", fd=fd)
    answer = worker.expect("fd_owner")
    assert (answer["owners"], answer["opened_at"]) == (["handler:client (socket.socket)"], "handler.py:5")
    error = worker.invoke("fail")["error"]
    assert error["errorType"] == "KeyError"
    assert len(error["stackTrace"]) == 1
    assert "^" not in error["stackTrace"][0]
    assert "\treq-1\thello\n" in worker.log()
    worker.sock.close()
    assert worker.wait() == 0
