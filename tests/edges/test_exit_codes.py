"""Every exit code, through the real command line; and the table that errors become codes by."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support import Write, write_files

import snapruntime
from edges.conftest import Cli, Several
from snapruntime.edges import exits
from snapruntime.edges.doctor import EXIT_HOST
from snapruntime.values.errors import FunctionError, SnapruntimeError


def _descendants(kind: type[SnapruntimeError]) -> list[type[SnapruntimeError]]:
    return [kind, *(other for child in kind.__subclasses__() for other in _descendants(child))]


def test_every_error_has_a_code_of_its_own_kind() -> None:
    # With all of the program loaded, no class of the tree is without a code but the base, which nobody raises.
    __import__("snapruntime.edges.commands")
    codes = {kind: exits.exit_code(kind.__new__(kind)) for kind in _descendants(SnapruntimeError)}
    assert [kind for kind, code in codes.items() if code == exits.INTERNAL] == [SnapruntimeError]
    assert set(codes.values()) <= set(exits.MEANINGS)
    assert exits.exit_code(ValueError()) == exits.INTERNAL
    assert exits.HOST == EXIT_HOST


def test_success(cli: Cli) -> None:
    assert cli("run", "echo.py").returncode == 0
    assert cli("--version").stdout == "snapruntime 0.1.0\n"


def test_1_the_function_failed(all_at_once: Several) -> None:
    failures = {
        "bad_init.py": ("init", "Runtime.ImportModuleError"),
        "bad_before.py": ("before_snapshot", "RuntimeError"),
        "bad_after.py": ("after_restore", "RuntimeError"),
        "raises.py": ("invoke", "ValueError"),
        "exits.py": ("invoke", "Runtime.ExitError"),
        "waits.py": ("invoke", "Sandbox.Timedout"),
    }
    runs = all_at_once([["run", name, "--timeout", "0.5", "--json", "-n", "2", "--quiet"] for name in failures])
    for (name, expected), done in zip(failures.items(), runs, strict=True):
        assert done.returncode == exits.FUNCTION, name
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(answers) == 2, name
        for answer in answers:
            assert (answer["phase"], answer["error"]["errorType"]) == expected
            assert set(answer["error"]) == {"errorType", "errorMessage", "requestId", "stackTrace"}
            assert answer["error"]["requestId"] == answer["request_id"]
            assert "result" not in answer
            assert answer["total_ms"] > 0
            for other in re.findall(r"RequestId: (\S+)", answer["error"]["errorMessage"]):
                assert other == answer["request_id"]
        assert "Error: 2 of 2 invocations failed." in done.stderr
        assert "Traceback" not in done.stderr


USAGE = {
    "no_such.py": "There is no file no_such.py",
    "echo": "neither a file nor module.function",
    ".": "is a folder",
    "echo.py --event {": "not JSON",
    "echo.py --event NaN": "not JSON",
    "echo.py --event=": "not JSON",
    "echo.py --event @no_such": "no_such cannot be read: No such file",
    "echo.py --env NOVALUE": "NAME=VALUE",
    "echo.py --env _HANDLER=x": "reserved",
    "echo.py --user 0": "root only by name",
    "echo.py --user no-such-user": "There is no user",
    "echo.py --python /no/such": "no Python interpreter",
    "echo.py --python /bin/true": "does not work as a Python interpreter",
    "echo.py --timeout 0": "timeout",
    "echo.py --ro /no/such": "/no/such does not exist",
    "echo.py --cold --rebuild": "--cold",
    "echo.py --count 0": "--count",
    "echo.py --no-such-option": "No such option",
    "": "Missing argument",
}


def test_2_usage(all_at_once: Several) -> None:
    runs = all_at_once([["run", *line.split()] for line in USAGE])
    for (line, said), done in zip(USAGE.items(), runs, strict=True):
        assert done.returncode == exits.USAGE, line
        assert said in done.stderr, line
        assert "Error: " in done.stderr, line
        assert "Traceback" not in done.stderr, line
        assert done.stdout == "", line


@pytest.mark.parametrize("form", ["-", "@file"])
def test_2_an_event_over_6_mb(cli: Cli, tmp_path: Path, form: str) -> None:
    event = '"' + "x" * 6_300_000 + '"'
    (tmp_path / "event.json").write_text(event)
    done = cli("run", "echo.py", "--event", form.replace("file", str(tmp_path / "event.json")), input=event)
    assert done.returncode == exits.USAGE
    assert "larger than the 6291556 bytes" in done.stderr


def test_2_the_event_is_no_text(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "event.json").write_bytes(b'"\xff"')
    done = cli("run", "echo.py", "--event", f"@{tmp_path}/event.json")
    assert done.returncode == exits.USAGE
    assert "not UTF-8" in done.stderr


def test_3_the_host_cannot(cli: Cli, home: Path, tmp_path: Path) -> None:
    other = tmp_path / "home"
    (other / "snapshots").mkdir(parents=True)
    (other / "criu").symlink_to(home / "criu")
    (other / "snapshots").chmod(0o777)
    done = cli("run", "echo.py", home=other)
    assert done.returncode == exits.HOST
    assert "writable by nobody else" in done.stderr
    assert "chmod 700" in done.stderr
    assert done.stdout == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_3_the_output_cannot_be_written(cli: Cli) -> None:
    with open("/dev/full", "wb") as full:
        done = cli("run", "echo.py", "--quiet", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == exits.HOST
    assert done.stderr == "Error: Writing to standard output failed: No space left on device.\n"


def test_4_no_snapshot_can_be_taken(cli: Cli, code_root: Path) -> None:
    # A connection to a process outside: CRIU would have to save the other end too.
    folder = code_root / "outside"
    write_files(
        folder,
        {
            "handler.py": f"""
            import socket
            outside = socket.socket(socket.AF_UNIX)
            outside.connect("{folder}/socket")
            def handler(event, context):
                return 1
            """
        },
    )
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/socket")
        os.chmod(f"{folder}/socket", 0o777)
        listener.listen()
        done = cli("run", f"{folder}/handler.py", "--json")
        debug = cli("run", f"{folder}/handler.py", "--quiet", "--debug")
    assert done.returncode == debug.returncode == exits.SNAPSHOT
    assert '"phase": "snapshot"' in done.stdout
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "Traceback" in debug.stderr


def test_5_a_snapshot_that_cannot_be_restored_is_made_anew_once(cli: Cli, write: Write) -> None:
    # A file that is open in the snapshot, and that the handler removes: CRIU does not find it for the next copy.
    function = write(
        """
        import os, sys
        path = sys.path[0] + "/room/file"
        file = open(path, "w")
        def handler(event, context):
            os.unlink(path)
            return event
        """
    )
    room = Path(function.task_root) / "room"
    room.mkdir()
    room.chmod(0o777)
    arguments = ["run", f"{function.task_root}/handler.py", "--rw", str(room), "--event", "7"]
    done = cli(*arguments, "-n", "2")
    assert done.returncode == exits.OK, done.stderr
    assert done.stdout == "7\n7\n"
    assert "Making a snapshot: the last one could not be restored" in done.stderr
    assert "Status: error\tError Type: Snapruntime.Restore" in done.stderr
    done = cli(*arguments, "-n", "3", "--json", "--rebuild", "--debug")
    assert done.returncode == exits.RESTORE, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer.get("phase") for answer in answers] == [None, None, "restore"]
    assert answers[2]["error"]["errorType"] == "Snapruntime.Restore"
    assert "CRIU's log:" in done.stderr
    assert "Traceback" in done.stderr


def test_70_a_mistake_of_ours() -> None:
    source = (
        "import sys; from snapruntime.edges import commands, cli\n"
        "def fail(*a, **k): raise ZeroDivisionError\n"
        "commands.commands.callback = fail\n"
        "sys.argv = ['snapruntime', 'doctor']; cli.main()"
    )
    root = Path(snapruntime.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", source], cwd=root, capture_output=True, text=True, timeout=30)
    assert done.returncode == exits.INTERNAL
    assert "ZeroDivisionError" in done.stderr
    assert "please report" in done.stderr


def test_messages_name_the_phase() -> None:
    from snapruntime.edges.report import describe

    document = {"errorType": "Sandbox.Timedout", "errorMessage": "RequestId: 1-2 Error: Task timed out"}
    said = [describe(FunctionError(document, phase=phase)).plain for phase in ("init", "before_snapshot", "invoke")]
    assert said == [
        "Error: The function's init failed: Sandbox.Timedout: Task timed out",
        "Error: A before-snapshot hook failed: Sandbox.Timedout: Task timed out",
        "Error: The function failed: Sandbox.Timedout: Task timed out",
    ]
