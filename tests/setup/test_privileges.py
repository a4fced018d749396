"""Each capability that is said to be needed is: without it, and without our refusal, the work fails; it never hangs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import Write

from snapruntime.mechanisms.host import privileges

#: Makes a snapshot and lets a copy answer, without asking what is lacking first.
_PROGRAM = """
import sys
from pathlib import Path
from snapruntime import Runtime, resolve_function
from snapruntime.mechanisms.host import privileges
privileges.NEEDED.clear()
function = resolve_function(sys.argv[2])
with Runtime(Path(sys.argv[1])) as runtime, runtime.snapshot(function) as snapshot, snapshot.restore() as copy:
    print(copy.invoke({}).result)
"""


# KILL is left out: without it nothing can be ended, this test's processes included.
@pytest.mark.parametrize("capability", ["none", *sorted(set(privileges.NEEDED) - {"KILL"})])
def test_without(capability: str, criu_home: Path, write: Write) -> None:
    function = write("""
        import os

        log = open("/tmp/log", "w")
        nameless = open(os.memfd_create("cache"), "w")
        os.mkdir("/tmp/folder", 0o500)

        def handler(event, context):
            log.write("a change to what init left")
            os.chmod("/tmp/folder", 0o700)
            return 1
        """)
    wrap = [] if capability == "none" else ["setpriv", f"--bounding-set=-{capability.lower()}"]
    path = f"{function.task_root}/handler.py"
    done = subprocess.run(
        [*wrap, sys.executable, "-c", _PROGRAM, str(criu_home), path], capture_output=True, text=True, timeout=60
    )
    assert ((done.returncode, done.stdout) == (0, "1\n")) == (capability == "none"), done.stderr
