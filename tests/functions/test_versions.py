"""Versions over real CRIU: their states, what they answer, when they are made anew, and what may not be removed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support import wait_until, write_files

from functions.conftest import HANDLER, configured, emptied, zipped
from snapruntime import Runtime
from snapruntime.values.errors import HostError, SnapruntimeError, SnapshotError
from snapruntime.values.function import TRANSITIONS, ApplyOn, FunctionVersion, OptimizationStatus, State
from snapruntime.values.service_errors import (
    InvalidZipFileException,
    ResourceConflictException,
    ResourceNotFoundException,
    SnapStartNotReadyException,
    SnapStartRegenerationFailureException,
)
from snapruntime.workflows.collect import collect
from snapruntime.workflows.functions import Functions
from snapruntime.workflows.preparing import Preparing
from snapruntime.workflows.versions import OpenVersion, Versions

ROOT = Path(__file__).resolve().parents[2]

#: Init reads a file that is the host's, as a library is.
READS = """
with open("{library}") as file:
    library = file.read()
if library == "broken":
    raise ValueError("the library is broken")
def lambda_handler(event, context):
    return library
"""


@pytest.fixture
def functions(criu_home: Path) -> Iterator[Functions]:
    """The session's data folder, where the runtime looks for snapshots; without functions in the end."""
    with emptied(criu_home) as service:
        yield service


@pytest.fixture
def versions(functions: Functions, runtime: Runtime) -> Versions:
    return Versions(functions, runtime)


@pytest.fixture
def library() -> Iterator[Path]:
    """A file of the host's. Not in /tmp, where a function's files are its own."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        write_files(Path(folder), {"library": "old"})
        yield Path(folder) / "library"


Publish = Callable[..., FunctionVersion]


@pytest.fixture
def publish(functions: Functions, versions: Versions) -> Publish:
    """`publish(SOURCE, **configuration)`: a new version of `f`, prepared."""

    def call(source: str = HANDLER, **fields: Any) -> FunctionVersion:
        content = zipped({"handler.py": source})
        try:
            functions.create("f", configured(**fields), content)
        except ResourceConflictException:
            functions.update_code("f", content)
            functions.update_configuration("f", **fields)
        return versions.prepare(functions.publish("f"))

    return call


def answer(opened: OpenVersion, event: Any = None) -> Any:
    with opened.start() as instance:
        return instance.invoke(event).result


def snapshots(functions: Functions) -> set[str]:
    return {path.name for path in functions.home.glob("snapshots/*/2*/")}


def test_from_pending_to_active(functions: Functions, versions: Versions) -> None:
    functions.create("f", configured(), zipped({"handler.py": HANDLER}))
    pending = functions.publish("f")
    with pytest.raises(SnapStartNotReadyException, match="initializing"):
        versions.open(pending)
    seen: list[Any] = []
    active = versions.prepare(pending, making=seen.append, initialised=seen.append)
    assert (active.state, active.state_reason, active.state_reason_code) == (State.ACTIVE, "", "")
    assert active.optimization is OptimizationStatus.ON
    assert active.snapshot in snapshots(functions)
    assert active.revision_id != pending.revision_id
    assert seen[0] == "there is none yet"
    assert seen[1] > 0
    assert versions.prepare(pending) == active, "once is enough"
    with versions.open(active) as opened:
        assert answer(opened, {"n": 1}) == ["1", {"n": 1}]
        assert opened.snapshot is not None
        assert opened.snapshot.id == active.snapshot


@pytest.mark.parametrize(
    ("source", "fields", "reason", "code"),
    [
        ("raise ValueError('broken')", {}, "ValueError: broken", "FunctionError"),
        ("import nowhere", {}, "Runtime.ImportModuleError", "FunctionError.RuntimeInitError"),
        ("x = 1", {}, "Runtime.HandlerNotFound", "FunctionError.RuntimeInitError"),
        (
            HANDLER,
            {"module": "", "attribute": "nodot"},
            "Runtime.MalformedHandlerName",
            "FunctionError.RuntimeInitError",
        ),
        ("import os\nos._exit(3)", {}, "Runtime.ExitError", "FunctionError.RuntimeInitError"),
        (HANDLER, {"python": "/nowhere/python3"}, "/nowhere/python3", "InvalidRuntime"),
    ],
    ids=["raises", "imports", "no-handler", "no-dot", "exits", "no-interpreter"],
)
def test_failed(
    publish: Publish,
    versions: Versions,
    functions: Functions,
    source: str,
    fields: dict[str, Any],
    reason: str,
    code: str,
) -> None:
    failed = publish(source, **fields)
    assert (failed.state, failed.state_reason_code, failed.snapshot) == (State.FAILED, code, None)
    assert reason in failed.state_reason
    with pytest.raises(ResourceConflictException, match="currently in the following state: Failed") as raised:
        versions.open(failed)
    assert raised.value.hint == failed.state_reason
    again = functions.publish("f")
    assert (again.version, again.state) == (failed.version, State.PENDING), "what failed need not be its code"


def test_one_that_cannot_be_saved(publish: Publish, code_root: Path) -> None:
    folder = code_root / "server"
    folder.mkdir(mode=0o755)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket"))
        (folder / "socket").chmod(0o777)
        server.listen()
        source = f"import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect('{folder}/socket')\n{HANDLER}"
        failed = publish(source, read_only=(str(folder),))
    assert (failed.state, failed.state_reason_code) == (State.FAILED, "InternalError")
    assert "socket" in failed.state_reason


def test_a_failure_is_told(functions: Functions, versions: Versions) -> None:
    functions.create("f", configured(), zipped({"handler.py": "raise ValueError('broken')"}))
    errors: list[SnapruntimeError] = []
    logs: list[bytes] = []
    versions.prepare(functions.publish("f"), failed=errors.append, sink=logs.append)
    assert [error.code for error in errors] == ["ValueError"]


def test_without_snapstart_each_process_starts_cold(publish: Publish, versions: Versions, functions: Functions) -> None:
    version = publish(snap_start=ApplyOn.NONE)
    assert (version.state, version.optimization, version.snapshot) == (State.ACTIVE, OptimizationStatus.OFF, None)
    before = snapshots(functions)
    with versions.open(version) as opened, versions.open(functions.version("f")) as latest:
        assert opened.snapshot is latest.snapshot is None
        assert answer(opened) == ["1", None]
        assert answer(latest) == ["$LATEST", None]
    assert snapshots(functions) == before


def test_versions_keep_their_code_and_configuration(functions: Functions, versions: Versions, tmp_path: Path) -> None:
    """Later edits of the user's folder, and later versions, change nothing of a version: not even made anew."""
    source = "import os\ndef lambda_handler(event, context):\n    return [{number}, os.environ['STAGE']]\n"
    folder = tmp_path / "project"
    published = []
    for number in range(5):
        write_files(folder, {"handler.py": source.format(number=number)})
        configuration = configured(environment={"STAGE": f"stage {number}"})
        if number == 0:
            functions.create("f", configuration, folder)
        else:
            functions.update("f", configuration, folder)
        published.append(versions.prepare(functions.publish("f")))
    write_files(folder, {"handler.py": "raise ValueError('edited')"})
    shutil.rmtree(folder)
    for number, version in enumerate(published):
        with versions.open(version) as opened:
            assert answer(opened) == [number, f"stage {number}"]
            assert opened.version == version, "the snapshot that it was published with"
        with versions.open(version, rebuild=True) as opened:
            assert answer(opened) == [number, f"stage {number}"]


def test_versions_of_the_same_code_have_snapshots_of_their_own(publish: Publish, versions: Versions) -> None:
    """More versions than a slot keeps snapshots: the code is there once, the snapshots are not each other's."""
    published = [publish(environment={"NUMBER": str(number)}) for number in range(6)]
    assert len({version.code.folder for version in published}) == 1
    assert len({version.snapshot for version in published}) == 6
    for version in published:
        with versions.open(version) as opened:
            assert answer(opened)[0] == version.version
            assert opened.version == version, "none was made anew"


@pytest.mark.parametrize("name", ["manifest.json", "images", "memory"])
def test_a_file_of_the_code_is_code_whatever_its_name(functions: Functions, name: str) -> None:
    """Snapshots have files of these names, the first of which their own inventory leaves out."""
    reads = f"def lambda_handler(event, context): return open({name!r}).read()"
    functions.create("f", configured(), zipped({"handler.py": reads, name: "1"}))
    first = functions.publish("f")
    functions.update_code("f", zipped({"handler.py": reads, name: "2"}))
    second = functions.publish("f")
    assert first.code.folder != second.code.folder


def test_code_that_was_tampered_with_is_not_run(publish: Publish, versions: Versions, functions: Functions) -> None:
    lazy = "def lambda_handler(event, context):\n    import helper\n    return helper.answer"
    functions.create("g", configured(), zipped({"handler.py": lazy, "helper.py": "answer = 1"}))
    imports_later = versions.prepare(functions.publish("g"))
    assert imports_later.state is State.ACTIVE, imports_later.state_reason
    (Path(imports_later.code.folder) / "helper.py").write_text("answer = 2")
    with pytest.raises(InvalidZipFileException, match="not as it was stored"):
        versions.open(imports_later)
    version = publish()
    assert version.state is State.ACTIVE, version.state_reason
    (Path(version.code.folder) / "handler.py").write_text("def lambda_handler(event, context): return 'evil'\n")
    with pytest.raises(InvalidZipFileException, match="not as it was stored"):
        versions.open(version)
    assert functions.version("f", version.version).state is State.INACTIVE
    with pytest.raises(InvalidZipFileException):
        versions.open(functions.version("f"))
    failed = publish(memory_mb=256)
    assert (failed.state, failed.state_reason_code) == (State.FAILED, "InvalidZipFileException")
    shutil.rmtree(version.code.folder)
    with pytest.raises(InvalidZipFileException, match="is not there"):
        versions.open(version)


@pytest.mark.parametrize("what", ["kernel", "CRIU", "library"])
def test_a_version_is_made_anew_where_the_host_changed(
    publish: Publish, versions: Versions, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, library: Path, what: str
) -> None:
    version = publish(READS.format(library=library), read_only=(str(library.parent),))
    with versions.open(version) as before:
        assert answer(before) == "old"
        if what == "kernel":
            monkeypatch.setattr(platform, "release", lambda: "9.9.9")
        elif what == "CRIU":
            monkeypatch.setattr(runtime, "criu", dataclasses.replace(runtime.criu, version=(9, 9, 9)))
        library.write_text("new")
        reasons: list[str] = []
        with versions.open(version, making=reasons.append) as after:
            assert (what if what != "library" else f"{library} changed") in reasons[0]
            assert answer(after) == "new"
            assert after.version.state is State.ACTIVE
            assert after.version.snapshot != version.snapshot
            assert (after.version.code, after.version.configuration) == (version.code, version.configuration)
        assert answer(before) == "old", "who has it open goes on with what there was"


def test_inactive_where_it_could_not_be_made_anew(
    publish: Publish, versions: Versions, functions: Functions, library: Path
) -> None:
    version = publish(READS.format(library=library), read_only=(str(library.parent),))
    library.write_text("broken")
    with pytest.raises(SnapStartRegenerationFailureException, match="the library is broken"):
        versions.open(version)
    inactive = functions.version("f", "1")
    assert (inactive.state, inactive.state_reason) == (State.INACTIVE, "ValueError: the library is broken")
    assert versions.with_snapshots() == [inactive], "it is worth another try"
    library.write_text("mended")
    with versions.open(inactive) as opened:
        assert answer(opened) == "mended"
    active = functions.version("f", "1")
    assert (active.state, active.state_reason) == (State.ACTIVE, "")


def test_a_server_makes_them_anew_before_they_are_wanted(
    publish: Publish, versions: Versions, functions: Functions, library: Path
) -> None:
    good = publish(READS.format(library=library), read_only=(str(library.parent),))
    library.write_text("new")
    functions.create("abandoned", configured(), zipped({"handler.py": HANDLER}))
    with Functions(functions.home) as gone:
        gone.publish("abandoned")
    with Preparing(versions):
        wait_until(lambda: functions.version("f", "1").snapshot != good.snapshot, "a new snapshot")
        wait_until(lambda: functions.version("abandoned", "1").state is State.ACTIVE, "the other's first")
    library.write_text("broken")
    with Preparing(versions):
        wait_until(lambda: functions.version("f", "1").state is State.INACTIVE, "that it cannot be made")


def test_what_was_deleted_cannot_be_opened(publish: Publish, versions: Versions, functions: Functions) -> None:
    version = publish()
    functions.delete("f", version.version)
    for call in (versions.open, versions.prepare):
        with pytest.raises(ResourceNotFoundException):
            call(version)


def test_who_is_told_last_does_not_spoil_what_is_there(
    publish: Publish, versions: Versions, functions: Functions
) -> None:
    """Of two who prepared the same version, one failed, after the other had made it."""
    active = publish()
    versions._note(active, State.FAILED, error=SnapshotError("no memory, for a moment"))
    assert functions.version("f", "1") == active
    failed = publish("raise ValueError(1)")
    versions._note(failed, State.INACTIVE, error=SnapshotError("nor this"))
    assert functions.version("f", "2") == failed
    assert set(TRANSITIONS) == set(State)


def test_what_the_host_lacks_says_nothing_about_a_version(
    publish: Publish, versions: Versions, functions: Functions, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    active = publish()

    def refused(*_: object, **__: object) -> None:
        raise HostError("Too many open files")

    monkeypatch.setattr(runtime, "snapshot", refused)
    with pytest.raises(HostError):
        versions.open(active)
    assert functions.version("f", "1") == active
    pending = publish(timeout_s=9)
    assert (pending.state, pending.state_reason) == (State.FAILED, "Too many open files")


# What is collected, and what is not.


def collected(functions: Functions, **options: bool) -> set[str]:
    return {Path(one.path).name for one in collect(functions, **options)}


def test_gc_removes_nothing_that_a_copy_comes_from(publish: Publish, versions: Versions, functions: Functions) -> None:
    version = publish("import os\nwith open(__file__) as file: text = file.read()\n" + HANDLER)
    assert version.snapshot is not None
    code = Path(version.code.folder)
    with versions.open(version) as opened, opened.start() as copy:
        functions.delete("f")
        assert {version.snapshot, code.name}.isdisjoint(collected(functions))
        assert copy.invoke(1).result == ["1", 1]
        assert answer(opened, 2) == ["1", 2], "more copies can be had"
        assert code.exists()
    assert {version.snapshot, code.name} <= collected(functions, dry_run=True)
    assert code.exists(), "a dry run removes nothing"
    assert {version.snapshot, code.name} <= collected(functions)
    assert not code.exists()
    assert version.snapshot not in snapshots(functions)


def test_gc_keeps_what_versions_are_answered_from(publish: Publish, versions: Versions, functions: Functions) -> None:
    first, second = publish(), publish(timeout_s=9)
    with versions.open(second, rebuild=True) as opened:
        third = opened.version
    assert second.snapshot is not None
    assert {first.snapshot, third.snapshot, Path(first.code.folder).name}.isdisjoint(collected(functions, dry_run=True))
    assert second.snapshot in collected(functions), "it has another now"
    for version in (first, third):
        with versions.open(version) as opened:
            assert opened.version == version


def test_gc_and_what_run_has_made(functions: Functions, runtime: Runtime, write: Callable[..., Any]) -> None:
    """A handler's snapshot stays as long as the handler's folder does."""
    function = write(HANDLER)
    with runtime.snapshot(function) as snapshot:
        pass
    assert snapshot.id not in collected(functions)
    shutil.rmtree(function.task_root)
    assert snapshot.id in collected(functions)


def test_gc_leaves_another_versions_snapshots(functions: Functions, publish: Publish) -> None:
    version = publish()
    manifest = next(functions.home.glob(f"snapshots/*/{version.snapshot}/manifest.json"))
    head, _, body = manifest.read_bytes().partition(b"\n")
    manifest.write_bytes(json.dumps(json.loads(head) | {"format": 999}).encode() + b"\n" + body)
    assert version.snapshot not in collected(functions)
    assert version.snapshot in collected(functions, other_versions=True)


def test_gc_while_versions_are_published_and_opened(functions: Functions, versions: Versions, runtime: Runtime) -> None:
    """Two collect without a pause; two publish, open, answer, delete. No snapshot goes that is being used."""
    done = threading.Event()

    def collecting() -> int:
        with Functions(functions.home) as mine:
            count = 0
            while not done.is_set():
                count += len(list(collect(mine)))
            return count

    def publishing(name: str) -> None:
        with Functions(functions.home) as mine:
            opener = Versions(mine, runtime)
            for number in range(6):
                mine.create(name, configured(), zipped({"handler.py": f"{HANDLER}# {number % 2}"}))
                version = opener.prepare(mine.publish(name))
                assert version.state is State.ACTIVE, version.state_reason
                with opener.open(version) as opened:
                    assert opened.version == version, "it was not made anew"
                    mine.delete(name)
                    assert answer(opened, number) == [version.version, number]

    with ThreadPoolExecutor(4) as pool:
        collectors = [pool.submit(collecting) for _ in range(2)]
        try:
            list(pool.map(publishing, ["one", "two"]))
        finally:
            done.set()
        assert sum(collector.result() for collector in collectors) > 0


# Several at once, and those that are killed.


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
from functions.test_versions import Functions, Runtime, Versions
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


def test_leases_end_with_their_process(functions: Functions, publish: Publish, versions: Versions) -> None:
    version = publish()
    opened = versions.open(version)
    functions.delete("f")
    pid = os.fork()
    if pid == 0:
        os._exit(0)  # What it inherited is closed; the parent's lease stays.
    os.waitpid(pid, 0)
    assert version.snapshot not in collected(functions)
    opened.close()
    assert version.snapshot in collected(functions)
