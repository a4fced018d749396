"""Versions over real CRIU: their states, what they answer, and when they are made anew."""

from __future__ import annotations

import dataclasses
import platform
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from functions.conftest import HANDLER, configured, zipped
from support import wait_until, write_files

from snapruntime import Runtime
from snapruntime.values.errors import HostError, SnapruntimeError, SnapshotError
from snapruntime.values.function import TRANSITIONS, ApplyOn, OptimizationStatus, State
from snapruntime.values.service_errors import (
    InvalidZipFileException,
    ResourceConflictException,
    ResourceNotFoundException,
    SnapStartNotReadyException,
    SnapStartRegenerationFailureException,
)
from snapruntime.workflows.functions import Functions
from snapruntime.workflows.preparing import Preparing
from snapruntime.workflows.versions import Versions
from versions.conftest import Publish, answer, snapshots

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
def library() -> Iterator[Path]:
    """A file of the host's. Not in /tmp, where a function's files are its own."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        write_files(Path(folder), {"library": "old"})
        yield Path(folder) / "library"


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
