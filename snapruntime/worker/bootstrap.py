"""The life of a worker: init → before-snapshot hooks → ready → (snapshot) → restore → after-restore hooks → invoke …"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time

from . import context, entropy, handler, inputs, logs, payload, registry, signals, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, NoReturn

CONTROL_FD = 3
EXIT_INIT, EXIT_BEFORE_SNAPSHOT, EXIT_AFTER_RESTORE, EXIT_PROTOCOL = 1, 64, 65, 70


class HookError(Exception):
    """Arguments: the hook's name, what it raised."""


def main() -> None:
    os.set_inheritable(CONTROL_FD, False)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    _offer_hooks()
    signals.install(_end_by_signal)
    try:
        worker = Worker(_receive("init")[0])
        for message, body in iter(lambda: _receive("restore", "invoke", "describe_fd", "check", "rehearse"), None):
            getattr(worker, message["type"])(message, body)
    except wire.WireError as e:
        print(f"snapruntime worker: {e}", file=sys.stderr)
        _exit(EXIT_PROTOCOL)


class Worker:
    """A handler, initialised; one method for each message."""

    def __init__(self, message: wire.Header) -> None:
        started, before, hooks_ms = time.perf_counter(), 0, 0.0
        self.log = logs.install()
        self.inputs = inputs.Inputs(message["task_root"])
        self.seeds = entropy.Seeds(lambda: self.inputs.place(3))
        sys.path.insert(0, message["task_root"])
        try:
            os.chdir(message["task_root"])
            for name in message.get("hooks", []):
                __import__(f"snapruntime.hooks.{name}")  # before the handler's own, whose after-restore hooks need them
            self.handler = handler.load(message.get("handler"), message.get("module"))
        except Exception as e:  # SystemExit goes through: the host sees the process exit, as on Lambda
            self._fail("init_error", e, EXIT_INIT, phase="init", init_ms=_ms_since(started))
        init_ms, started = _ms_since(started), time.perf_counter()
        if message["initialization_type"] == "snap-start":
            try:
                before = _run(registry.before_snapshot_order())
            except HookError as e:
                self._fail("init_error", e, EXIT_BEFORE_SNAPSHOT, phase="before_snapshot", init_ms=init_ms)
            hooks_ms = _ms_since(started)
        self.seeds.finish()
        if message["initialization_type"] == "snap-start":
            entropy.renew(self.seeds.seeded)  # a library's first time may take 15 ms, which no copy should pay
            gc.collect()  # what is garbage should not be in the snapshot
        versions = {"wire": wire.WIRE_VERSION, "python": ".".join(map(str, sys.version_info[:3]))}
        threads = {"threads": self._threads(), "os_threads": len(os.listdir("/proc/self/task"))}
        timing = {"init_ms": init_ms, "before_hooks_ms": hooks_ms, "before_hooks": before}
        body = json.dumps(self.inputs.finish()).encode()
        _send("ready", body, **versions, **timing, **threads, seeded=self.seeds.seeded)

    def rehearse(self, message: wire.Header, _: bytes) -> None:
        """What a restore and an invocation take of us, without hooks and handler: its pages are then the copy's own."""
        time.tzset()
        entropy.renew(self.seeds.seeded)
        context.LambdaContext(message)
        _send("rehearsed", payload.encode_response(payload.decode_event(b'{"key": ["value", 1]}'))[0])

    def restore(self, message: wire.Header, _: bytes) -> None:
        started = time.perf_counter()
        for name, value in message.get("environment", {}).items():
            _set_env(name, value)
        time.tzset()
        renewed = entropy.renew(self.seeds.seeded if message.get("keep_seeds") else ())
        entropy_us, started = round(_ms_since(started) * 1000), time.perf_counter()
        try:
            after = _run(registry.after_restore_order())
        except HookError as e:
            self._fail("restore_error", e, EXIT_AFTER_RESTORE, hooks_ms=_ms_since(started))
        _send("restored", hooks_ms=_ms_since(started), after_hooks=after, entropy_us=entropy_us, entropy=renewed)

    def invoke(self, message: wire.Header, event: bytes) -> None:
        started = time.perf_counter()
        self.log.request_id, self.log.tenant_id = message["request_id"], message.get("tenant_id")
        _set_env("_X_AMZN_TRACE_ID", message.get("trace_id"))
        error, body, kind = None, b"", ""
        try:
            lambda_context = context.LambdaContext(message)
            body, kind = payload.encode_response(self.handler(payload.decode_event(event), lambda_context))
        except Exception as e:
            error = handler.error_document(e, message["request_id"])
            self.log.log_error(error)
        limit = message.get("response_limit", payload.RESPONSE_LIMIT)
        if len(body) > min(limit, wire.MAX_BODY):
            text = f"Response payload size exceeded maximum allowed payload size ({limit} bytes)."
            error = handler.error_document(handler.Fault("Function.ResponseSizeTooLarge", text), message["request_id"])
        answer = {"request_id": message["request_id"], "duration_ms": _ms_since(started)}
        if error is None:
            _send("result", body, content_type=kind, **answer)
        else:
            _send_error("error", error, **answer)

    def describe_fd(self, message: wire.Header, _: bytes) -> None:
        _send("fd_owner", **self.inputs.describe_fd(message["fd"]))

    def check(self, message: wire.Header, _: bytes) -> None:
        from . import check  # by the copy that is looked at only: no snapshot carries it

        _send("checked", check.answer(message["do"], self.inputs, message["task_root"]))

    def _threads(self) -> list[str]:
        """Threads besides the main one: "name (function it runs), started at handler.py:12"."""
        found = []
        for t in threading.enumerate():
            if t is not threading.main_thread():
                place = self.inputs.started_at(t)
                what = registry.hook_name(getattr(t, "_target", None) or type(t))
                found.append(f"{t.name} ({what})" + (f", started at {place}" if place else ""))
        return found

    def _fail(self, kind: str, error: Exception, status: int, **fields: Any) -> NoReturn:
        hook, cause = error.args if isinstance(error, HookError) else (None, error)
        document = handler.error_document(cause)
        self.log.log_error(document)
        names = {EXIT_BEFORE_SNAPSHOT: "Runtime.BeforeSnapshotError", EXIT_AFTER_RESTORE: "Runtime.AfterRestoreError"}
        _send_error(kind, document, hook=hook, function_error_type=names.get(status, document["errorType"]), **fields)
        _exit(status)


def _run(hooks: Iterable[registry.Hook]) -> int:
    """Returns how many ran. HookError from the first that raises; the rest are not run."""
    count = 0
    for hook in hooks:
        try:
            hook[0](*hook[1], **hook[2])
        except BaseException as e:  # sys.exit() in a hook is a failed hook, as on Lambda
            raise HookError(registry.hook_name(hook[0]), e) from e
        count += 1
    return count


def _offer_hooks() -> None:
    """Both names that hooks are imported from lead to our registry, whether or not such a package is installed."""

    def only_hooks(name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError(f"cannot import {name!r}: in a worker, snapruntime has only {', '.join(registry.__all__)}")

    for name in ("snapshot_restore_py", "snapruntime"):
        module: Any = type(sys)(name, registry.__doc__)
        module.__spec__ = type(sys.__spec__)(name, None)
        vars(module).update({function: getattr(registry, function) for function in registry.__all__})
        module.__all__ = registry.__all__[2:]  # what AWS's `import *` gives
        sys.modules[name] = module
    module.__getattr__ = only_hooks
    # The ready-made hooks, in the sandbox beside our folder. The module above them is no package: else an installed
    # snapruntime's own finder would import the rest of it here.
    module.hooks = sys.modules["snapruntime.hooks"] = type(sys)("snapruntime.hooks")
    module.hooks.__path__ = [os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "hooks")]


def _set_env(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _receive(*types: str) -> wire.Frame:
    frame = wire.receive(lambda size: os.read(CONTROL_FD, size))
    if frame is None:
        os._exit(0)  # the host is gone: nobody to say anything to
    if frame[0]["type"] not in types:
        raise wire.WireError(f"got message {frame[0]['type']!r}, expected {' or '.join(types)}")
    return frame


def _send(kind: str, body: bytes = b"", **fields: Any) -> None:
    data = memoryview(wire.encode({"type": kind, **fields}, body))
    _flush()  # what was printed comes before the answer
    while data:
        data = data[os.write(CONTROL_FD, data) :]


def _send_error(kind: str, document: dict[str, Any], **fields: Any) -> None:
    try:
        _send(kind, error=document, **fields)
    except wire.WireError:  # a huge message or trace
        _send(kind, error=handler.shortened(document), **fields)


def _end_by_signal(number: int) -> NoReturn:
    """What was printed and not flushed is lost, as by the signal itself."""
    os.write(CONTROL_FD, wire.encode({"type": "signalled", "signal": number}))
    os._exit(128 + number)


def _ms_since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 3)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            continue  # closed or replaced by the handler


def _exit(status: int) -> NoReturn:
    """At once: threads the handler left must not keep a failed worker alive."""
    _flush()
    os._exit(status)
