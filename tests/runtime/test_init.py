"""What becomes of a function whose init fails, whatever it does."""

from __future__ import annotations

import pytest
from support import Write

from snapruntime import FunctionError, SnapruntimeError

from .conftest import Start

INIT_ENDS = {
    "raise ValueError('at init')": ("ValueError", "at init"),
    "import no_such_module": ("Runtime.ImportModuleError", "Unable to import module 'handler': No module named"),
    "def broken(:": ("Runtime.UserCodeSyntaxError", "Syntax error in module 'handler': invalid syntax"),
    "pass": ("Runtime.HandlerNotFound", "Handler 'lambda_handler' missing on module 'handler', and so is 'handler'"),
    "import os; os._exit(4)": ("Runtime.ExitError", "Runtime exited with error: exit status 4"),
    "import sys; sys.exit(1)": ("Runtime.ExitError", "Runtime exited with error: exit status 1"),
    "import ctypes; ctypes.string_at(0)": ("Runtime.ExitError", "signal: segmentation fault"),
    "import os; os.write(3, b'garbage ' * 100)": ("Runtime.Unknown", "broke its control channel"),
    'import os; h = b\'{"type":"ready"}\'; os.write(3, bytes([0,0,0,len(h),0,0,0,0]) + h)': (
        "Runtime.Unknown",
        "broke its control channel",
    ),
    'import os; h = b\'{"type":"init_error"}\'; os.write(3, bytes([0,0,0,len(h),0,0,0,0]) + h)': (
        "Runtime.Unknown",
        "broke its control channel",
    ),
}


@pytest.mark.parametrize("source", INIT_ENDS)
def test_ways_for_init_to_fail(start: Start, write: Write, source: str) -> None:
    with pytest.raises(FunctionError) as caught:
        start(write(source + "\n"))
    error = caught.value
    assert error.document["errorType"] == INIT_ENDS[source][0]
    assert INIT_ENDS[source][1] in error.document["errorMessage"]
    assert error.phase == "init"
    assert error.code == error.document["errorType"]


def test_a_lie_about_being_ready(start: Start, write: Write) -> None:
    """A handler module that speaks for the worker gets a broken copy, not a broken supervisor."""
    header = (
        '{"type":"ready","wire":1,"python":"3","init_ms":0,"before_hooks_ms":0,"before_hooks":0,"threads":[5,{}],'
        '"os_threads":"x"}'
    )
    function = write(
        f"""
        import os, struct, time
        head = {header!r}.encode()
        body = b'["/etc/passwd", 5, null, "relative", "/no/such"]'
        os.write(3, struct.pack("!II", len(head), len(body)) + head + body)
        time.sleep(0.1)

        def handler(event, context):
            return 1
        """,
        timeout_s=1,
    )
    try:
        instance = start(function)
        answer = instance.invoke({})
    except SnapruntimeError:
        return
    assert answer.error is None or answer.error["errorType"].startswith(("Runtime.", "Sandbox."))
