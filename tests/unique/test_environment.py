"""Variables that are given to a restore are there before the after-restore hooks, in that copy only."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import Write

from snapruntime import Runtime, UsageError

SOURCE = """
    import os, time
    from snapruntime import register_after_restore
    os.environ["GONE"] = "at init"
    seen = []
    register_after_restore(lambda: seen.append(os.environ.get("STAGE")))
    def handler(event, context):
        return [seen, os.environ.get("STAGE"), os.environ.get("GONE"), time.tzname[0], time.localtime(0).tm_hour]
"""


def test_each_copy_has_its_own(runtime: Runtime, write: Write) -> None:
    with runtime.snapshot(write(SOURCE, environment={"STAGE": "init"})) as snapshot:
        with snapshot.restore(environment={"STAGE": "blue", "GONE": None, "TZ": "Asia/Tokyo"}) as copy:
            assert copy.invoke({}).result == [["blue"], "blue", None, "JST", 9]
        with snapshot.restore() as copy:
            assert copy.invoke({}).result == [["init"], "init", "at init", "UTC", 0]


@pytest.mark.parametrize("name", ["_HANDLER", "", "A=B", "A\0"])
def test_what_cannot_be_a_variable_is_refused(runtime: Runtime, write: Write, name: str) -> None:
    with runtime.snapshot(write(SOURCE)) as snapshot, pytest.raises(UsageError):
        snapshot.restore(environment={name: "x"})


@pytest.mark.parametrize("value", [1, 0, b"x"])
def test_what_is_no_text_is_refused(runtime: Runtime, write: Write, value: Any) -> None:
    with pytest.raises(UsageError, match="STAGE' is no text"):
        write(SOURCE, environment={"STAGE": value})
    with runtime.snapshot(write(SOURCE)) as snapshot, pytest.raises(UsageError, match="STAGE' is no text"):
        snapshot.restore(environment={"STAGE": value})


def test_from_the_command_line(criu_home: Path, write: Write) -> None:
    source = """
        import os, random
        from snapruntime import register_after_restore
        random.seed(42)
        rng = random.Random(1)
        seen = []
        register_after_restore(lambda: seen.append(os.environ["STAGE"]))
        def handler(event, context): return [seen, random.random(), rng.random()]
    """
    function = write(source, environment={})
    command = [str(Path(sys.executable).with_name("snapruntime")), "--home", str(criu_home), "run"]
    command += [f"{function.task_root}/handler.py", "--quiet", "--restore-env", "STAGE=a=b", "--keep-seeds"]
    done = subprocess.run([*command, "--hook", "random"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen, kept, renewed = json.loads(done.stdout)
    assert (seen, kept) == (["a=b"], 0.6394267984578837)
    assert renewed != 0.13436424411240122  # random.Random(1)'s first
    for wrong in (["--hook", "nope"], ["--restore-env", "A"], ["--cold"]):
        done = subprocess.run([*command, *wrong], capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr
