"""Functions, versions and aliases as the API has them; messages as LocalStack's tests recorded them from AWS."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from functions.conftest import ARN, HANDLER, code, configured, publish_several, zipped
from snapruntime.values.errors import HostError, UsageError
from snapruntime.values.function import ApplyOn, FunctionSettings, OptimizationStatus, State
from snapruntime.values.service_errors import (
    CodeStorageExceededException,
    InvalidParameterValueException,
    PreconditionFailedException,
    ResourceConflictException,
    ResourceNotFoundException,
    ServiceException,
    ValidationException,
)
from snapruntime.workflows.functions import Functions
from snapruntime.workflows.reservations import reserve


def test_what_create_returns(functions: Functions) -> None:
    content = zipped({"handler.py": HANDLER})
    latest = functions.version("f")
    assert latest.version == "$LATEST"
    assert latest.state is State.ACTIVE
    assert latest.code.sha256 == base64.b64encode(hashlib.sha256(content).digest()).decode()
    assert latest.code.size == len(content)
    assert latest.optimization is OptimizationStatus.OFF
    assert latest.arn == f"{ARN}:f:$LATEST"
    assert (Path(latest.code.folder) / "handler.py").read_text() == HANDLER
    assert [version.name for version in functions.all()] == ["f"]


def test_a_function_exists_once(functions: Functions) -> None:
    with pytest.raises(ResourceConflictException) as raised:
        functions.create("f", configured(), code(1))
    assert raised.value.message == "Function already exist: f"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"timeout_s": 0}, "'timeout' failed to satisfy constraint: Member must have value greater than or equal to 1"),
        ({"timeout_s": 901}, "less than or equal to 900"),
        ({"memory_mb": 127}, "'memorySize' failed"),
        ({"memory_mb": 10241}, "less than or equal to 10240"),
        ({"description": "x" * 257}, "'description' failed"),
        ({"module": "a b"}, "'handler' failed"),
        ({"module": "a" * 200}, "'handler' failed"),
        ({"environment": {"a-b": "x"}}, "'environment.variables' failed"),
        ({"environment": {"_HANDLER": "x"}}, "'environment.variables' failed"),
    ],
)
def test_what_cannot_be_configured(functions: Functions, fields: dict[str, Any], error: str) -> None:
    with pytest.raises(ValidationException) as raised:
        functions.create("g", configured(**fields), code(1))
    assert error in raised.value.message
    if "module" not in fields:
        with pytest.raises(ValidationException):
            functions.update_configuration("f", **fields)
    assert functions.version("f").configuration == configured()


def test_variables_that_are_lambdas_own(functions: Functions) -> None:
    with pytest.raises(InvalidParameterValueException, match="Reserved keys used in this request: LAMBDA_TASK_ROOT"):
        functions.update_configuration("f", environment={"LAMBDA_TASK_ROOT": "x", "OTHER": "y"})


def test_an_environment_too_large(functions: Functions) -> None:
    functions.update_configuration("f", environment={"LARGE": "x" * (4096 - len('{"LARGE":""}'))})
    with pytest.raises(InvalidParameterValueException, match=r'the 4KB limit\. String measured: {"LARGE":"xxx'):
        functions.update_configuration("f", environment={"LARGE": "x" * (4097 - len('{"LARGE":""}'))})


def test_publishing_what_has_not_changed_makes_no_version(functions: Functions) -> None:
    first = functions.publish("f")
    assert first.version == "1"
    assert functions.publish("f") == first
    assert functions.publish("f", description="not even with another description") == first
    functions.update_code("f", zipped({"handler.py": HANDLER}))
    assert functions.publish("f") == first, "the same code again is no change"
    functions.update_configuration("f", timeout_s=9)
    functions.update_configuration("f", timeout_s=3)
    assert functions.publish("f") == first, "nor is a change that was taken back"
    functions.update_configuration("f", description="changed")
    second = functions.publish("f")
    assert (second.version, second.configuration.description) == ("2", "changed")
    functions.update_code("f", code(2))
    third = functions.publish("f", description="its own")
    assert (third.version, third.configuration.description) == ("3", "its own")
    assert functions.publish("f") == third
    assert [version.version for version in functions.versions("f")] == ["$LATEST", "1", "2", "3"]
    assert functions.version("f", "1") == first, "what was published does not change"


def test_states_of_what_is_published(functions: Functions) -> None:
    pending = functions.publish("f")
    assert (pending.state, pending.state_reason_code) == (State.PENDING, "Creating")
    assert pending.state_reason == "The function is being created."
    assert pending.optimization is OptimizationStatus.ON
    functions.update_configuration("f", snap_start=ApplyOn.NONE)
    cold = functions.publish("f")
    assert (cold.state, cold.state_reason, cold.optimization) == (State.ACTIVE, "", OptimizationStatus.OFF)


def test_numbers_are_never_used_again(functions: Functions) -> None:
    publish_several(functions, 2)
    functions.delete("f", "2")
    assert functions.publish("f").version == "3"
    functions.delete("f")
    functions.create("f", configured(), code(1))
    assert functions.publish("f").version == "4"


def test_conditions_of_publishing(functions: Functions) -> None:
    latest = functions.version("f")
    with pytest.raises(PreconditionFailedException, match="does not match the latest Revision Id"):
        functions.publish("f", revision_id="another")
    with pytest.raises(InvalidParameterValueException) as raised:
        functions.publish("f", code_sha256="another")
    assert raised.value.message == (
        f"CodeSHA256 (another) is different from current CodeSHA256 in $LATEST ({latest.code.sha256}). "
        "Please try again with the CodeSHA256 in $LATEST."
    )
    assert functions.publish("f", revision_id=latest.revision_id, code_sha256=latest.code.sha256).version == "1"


@pytest.mark.parametrize(
    "change",
    [
        lambda functions, revision: functions.update_code("f", code(1), revision_id=revision),
        lambda functions, revision: functions.update_configuration("f", timeout_s=9, revision_id=revision),
    ],
    ids=["code", "configuration"],
)
def test_revisions(functions: Functions, change: Callable[[Functions, str], Any]) -> None:
    before = functions.version("f").revision_id
    after = change(functions, before).revision_id
    assert after != before
    assert functions.version("f").revision_id == after
    with pytest.raises(PreconditionFailedException):
        change(functions, before)


def test_a_dry_run_changes_nothing(functions: Functions) -> None:
    before = functions.version("f")
    would = functions.update_code("f", code(1), dry_run=True)
    assert would.code.sha256 == base64.b64encode(hashlib.sha256(code(1)).digest()).decode()
    assert functions.version("f") == before


def test_what_is_left_out_stays(functions: Functions) -> None:
    functions.update_configuration("f", environment={"STAGE": "test"}, timeout_s=None)
    functions.update_configuration("f", timeout_s=9)
    configuration = functions.version("f").configuration
    assert (configuration.environment, configuration.timeout_s) == ({"STAGE": "test"}, 9)


def test_code_and_configuration_at_once(functions: Functions, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "handler.py").write_text(HANDLER)
    first = functions.update("f", configured(timeout_s=9), folder)
    assert functions.update("f", configured(timeout_s=9), folder) == first, "no revision for no change"
    with pytest.raises(UsageError):
        functions.update("f", configured(), tmp_path / "nowhere")
    with pytest.raises(ValidationException):
        functions.update("f", configured(timeout_s=0), folder)
    assert functions.version("f") == first


@pytest.mark.parametrize(
    ("call", "arn"),
    [
        (lambda functions: functions.version("g"), "g"),
        (lambda functions: functions.version("g", "1"), "g:1"),
        (lambda functions: functions.version("f", "7"), "f:7"),
        (lambda functions: functions.version("f", "9" * 30), f"f:{'9' * 30}"),
        (lambda functions: functions.version("f", "nowhere"), "f:nowhere"),
        (lambda functions: functions.target("f", "7"), "f:7"),
        (lambda functions: functions.versions("g"), "g"),
        (lambda functions: functions.aliases("g"), "g"),
        (lambda functions: functions.settings("g"), "g"),
        (lambda functions: functions.delete("g"), "g"),
        (lambda functions: functions.publish("g"), "g"),
        (lambda functions: functions.update_code("g", code(1)), "g"),
        (lambda functions: functions.update_configuration("g", timeout_s=1), "g"),
        (lambda functions: functions.change_settings("g", reserved_concurrency=1), "g"),
        (lambda functions: functions.create_alias("f", "live", "10"), "f:10"),
        (lambda functions: functions.create_alias("f", "live", "1"), "f:1"),
        (lambda functions: functions.create_alias("f", "live", "0"), "f:0"),
        (lambda functions: functions.version("f", "0"), "f:0"),
        (lambda functions: functions.create_alias("g", "live", "1"), "g:1"),
        (lambda functions: functions.delete_alias("g", "live"), "g"),
    ],
)
def test_what_does_not_exist(functions: Functions, call: Callable[[Functions], Any], arn: str) -> None:
    with pytest.raises(ResourceNotFoundException) as raised:
        call(functions)
    assert raised.value.message == f"Function not found: {ARN}:{arn}"


def test_deleting(functions: Functions) -> None:
    publish_several(functions, 2)
    functions.create_alias("f", "live", "1", weights={"2": 0.1})
    for version in ("1", "2"):
        with pytest.raises(ResourceConflictException) as raised:
            functions.delete("f", version)
        assert raised.value.message == "Unable to delete version because the following aliases reference it: [live]"
    with pytest.raises(InvalidParameterValueException, match=r"\$LATEST version cannot be deleted without deleting"):
        functions.delete("f", "$LATEST")
    with pytest.raises(InvalidParameterValueException, match="Deletion of aliases"):
        functions.delete("f", "live")
    functions.delete("f", "99")
    functions.delete_alias("f", "live")
    functions.delete_alias("f", "live")
    functions.delete("f", "1")
    assert [version.version for version in functions.versions("f")] == ["$LATEST", "2"]
    functions.delete("f")
    assert functions.all() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"reserved_concurrency": -1},
        {"maximum_retries": 3},
        {"maximum_event_age_s": 59},
        {"maximum_event_age_s": 21601},
    ],
)
def test_settings(functions: Functions, changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationException):
        functions.change_settings("f", **changes)
    assert functions.settings("f") == FunctionSettings()
    functions.change_settings("f", reserved_concurrency=3, tags={"team": "a"})
    wanted = functions.change_settings("f", reuse="reuse")
    assert wanted == FunctionSettings(reserved_concurrency=3, reuse="reuse", tags={"team": "a"})
    assert functions.settings("f") == functions.target("f").settings == wanted
    assert functions.change_settings("f", reserved_concurrency=None).reserved_concurrency is None
    functions.publish("f")
    assert functions.version("f").version == "$LATEST", "changing them keeps versions and aliases"
    assert len(functions.versions("f")) == 2


def test_of_two_who_reserve_at_once_the_last_is_refused(functions: Functions) -> None:
    functions.create("g", configured(), code(1))
    found: list[object] = []

    def ask(name: str) -> None:
        try:
            found.append(reserve(functions, name, 60, 100).reserved_concurrency)
        except InvalidParameterValueException as error:
            found.append(error.message.rpartition("below")[2])

    with functions.database.changing():  # Both have come before either is answered.
        asking = [threading.Thread(target=ask, args=(name,)) for name in ("f", "g")]
        for thread in asking:
            thread.start()
    for thread in asking:
        thread.join()
    assert sorted(found, key=str) == [" its minimum value of [10].", 60]
    assert list(functions.reserved().values()) == [60]


@pytest.mark.parametrize(("wanted", "left"), [(0, True), (None, True), (30, True), (31, False)])
def test_what_may_be_reserved(functions: Functions, wanted: int | None, left: bool) -> None:
    functions.create("g", configured(), code(1))
    reserve(functions, "g", 60, 100)
    if left:
        assert reserve(functions, "f", wanted, 100).reserved_concurrency == wanted
        return
    with pytest.raises(InvalidParameterValueException, match="UnreservedConcurrentExecution below"):
        reserve(functions, "f", wanted, 100)


def test_the_folder_must_be_ours(tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir(mode=0o777)
    (tmp_path / "functions").chmod(0o777)
    with pytest.raises(HostError, match="writable by nobody else"):
        Functions(tmp_path)


def test_a_later_versions_database_is_left_alone(functions: Functions) -> None:
    with functions.database.changing() as tables:
        tables.connection.execute("PRAGMA user_version = 99")
    with pytest.raises(HostError, match="later version of snapruntime"):
        Functions(functions.home)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir(mode=0o700)
    (tmp_path / "functions" / "functions.db").write_bytes(b"no database" * 1000)
    with pytest.raises(HostError, match="cannot be used"):
        Functions(tmp_path)


def test_a_disk_that_is_full(functions: Functions) -> None:
    """The database's own limit stands for the disk's: the error, and what was before is there."""
    pages = functions.database._connections[True].execute("PRAGMA page_count").fetchone()[0]
    functions.database._connections[True].execute(f"PRAGMA max_page_count = {pages}")

    def fill() -> None:
        for number in range(1000):
            functions.update_configuration("f", environment={f"LARGE{number}": "x" * 4000})
            functions.publish("f")

    with pytest.raises(ServiceException, match="full"):
        fill()
    functions.database._connections[True].execute("PRAGMA max_page_count = 1000000")
    versions = functions.versions("f")
    assert functions.publish("f").version in {str(len(versions)), str(len(versions) - 1)}


def test_a_disk_that_takes_no_code(functions: Functions, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("snapruntime.mechanisms.folders.fsync_tree", full)
    before = functions.version("f")
    with pytest.raises(CodeStorageExceededException, match="No space left") as raised:
        functions.update_code("f", code(1))
    assert "Free disk space" in raised.value.hint
    assert functions.version("f") == before
    assert len(list((functions.home / "functions" / "code").iterdir())) == 1
