"""Versions that several prepare at once, and those whose maker is killed."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from functions.conftest import HANDLER, configured, zipped

from snapruntime.values.function import State
from snapruntime.values.service_errors import SnapStartNotReadyException
from snapruntime.workflows.collect import collect
from snapruntime.workflows.functions import Functions
from snapruntime.workflows.versions import Versions
from versions.conftest import answer, snapshots

ROOT = Path(__file__).resolve().parents[2]


def test_two_prepare_the_same(functions: Functions, versions: Versions) -> None:
    functions.create("f", configured(), zipped({"handler.py": HANDLER}))
    pending = functions.publish("f")
    made: list[str] = []
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: versions.prepare(pending, making=made.append), range(4)))
    assert {result.snapshot for result in results} == {functions.version("f", "1").snapshot}
    assert len(made) == 1


#: Publishes a version and prepares it, and says when it begins.
PUBLISHER = """
import sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from functions.conftest import configured, zipped
from snapruntime import Runtime
from snapruntime.workflows.functions import Functions
from snapruntime.workflows.versions import Versions
with Functions(Path(sys.argv[3])) as functions, Runtime(functions.home) as runtime:
    functions.update("f", configured(description=sys.argv[4]), zipped({"handler.py": sys.argv[5]}))
    version = functions.publish("f")
    print(version.version, flush=True)
    Versions(functions, runtime).prepare(version)
    print("done", flush=True)
"""


def test_a_publisher_is_killed(functions: Functions, versions: Versions) -> None:
    """At moments by chance: the version is Pending or Active then; who wants it next makes it, and it answers."""
    functions.create("f", configured(), zipped({"handler.py": HANDLER}))
    dice = random.Random(7)
    abandoned = 0
    for number in range(16):
        arguments = [str(ROOT), str(ROOT / "tests"), str(functions.home), str(number), HANDLER]
        with subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, *arguments], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            name = process.stdout.readline().strip()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(dice.random() * 0.4)
            process.kill()
        version = functions.version("f", name)
        if version.state is State.PENDING:
            abandoned += 1
            assert [one.version for one in versions.abandoned()] == [name]
        else:
            assert version.state is State.ACTIVE
        with versions.open(version) as opened:
            assert answer(opened) == [name, None]
            assert opened.version.state is State.ACTIVE
        assert versions.abandoned() == []
    assert abandoned > 4
    kept = {functions.version("f", str(number + 1)).snapshot for number in range(16)}
    list(collect(functions))
    assert kept <= snapshots(functions)
    assert not list(functions.home.glob("snapshots/*/.new-*"))


def test_one_who_lives_is_waited_for(functions: Functions, versions: Versions, criu_home: Path) -> None:
    """Pending by another process that is alive: not ready; after its end by SIGKILL it is anybody's."""
    program = (
        "import sys; from pathlib import Path; from snapruntime.workflows.functions import Functions\n"
        "functions = Functions(Path(sys.argv[1])); print(functions.publish('f').version, flush=True); sys.stdin.read()"
    )
    functions.create("f", configured(), zipped({"handler.py": HANDLER}))
    with subprocess.Popen(
        [sys.executable, "-c", program, str(criu_home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        version = functions.version("f", process.stdout.readline().strip())
        with pytest.raises(SnapStartNotReadyException):
            versions.open(version)
        assert versions.abandoned() == []
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert versions.abandoned() == [version]
    with versions.open(version) as opened:
        assert answer(opened) == ["1", None]
