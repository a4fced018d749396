"""Find the handler function, and tell about errors the way Lambda does."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable

from . import wire

_CONVENTIONAL = ["lambda_handler", "handler"]
_OWN_DIR = os.path.dirname(os.path.abspath(__file__)) + os.sep


class Fault(Exception):
    """An error the runtime itself finds; `kind` is its errorType, such as Runtime.HandlerNotFound."""

    def __init__(self, kind: str, message: str, trace: list[str] | None = None) -> None:
        super().__init__(message)
        self.kind, self.trace = kind, trace or []


def load(handler: str | None, module: str | None = None) -> Callable[[wire.Json, object], wire.Json]:
    """The function of "module.function"; or of `module` alone, the first of the conventional names.

    Raises Fault for Lambda's own error types; whatever else the module raises while it is imported goes through.
    """
    name, functions = module or "", _CONVENTIONAL
    if module is None:
        name, dot, function = str(handler).rpartition(".")
        functions = [function]
        if not dot:
            why = "not enough values to unpack (expected 2, got 1)"  # Lambda's words
            raise Fault("Runtime.MalformedHandlerName", f"Bad handler '{handler}': {why}")
    if name.split(".")[0] in sys.builtin_module_names:
        raise Fault("Runtime.BuiltInModuleConflict", f"Cannot use built-in module {name} as a handler module")
    try:
        # import_module, not __import__: its frames are part of the stack traces that Lambda shows
        loaded = importlib.import_module(name.replace("/", "."))
    except ImportError as e:
        raise Fault("Runtime.ImportModuleError", f"Unable to import module '{name}': {e}") from e
    except SyntaxError as e:
        place = f'  File "{e.filename}" Line {e.lineno}\n    {e.text}'
        raise Fault("Runtime.UserCodeSyntaxError", f"Syntax error in module '{name}': {e}", [place]) from e
    for function in functions:
        if hasattr(loaded, function):
            return getattr(loaded, function)  # type: ignore[no-any-return]
    also = "".join(f", and so is '{function}'" for function in functions[1:])
    raise Fault("Runtime.HandlerNotFound", f"Handler '{functions[0]}' missing on module '{name}'{also}")


def error_document(error: BaseException, request_id: str = "") -> wire.Header:
    """What the caller of the function gets to see. Leading frames that are the runtime's own are left out."""
    try:
        message = str(error)
    except Exception:
        message = f"<unprintable {type(error).__name__} object>"
    if isinstance(error, Fault):
        kind, trace = error.kind, error.trace
    else:
        frames = traceback.extract_tb(error.__traceback__)
        while frames and frames[0].filename.startswith(_OWN_DIR):
            del frames[0]
        # as plain tuples: no ^^^^ markers under the lines, whatever the Python version
        kind, trace = type(error).__name__, traceback.format_list([tuple(f) for f in frames])
    trace = [_clean(line) for line in trace]
    return {"errorMessage": _clean(message), "errorType": kind, "requestId": request_id, "stackTrace": trace}


def shortened(document: wire.Header) -> wire.Header:
    """The same, small enough for any frame: the end of the trace is where the error is."""
    trace = [line[:2000] for line in document.get("stackTrace", [])[-50:]]
    return {**document, "errorMessage": document["errorMessage"][:50_000], "stackTrace": trace}


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()  # a lone surrogate is no valid JSON for the caller
