"""The messages and exit codes of a worker that is not snapshotted: every line of the contract."""

from __future__ import annotations

import json
import os
import struct
import sys
from pathlib import Path

import pytest

from .conftest import Spawn

HOOKS = """
    import os, sys
    from snapshot_restore_py import register_before_snapshot, register_after_restore
    events = []

    @register_before_snapshot
    def first(): events.append("before-first")
    register_before_snapshot(events.append, "before-second")
    register_after_restore(events.append, "after-first")
    register_after_restore(events.extend, ["after-second"])

    def handler(event, context):
        return events
"""


def test_snap_start_runs_hooks_in_order_and_says_how_many(spawn: Spawn) -> None:
    worker = spawn(HOOKS)
    ready = worker.init(kind="snap-start")
    assert (ready["type"], ready["wire"], ready["before_hooks"]) == ("ready", 1, 2)
    assert ready["python"] == "{}.{}.{}".format(*sys.version_info[:3])
    assert 0 < ready["init_ms"] < 30_000
    assert 0 < ready["before_hooks_ms"] < 30_000
    worker.send("restore", environment={})
    restored = worker.expect("restored")
    assert restored["after_hooks"] == 2
    assert restored["entropy_us"] > 0
    assert worker.result() == ["before-second", "before-first", "after-first", "after-second"]


def test_on_demand_runs_no_hooks_and_needs_no_restore(spawn: Spawn) -> None:
    worker = spawn(HOOKS)
    assert worker.init()["before_hooks"] == 0
    assert worker.result() == []


def test_end_of_file_ends_the_worker_at_once_with_status_0(spawn: Spawn) -> None:
    source = "import threading\nthreading.Thread(target=threading.Event().wait).start()\n" + "def handler(e, c): ..."
    fresh, ready = spawn(), spawn(source)
    fresh.sock.close()
    assert fresh.wait() == 0
    ready.init()
    ready.sock.close()
    assert ready.wait() == 0  # a thread that never ends does not matter


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "limits"),
        (struct.pack("!II", 4, 0) + b"nope", "not JSON"),
        (struct.pack("!II", 99, 0) + b'{"type"', "middle of a frame"),
        (struct.pack("!II", 15, 0) + b'{"type":"dance"}'[:15], "not JSON"),
        (struct.pack("!II", 16, 0) + b'{"type":"dance"}', "got message 'dance', expected init"),
        (struct.pack("!II", 17, 0) + b'{"type":"invoke"}', "got message 'invoke', expected init"),
    ],
)
def test_an_invalid_message_ends_the_worker_with_status_70_and_says_why(spawn: Spawn, data: bytes, says: str) -> None:
    worker = spawn()
    worker.sock.sendall(data)
    worker.sock.shutdown(1)
    assert worker.wait() == 70
    assert says in worker.log()


def test_an_unknown_message_after_init(spawn: Spawn) -> None:
    worker = spawn()
    worker.init()
    worker.send("init")
    assert worker.wait() == 70
    assert "expected restore or invoke or describe_fd" in worker.log()


def test_failing_before_hook(spawn: Spawn) -> None:
    worker = spawn("""
        from snapshot_restore_py import *
        @register_before_snapshot
        def never(): print("never")
        @register_before_snapshot
        def save(): raise ValueError("no disk")
        def handler(e, c): ...
    """)
    error = worker.init(kind="snap-start")
    assert (error["type"], error["phase"], error["hook"]) == ("init_error", "before_snapshot", "handler.save")
    assert error["function_error_type"] == "Runtime.BeforeSnapshotError"
    assert error["error"]["errorType"] == "ValueError"
    assert error["error"]["errorMessage"] == "no disk"
    assert error["error"]["requestId"] == ""
    assert [line.split("\n")[0] for line in error["error"]["stackTrace"]] == [
        f'  File "{worker.root}/handler.py", line 6, in save'
    ]
    assert worker.wait() == 64
    assert worker.log().startswith("[ERROR] ValueError: no disk\nTraceback")


def test_failing_after_hook(spawn: Spawn) -> None:
    worker = spawn("""
        import sys
        from snapshot_restore_py import *
        register_after_restore(sys.exit, 3)
        register_after_restore(print, "never")
        def handler(e, c): ...
    """)
    assert worker.init(kind="snap-start")["type"] == "ready"
    worker.send("restore", environment={})
    error = worker.expect("restore_error")  # sys.exit() in a hook is a failure like any other
    assert (error["function_error_type"], error["hook"]) == ("Runtime.AfterRestoreError", "sys.exit")
    assert error["error"]["errorType"] == "SystemExit"
    assert error["error"]["errorMessage"] == "3"
    assert worker.wait() == 65
    assert "never" not in worker.log()


def test_init_failure_exits_1_even_with_a_thread_left(spawn: Spawn) -> None:
    worker = spawn("import threading\nthreading.Thread(target=threading.Event().wait).start()\nraise OSError('broken')")
    error = worker.init()
    assert (error["phase"], error["function_error_type"], error["hook"]) == ("init", "OSError", None)
    assert error["init_ms"] > 0
    assert worker.wait() == 1


@pytest.mark.parametrize("status", [0, 3])
def test_exit_in_the_module_or_the_handler_is_the_process_s_exit(spawn: Spawn, status: int) -> None:
    importing = spawn(f"import sys; print('bye'); sys.exit({status})")
    importing.send("init", handler="handler.handler", task_root=str(importing.root), initialization_type="on-demand")
    assert importing.receive() is None
    assert (importing.wait(), importing.log()) == (status, "bye\n")
    handling = spawn(f"import sys\ndef handler(e, c):\n  print('bye', end='')\n  sys.exit({status})")
    handling.init()
    handling.send("invoke", b"1", request_id="r", deadline_ms=0)
    assert handling.receive() is None
    assert (handling.wait(), handling.log()) == (status, "bye")


def test_other_base_exceptions_end_the_process(spawn: Spawn) -> None:
    worker = spawn("class Stop(BaseException): ...\ndef handler(e, c): raise Stop('now')")
    worker.init()
    worker.send("invoke", b"1", request_id="r", deadline_ms=0)
    assert worker.receive() is None
    assert worker.wait() == 1
    assert "Stop: now" in worker.log()


def test_restore_sets_and_unsets_environment_before_after_hooks_see_it(spawn: Spawn) -> None:
    worker = spawn(
        """
        import os, time
        from snapshot_restore_py import register_after_restore
        seen = {}
        @register_after_restore
        def look():
            hour = time.strftime("%H", time.localtime(0))
            seen.update(new=os.environ.get("NEW"), old=os.environ.get("OLD"), hour=hour)
        def handler(e, c): return [seen, c.function_name]
        """,
        env={"OLD": "1", "AWS_LAMBDA_FUNCTION_NAME": "then"},
    )
    worker.init(kind="snap-start")
    worker.send("restore", environment={"NEW": "ü", "OLD": None, "AWS_LAMBDA_FUNCTION_NAME": "now", "TZ": "XYZ-5"})
    worker.expect("restored")
    assert worker.result() == [{"new": "ü", "old": None, "hour": "05"}, "now"]


def test_restore_without_environment(spawn: Spawn) -> None:
    worker = spawn()
    worker.init(kind="snap-start")
    worker.send("restore")
    assert worker.expect("restored")["after_hooks"] == 0
    assert worker.result("still there") == "still there"


def test_snapruntime_in_a_worker_is_the_same_registry_and_nothing_else(spawn: Spawn) -> None:
    worker = spawn("""
        import importlib.util, snapruntime, snapshot_restore_py
        from snapruntime import register_before_snapshot, register_after_restore
        errors = []
        for statement in ("from snapruntime import Pool", "import snapruntime.edges", "snapruntime.Pool"):
            try: exec(statement)
            except ImportError as e: errors.append(str(e))
        same = snapruntime.get_after_restore() is snapshot_restore_py.get_after_restore()
        spec = importlib.util.find_spec("snapshot_restore_py").name
        def handler(e, c): return [errors, same, spec]
    """)
    worker.init()
    errors, same, spec = worker.result()
    assert same
    assert spec == "snapshot_restore_py"
    assert "in a worker, snapruntime has only" in errors[0]
    assert "not a package" in errors[1]
    assert "in a worker, snapruntime has only" in errors[2]


def test_the_installed_hook_package_is_not_used(spawn: Spawn) -> None:
    worker = spawn(
        HOOKS,
        files={"snapshot_restore_py.py": "raise RuntimeError('the package itself')", "snapruntime/__init__.py": "1/0"},
    )
    assert worker.init(kind="snap-start")["before_hooks"] == 2


def test_sys_path_and_working_directory_are_lambda_s(spawn: Spawn) -> None:
    names = ("bootstrap", "context", "entropy", "handler", "inputs", "logs", "payload", "registry", "signals", "wire")
    probe = f"""
        import os, sys, importlib.util
        def lambda_handler(e, c):
            return [sys.path, os.getcwd(), [n for n in {names!r} if importlib.util.find_spec(n)]]
    """
    for flags in ((), ("-u",), ("-P",)):
        worker = spawn(files={"main.py": probe}, flags=flags)
        (worker.root / "handler.py").unlink()
        worker.init(None, module="main")
        path, cwd, visible = worker.result()
        assert path[0] == cwd == str(worker.root)
        assert visible == []  # a handler may have a module of any of our names
        assert not any("worker" in entry for entry in path[1:])


def test_user_modules_named_like_ours(spawn: Spawn) -> None:
    files = {f"{name}.py": "mine = True" for name in ("bootstrap", "context", "logs", "wire", "registry")}
    worker = spawn("import bootstrap, context, logs, wire, registry\ndef handler(e, c): return logs.mine", files=files)
    worker.init()
    assert worker.result() is True


def test_fd_3_is_closed_in_programs_the_handler_starts(spawn: Spawn) -> None:
    worker = spawn("""
        import subprocess
        def handler(e, c):
            command = ["sh", "-c", "readlink /proc/$$/fd/3"]
            found = subprocess.run(command, close_fds=False, capture_output=True, text=True)
            return found.returncode, found.stdout
    """)
    worker.init()
    assert worker.result() == [1, ""]


def test_output_is_complete_and_ordered_at_each_answer(spawn: Spawn) -> None:
    worker = spawn("""
        import sys
        print("init", end="")
        from snapshot_restore_py import *
        register_after_restore(print, "after", end="")
        def handler(e, c): print("one", end=""); print("err", end="", file=sys.stderr); c.log("two")
    """)
    worker.init(kind="snap-start")
    assert worker.log() == "init"
    worker.send("restore")
    worker.expect("restored")
    assert worker.log() == "initafter"
    worker.result()
    assert worker.log().removeprefix("initafter") in ("oneerrtwo", "erronetwo", "onetwoerr")


def test_a_closed_or_replaced_stdout_is_the_handlers_own_business(spawn: Spawn) -> None:
    worker = spawn("import sys\ndef handler(e, c):\n  sys.stdout.close()\n  sys.stdout = None\n  return 1")
    worker.init()
    assert worker.result() == 1
    assert worker.invoke()["error"]["errorType"] == "AttributeError"


def test_threads_alive_at_ready_are_named(spawn: Spawn) -> None:
    worker = spawn("""
        import threading
        def poll(): threading.Event().wait()
        threading.Thread(target=poll, name="poller", daemon=True).start()
        class Mine(threading.Thread):
            def run(self): threading.Event().wait()
        Mine(name="own", daemon=True).start()
        def handler(e, c): ...
    """)
    ready = worker.init()
    assert ready["threads"] == [
        "poller (handler.poll), started at handler.py:4",
        "own (handler.Mine), started at handler.py:7",
    ]
    assert ready["os_threads"] == 3


def test_garbage_is_collected_before_the_snapshot_but_not_in_cold_mode(spawn: Spawn) -> None:
    source = """
        import gc, weakref
        gc.disable()
        class Cycle: ...
        one = Cycle(); one.me = one; ref = weakref.ref(one); del one
        def handler(e, c): return ref() is None
    """
    collected = {}
    for kind in ("snap-start", "on-demand"):
        worker = spawn(source)
        worker.init(kind=kind)
        collected[kind] = worker.result()
    assert collected == {"snap-start": True, "on-demand": False}


def test_a_missing_task_root_is_an_init_error(spawn: Spawn, tmp_path: Path) -> None:
    worker = spawn()
    worker.send("init", handler="handler.handler", task_root=str(tmp_path / "gone"), initialization_type="on-demand")
    error = worker.expect("init_error")["error"]
    assert error["errorType"] == "FileNotFoundError"
    assert worker.wait() == 1


def test_works_as_pid_1_of_a_pid_namespace(spawn: Spawn, tmp_path: Path) -> None:
    """A wrapper as the interpreter; the worker is then init of its namespace, where SIGTERM has no default effect."""
    wrapper = tmp_path / "pid1"
    wrapper.write_text(f'#!/bin/sh\nexec unshare --pid --fork --kill-child "{sys.executable}" "$@"\n')
    wrapper.chmod(0o755)
    if os.geteuid() != 0:
        pytest.skip("making a PID namespace needs root")
    worker = spawn(
        "import os\ndef handler(e, c): e and os.kill(os.getpid(), e); return os.getpid()", python=str(wrapper)
    )
    worker.init(kind="snap-start")
    worker.send("restore")
    worker.expect("restored")
    assert worker.result() == 1
    answer = worker.invoke(15)
    assert (answer["type"], answer["signal"]) == ("signalled", 15)
    assert worker.wait() == 128 + 15


def test_ready_survives_a_huge_list_of_files(spawn: Spawn) -> None:
    """A megabyte of paths, more than a header can be, goes in the body."""
    folder = "data/" + "/".join(["n" * 240] * 12)
    worker = spawn(
        "import pathlib\nfor p in pathlib.Path('data').rglob('*.x'): p.read_bytes()\ndef handler(e, c): ...",
        files={f"{folder}/{i}.x": "" for i in range(380)},
    )
    ready = worker.init()
    assert ready["type"] == "ready"
    assert len(ready["body"]) > 1 << 20
    assert len([f for f in json.loads(ready["body"]) if f.endswith(".x")]) == 380
