"""Every exit code, through the real command line; and the table that errors become codes by."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from conftest import copy_criu
from support import Write, write_files

import snapruntime
from edges.conftest import Cli, Several
from snapruntime.edges import exits
from snapruntime.edges.commands import commands
from snapruntime.edges.doctor import EXIT_HOST
from snapruntime.edges.report import describe
from snapruntime.edges.session import shared_state
from snapruntime.mechanisms import linux
from snapruntime.mechanisms.host.capabilities import BITS
from snapruntime.values.errors import FunctionError, SnapruntimeError, SnapshotError
from snapruntime.workflows import lambda_log
from snapruntime.workflows.checkpoint import _shared_state

ROOT = Path(__file__).resolve().parents[2]


def _descendants(kind: type[SnapruntimeError]) -> list[type[SnapruntimeError]]:
    return [kind, *(other for child in kind.__subclasses__() for other in _descendants(child))]


def test_every_error_has_a_code_of_its_own_kind() -> None:
    # With all of the program loaded, no class of the tree is without a code but the base, which nobody raises.
    context = click.Context(commands)
    assert all(commands.get_command(context, name) for name in commands.list_commands(context))
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
    "echo": "neither a file nor module.function.\nIs it echo.py that you mean?",
    ".": "is a folder, not a Python file.\nName a file in it: bad_after.py",
    "/proc/self/ns": "There is no Python file in it. HANDLER is",
    "/bin/ls": "does not end in .py.\nHANDLER is",
    "BINARY": "is not Python source: there are zero bytes in it.\nHANDLER is",
    "EMPTY": "HANDLER is empty.\nHANDLER is",
    "echo.py --event {": "not JSON",
    "echo.py --event NaN": "not JSON",
    "echo.py --event 1e999": "not JSON",
    "echo.py --event @PIPE": "is no regular file.\n`--event -` reads a pipe.",
    "echo.py --event @/dev/zero": "is no regular file",
    "echo.py --event @/": "is no regular file",
    "echo.py --event=": "not JSON",
    "echo.py --event @no_such": "no_such cannot be read: No such file",
    "echo.py --env NOVALUE": "NAME=VALUE",
    "echo.py --env _HANDLER=x": "reserved",
    "echo.py --user 0": "root only by name",
    "echo.py --user no-such-user": "There is no user",
    "echo.py --python /no/such": "no Python interpreter",
    "echo.py --python /bin/true": "interpreter: what it answers is not what Python would.\nGive --python",
    "echo.py --python /bin/echo": "interpreter: what it answers is not what Python would.\nGive --python",
    "echo.py --python /bin/ls": "interpreter: it ended with exit status 2.\nGive --python",
    "echo.py --python /bin/bash": "interpreter: it ended with exit status 2.\nGive --python",
    "echo.py --python /etc": "no Python interpreter",
    "echo.py --timeout 0": "timeout",
    "echo.py --ro /no/such": "/no/such does not exist",
    "echo.py --cold --rebuild": "--cold",
    "echo.py --count 0": "--count",
    "echo.py --count 100001": "--count",
    "echo.py --no-such-option": "No such option",
    "": "Missing argument",
}


def test_2_usage(all_at_once: Several, code_root: Path, tmp_path: Path) -> None:
    write_files(code_root, {"binary.py": Path("/bin/ls").read_bytes()})
    os.mkfifo(tmp_path / "pipe")
    words = {"EMPTY": "", "BINARY": f"{code_root}/binary.py", "@PIPE": f"@{tmp_path}/pipe"}
    runs = all_at_once([["run", *(words.get(word, word) for word in line.split())] for line in USAGE])
    for (line, said), done in zip(USAGE.items(), runs, strict=True):
        assert done.returncode == exits.USAGE, line
        assert said in done.stderr, line
        assert "Error: " in done.stderr, line
        assert "Traceback" not in done.stderr, line
        assert "version_info" not in done.stderr, line
        assert done.stdout == "", line


def test_2_the_current_folder_is_not_utf_8(cli: Cli, code_root: Path) -> None:
    folder = os.path.join(os.fsencode(code_root), b"b\xff")
    os.makedirs(folder, exist_ok=True)
    Path(os.fsdecode(folder), "echo.py").write_text("def handler(event, context): return 1")
    done = cli("run", "echo.py", cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == exits.USAGE, done.stderr
    assert "b\\udcff' is not UTF-8.\nRename it." in done.stderr


def test_2_standard_input_is_closed(cli: Cli) -> None:
    done = cli("run", "echo.py", "--event", "-", stdin=None, preexec_fn=lambda: os.close(0))
    assert done.returncode == exits.USAGE, done.stderr
    assert "standard input is closed" in done.stderr


def test_3_half_a_criu(cli: Cli, home: Path, tmp_path: Path) -> None:
    """Its pycriu is there, with nothing in it: Python imports that."""
    (tmp_path / "home").mkdir()
    other = copy_criu(home, tmp_path / "home")
    packages = [*(other / "criu").rglob("pycriu/__init__.py")]
    assert packages
    for file in packages:
        file.write_text("")
    done = cli("run", "echo.py", home=other)
    assert done.returncode == exits.HOST, done.stderr
    assert "pycriu" in done.stderr
    assert "snapruntime setup" in done.stderr


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


FORGED = "x\x1b[2J\nError: forged\r\u202e"


def test_what_a_function_says_is_on_a_line_of_its_own_and_moves_no_cursor() -> None:
    """The names of its threads and errors are whatever it likes; lines of ours are ours."""
    document = {"errorType": FORGED, "errorMessage": FORGED, "requestId": "", "stackTrace": []}
    snapshot: Any = SimpleNamespace(threads=(FORGED,), native_threads=0)
    lines = [
        describe(FunctionError(document, phase="init")).plain,
        *shared_state(snapshot),
        lambda_log.init_failed(1.0, document, "init").replace("\t", ""),
    ]
    for line in lines:
        assert line.isprintable(), line
        assert "x\\x1b[2J\\nError: forged" in line


def test_what_a_function_says_of_its_threads_is_bounded() -> None:
    said = _shared_state({"threads": ["x" * 10_000] * 10_000, "os_threads": 10**30, "seeded": {}})
    assert len("".join(said["threads"])) <= 100 * 300
    assert said["native_threads"] < 1 << 22


def test_the_error_document_names_the_request(cli: Cli, functions: Path) -> None:
    """Whatever the function writes to the channel itself."""
    source = """
        import json, os, struct

        def handler(event, context):
            error = {"errorType": "E", "errorMessage": "m", "requestId": "forged", "stackTrace": []}
            answer = {"type": "error", "request_id": context.aws_request_id, "error": error}
            head = json.dumps(answer).encode()
            os.write(3, struct.pack("!II", len(head), 0) + head)
        """
    write_files(functions / "says_another_id", {"handler.py": source})
    done = cli("run", "says_another_id/handler.py", "--json", "--quiet")
    answer = json.loads(done.stdout)
    assert answer["error"]["errorType"] == "E"
    assert answer["error"]["requestId"] == answer["request_id"]


def open_files(soft: int, hard: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("soft", [20, 28, 64])
def test_a_low_soft_limit_of_open_files_is_raised(cli: Cli, soft: int) -> None:
    done = cli("run", "echo.py", "-n", "4", "--concurrency", "4", "--rebuild", preexec_fn=open_files(soft, 4096))
    assert done.returncode == exits.OK, done.stderr
    assert "could not be restored" not in done.stderr


@pytest.mark.parametrize("hard", [64, 1023])
def test_3_a_low_hard_limit_of_open_files(cli: Cli, hard: int) -> None:
    done = cli("run", "echo.py", preexec_fn=open_files(hard, hard))
    assert done.returncode == exits.HOST
    assert f"the limit of open files (ulimit -n) is {hard}; CRIU and functions need 1024." in done.stderr
    assert "ulimit -n 1024" in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_3_the_output_cannot_be_written(cli: Cli) -> None:
    with open("/dev/full", "wb") as full:
        done = cli("run", "echo.py", "--quiet", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == exits.HOST
    assert done.stderr == "Error: Writing to standard output failed: No space left on device.\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_3_nothing_can_be_said_of_it_either(cli: Cli) -> None:
    with open("/dev/full", "wb") as full:
        streams: dict[str, Any] = {"capture_output": False, "stdout": subprocess.DEVNULL, "stderr": full}
        assert cli("run", "echo.py", **streams).returncode == exits.HOST
        assert cli("run", "nowhere.py", **streams).returncode == exits.USAGE
        for command in (["doctor"], ["ls"], ["check", "--static", "echo.py"]):
            done = cli(*command, capture_output=False, stdout=full, stderr=subprocess.PIPE)
            assert done.returncode == exits.HOST, command
            assert done.stderr == "Error: Writing the output failed: No space left on device.\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin1"])
def test_3_in_an_encoding_that_lacks_characters(cli: Cli, encoding: str) -> None:
    done = cli("doctor", env=os.environ | {"PYTHONIOENCODING": encoding}, preexec_fn=open_files(64, 64))
    assert (done.returncode, done.stderr) == (exits.HOST, "")
    assert "\\u2192 ulimit -n 1024" in done.stdout


@pytest.mark.parametrize("closed", [False, True])
def test_3_there_is_no_null_device(cli: Cli, tmp_path: Path, closed: bool) -> None:
    def prepare() -> None:
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
        linux.mount(str(tmp_path), "/dev", None, linux.MS_BIND)
        if closed:
            os.close(0)

    for command in (["doctor"], ["run", "echo.py"]):
        done = cli(*command, preexec_fn=prepare)
        assert (done.returncode, done.stdout) == (exits.HOST, "")
        assert done.stderr.startswith("Error: /dev/null cannot be opened: No such file or directory.\n")
        assert "mknod -m 666 /dev/null c 1 3" in done.stderr


@pytest.mark.parametrize(("number", "name"), [(resource.RLIMIT_CORE, "core"), (resource.RLIMIT_FSIZE, "fsize")])
def test_3_a_hard_limit_that_nobody_may_raise(cli: Cli, number: int, name: str) -> None:
    def prepare() -> None:
        resource.setrlimit(number, (0, 0))
        linux.prctl(linux.PR_CAPBSET_DROP, BITS["SYS_RESOURCE"])

    done = cli("run", "echo.py", preexec_fn=prepare)
    assert done.returncode == exits.HOST
    assert f"the hard limit of {name} is 0 bytes" in done.stderr
    assert f"Limit{name.upper()}=infinity" in done.stderr
    assert cli("doctor", preexec_fn=prepare).returncode == exits.HOST


def test_a_caller_that_ignores_the_end_of_its_children(cli: Cli) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    done = cli("run", "echo.py", "--quiet", preexec_fn=ignore)
    assert (done.returncode, done.stderr) == (exits.OK, "")
    assert cli("doctor", preexec_fn=ignore).returncode == exits.OK


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


def test_a_limit_of_processes_that_criu_meets_is_named() -> None:
    error = SnapshotError("CRIU refused the checkpoint: fork: Resource temporarily unavailable", hint="Close it.")
    assert "pids.max" in describe(error).plain
    assert "Close it." in describe(SnapshotError("CRIU refused the checkpoint: a socket", hint="Close it.")).plain


@pytest.mark.parametrize(
    ("document", "phase", "hint"),
    [
        (
            {
                "errorType": "Runtime.ImportModuleError",
                "errorMessage": "Unable to import module 'a.b': No module named 'a'",
            },
            "init",
            "change to the one that it is in",
        ),
        (
            {"errorType": "Sandbox.Timedout", "errorMessage": "Task timed out after 10.00 seconds"},
            "after_restore",
            "An after-restore hook did not end",
        ),
        (
            {
                "errorType": "Runtime.ImportModuleError",
                "errorMessage": "Unable to import module 'a.b': No module named 'c'",
            },
            "init",
            "c is neither in the code's folder nor in its Python's environment: --python names another",
        ),
        (
            {
                "errorType": "Runtime.ImportModuleError",
                "errorMessage": "Unable to import module 'redis_handler': No module named 'redis'",
            },
            "init",
            "redis is neither in",
        ),
        ({"errorType": "KeyError", "errorMessage": "'STAGE'"}, "init", ""),
    ],
)
def test_what_lambdas_words_leave_open_is_said(document: dict[str, str], phase: str, hint: str) -> None:
    said, *more = describe(FunctionError(document, phase=phase)).plain.split("\n")
    assert document["errorMessage"] in said
    assert hint in "".join(more)
    assert bool(more) == bool(hint)
