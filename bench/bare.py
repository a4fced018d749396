"""A bare process that answers: what a cold start and os.fork() are without sandbox, snapshot and supervisor of ours.

    python bare.py FILE once FD     load the handler in FILE, answer events on the socket FD until it is closed
    python bare.py FILE serve FD    load it and run its before-snapshot hooks; then, for each socket that comes over the
                                    socket FD, fork a child that answers events on that until it is closed

An event is a line of JSON, the answer to it another: {"pid": PID, "result": RESPONSE}. Standard library only.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import sys
import types
from collections.abc import Callable
from typing import Any


def load(path: str) -> tuple[Callable[[Any, object], Any], list[Callable[[], object]]]:
    """The handler in the file at `path`, and its before-snapshot hooks, the first to run first."""
    hooks: list[Callable[[], object]] = []

    def register(hook: Callable[[], object]) -> Callable[[], object]:
        hooks.insert(0, hook)
        return hook

    # The one module of the runtime that handlers import.
    module = types.ModuleType("snapshot_restore_py")
    module.register_before_snapshot = register  # type: ignore[attr-defined]
    module.register_after_restore = lambda hook: hook  # type: ignore[attr-defined]
    sys.modules["snapshot_restore_py"] = module
    spec = importlib.util.spec_from_file_location("handler", path)
    assert spec is not None
    assert spec.loader is not None
    handler = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(handler)
    return handler.lambda_handler, hooks


def answer(handler: Callable[[Any, object], Any], line: socket.socket) -> None:
    """Answer what comes on `line` until it is closed."""
    with line, line.makefile("rwb") as stream:
        for event in stream:
            result = handler(json.loads(event), None)
            stream.write(json.dumps({"pid": os.getpid(), "result": result}).encode() + b"\n")
            stream.flush()


def serve(handler: Callable[[Any, object], Any], control: socket.socket) -> None:
    """Fork a child for each socket that comes."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # The kernel collects the children.
    while True:
        data, fds, _, _ = socket.recv_fds(control, 1, 1)
        if not data:
            return
        if os.fork() == 0:
            control.close()
            answer(handler, socket.socket(fileno=fds[0]))
            os._exit(0)
        os.close(fds[0])


def main() -> None:
    path, how, fd = sys.argv[1:]
    # A program's folder comes first on its path; ours has modules with common names.
    sys.path[0] = os.path.dirname(path)
    with socket.socket(fileno=int(fd)) as control:
        handler, hooks = load(path)
        if how == "once":
            answer(handler, control)
            return
        for hook in hooks:
            hook()
        control.send(b"!")
        serve(handler, control)


if __name__ == "__main__":
    main()
