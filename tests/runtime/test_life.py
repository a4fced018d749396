"""The life of snapshots and copies: many at once, alike where they should be, private where they must be."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from support import Write

from snapruntime import Function, RestoreError, Runtime, SnapruntimeError, Snapshot, UsageError

from .conftest import Start

SOURCE = """
    import os
    open("/tmp/from-init", "w").write("init")
    os.mkdir("/tmp/folder")
    calls = 0

    def handler(event, context):
        global calls
        calls += 1
        if "write" in event:
            with open("/tmp/mine", "a") as file:
                file.write(event["write"])
            with open("/tmp/from-init", "a") as file:
                file.write(event["write"])
        return {
            "pid": os.getpid(), "ppid": os.getppid(), "uid": os.getuid(), "sid": os.getsid(0), "calls": calls,
            "tmp": {name: open(f"/tmp/{name}").read() for name in sorted(os.listdir("/tmp"))
                    if os.path.isfile(f"/tmp/{name}")},
            "mode": oct(os.stat("/tmp").st_mode & 0o7777), "cwd": os.getcwd(),
            "fds": sorted(int(fd) for fd in os.listdir("/proc/self/fd")),
        }
"""


@pytest.fixture(scope="module")
def function(write: Write) -> Function:
    return write(SOURCE, timeout_s=10)


@pytest.fixture(scope="module")
def snapshot(runtime: Runtime, function: Function) -> Iterator[Snapshot]:
    with runtime.snapshot(function) as snapshot:
        yield snapshot


def test_one_instance_answers_many_events(start: Start, function: Function) -> None:
    instance = start(function)
    answers = [instance.invoke({}) for _ in range(5)]
    assert [answer.result["calls"] for answer in answers] == [1, 2, 3, 4, 5]
    assert {answer.pid for answer in answers} == {instance.pid}
    assert len({answer.request_id for answer in answers}) == 5
    for answer in answers:
        assert answer.duration_ms is not None
        assert 0 < answer.duration_ms <= answer.total_ms
        assert answer.max_memory_mb is not None
        assert answer.max_memory_mb > 3
    assert answers[0].total_ms > answers[0].duration_ms, "the first answer's time has the start in it"  # type: ignore[operator]


def test_surroundings(start: Start, function: Function) -> None:
    seen = start(function).invoke({}).result
    assert (seen["pid"], seen["ppid"], seen["sid"], seen["uid"]) == (1, 0, 1, 65534)
    assert seen["mode"] == "0o1777"
    assert seen["cwd"] == function.task_root
    assert seen["fds"][:4] == [0, 1, 2, 3]
    assert len(seen["fds"]) == 5, "the standard three, the control channel, and that of os.listdir itself"
    assert seen["tmp"] == {"from-init": "init"}


def test_what_an_answer_of_a_copy_says(snapshot: Snapshot) -> None:
    with snapshot.restore() as copy:
        answer = copy.invoke({})
    assert (answer.cold, answer.snapshot, answer.init_ms, answer.phase) == (False, snapshot.id, None, "invoke")
    assert answer.restore_ms is not None
    assert answer.hooks_ms is not None
    assert answer.restore_ms + answer.hooks_ms + (answer.duration_ms or 0) <= answer.total_ms + 0.01


def test_what_a_cold_answer_says(runtime: Runtime, function: Function) -> None:
    with runtime.cold(function) as cold, cold.start() as instance:
        answer = instance.invoke({})
    assert (answer.cold, answer.snapshot, answer.restore_ms, answer.hooks_ms) == (True, None, None, None)
    assert answer.init_ms is not None
    assert answer.init_ms > 0


def test_copies_live_at_once_and_share_nothing_they_write(snapshot: Snapshot) -> None:
    with ExitStack() as stack:
        copies = [stack.enter_context(snapshot.restore()) for _ in range(5)]
        assert len({copy.pid for copy in copies}) == 5
        assert all(psutil.pid_exists(copy.pid) for copy in copies)
        for number, copy in enumerate(copies):
            copy.invoke({"write": str(number)})
        answers = [copy.invoke({}).result for copy in copies]
    assert {answer["pid"] for answer in answers} == {1}
    assert [answer["calls"] for answer in answers] == [2] * 5
    for number, answer in enumerate(answers):
        assert answer["tmp"] == {"from-init": f"init{number}", "mine": str(number)}
    with snapshot.restore() as later:
        assert later.invoke({}).result["tmp"] == {"from-init": "init"}, "a copy's writes never reach the snapshot"


def test_a_copy_ends_with_its_context(snapshot: Snapshot) -> None:
    with snapshot.restore() as copy:
        process = psutil.Process(copy.pid)
        assert process.is_running()
    assert not psutil.pid_exists(copy.pid) or not process.is_running()
    copy.close()  # A second time does nothing.


def test_closing_in_the_wrong_order_is_no_trouble(runtime: Runtime, function: Function) -> None:
    snapshot = runtime.snapshot(function)
    copy = snapshot.restore()
    snapshot.close()
    assert copy.invoke({}).result["calls"] == 1
    copy.close()
    snapshot.close()


def test_restoring_from_a_closed_snapshot_is_refused(runtime: Runtime, function: Function) -> None:
    snapshot = runtime.snapshot(function)
    snapshot.close()
    with pytest.raises(SnapruntimeError):
        snapshot.restore()


def test_invoking_a_closed_copy_is_refused(snapshot: Snapshot) -> None:
    copy = snapshot.restore()
    copy.close()
    with pytest.raises(UsageError, match="This copy is dead"):
        copy.invoke({})


def test_closing_the_runtime_ends_everything(criu_home: Path, function: Function) -> None:
    runtime = Runtime(criu_home)
    snapshot = runtime.snapshot(function)
    copy = snapshot.restore()
    pid = copy.pid
    runtime.close()
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    with pytest.raises(UsageError, match="The runtime of this copy has been closed"):
        copy.invoke({})
    with pytest.raises(RestoreError):
        snapshot.restore()
    copy.close()
    snapshot.close()
    runtime.close()


def test_many_snapshots_in_one_runtime(runtime: Runtime, write: Write) -> None:
    functions = [write(f"def handler(event, context):\n    return {number}") for number in range(4)]
    with ExitStack() as stack:
        snapshots = [stack.enter_context(runtime.snapshot(function)) for function in functions]
        assert len({snapshot.id for snapshot in snapshots}) == 4
        for _ in range(2):
            results = [stack.enter_context(snapshot.restore()).invoke({}).result for snapshot in snapshots]
            assert results == [0, 1, 2, 3]


def test_one_snapshot_opened_twice_at_once(runtime: Runtime, function: Function) -> None:
    with runtime.snapshot(function) as first, runtime.snapshot(function) as second:
        assert first.id == second.id
        with first.restore() as one, second.restore() as two:
            assert one.invoke({}).result["calls"] == two.invoke({}).result["calls"] == 1
        first.close()
        with second.restore() as three:
            assert three.invoke({}).result["calls"] == 1


def test_threads_use_the_api_at_once(runtime: Runtime, snapshot: Snapshot, write: Write) -> None:
    other = write("def handler(event, context):\n    return event['n']")

    def restored(number: int) -> tuple[int, int]:
        with snapshot.restore() as copy:
            return copy.pid, copy.invoke({"write": str(number)}).result["tmp"]["mine"] == str(number)

    def anew(number: int) -> int:
        with runtime.snapshot(other) as mine, mine.restore() as copy:
            return int(copy.invoke({"n": number}).result)

    with ThreadPoolExecutor(6) as pool:
        others = [pool.submit(anew, number) for number in range(6)]
        results = list(pool.map(restored, range(24)))
        assert [future.result() for future in others] == list(range(6))
    assert all(right for _, right in results)


def test_one_copy_used_by_two_threads_mixes_nothing_up(snapshot: Snapshot) -> None:
    """Not promised to run at once; but each caller must get its own answer or an error, never another's."""
    with snapshot.restore() as copy:
        ids = [f"00000000-0000-0000-0000-{number:012}" for number in range(8)]
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda name: copy.invoke({}, request_id=name), ids))
    assert [answer.request_id for answer in answers] == ids
    assert sorted(answer.result["calls"] for answer in answers if answer.error is None) == list(range(1, 9))


def test_the_clock_goes_on_and_is_right(runtime: Runtime, write: Write) -> None:
    function = write("""
        import time
        at_init = time.monotonic(), time.time()

        def handler(event, context):
            return [time.monotonic() - at_init[0], time.time() - at_init[1], time.time()]
    """)
    with runtime.snapshot(function) as snapshot, snapshot.restore() as copy:
        monotonic, wall, now = copy.invoke({}).result
    assert abs(now - time.time()) < 5
    assert 0 <= monotonic < 10, "goes on from the snapshot, never backwards"
    assert wall > 0


def test_tmp_begins_with_all_that_init_left(runtime: Runtime, write: Write) -> None:
    function = write("""
        import os
        os.makedirs("/tmp/a/b")
        open("/tmp/a/b/c", "w").write("x")
        os.symlink("/tmp/a", "/tmp/link")
        os.chmod("/tmp/a/b", 0o500)
        os.mkfifo("/tmp/fifo")
        open("/tmp/sparse", "wb").truncate(64 << 20)
        open("/tmp/ünï ,:", "w").write("y")
        os.setxattr("/tmp/a/b/c", "user.tag", b"kept")

        def handler(event, context):
            os.chmod("/tmp/a/b", 0o700)
            os.rename("/tmp/a/b/c", "/tmp/moved")
            os.rmdir("/tmp/a/b")
            return [open("/tmp/moved").read(), oct(os.stat("/tmp/link").st_mode), os.path.getsize("/tmp/sparse"),
                    open("/tmp/ünï ,:").read(), os.getxattr("/tmp/moved", "user.tag").decode()]
    """)
    with runtime.snapshot(function) as snapshot:
        assert sum(path.stat().st_blocks for path in snapshot.stored.folder.rglob("sparse")) < 1000
        for _ in range(2):
            with snapshot.restore() as copy:
                assert copy.invoke({}).result == ["x", "0o40755", 64 << 20, "y", "kept"]


def test_tmp_is_limited(start: Start, write: Write) -> None:
    function = write(
        """
        def handler(event, context):
            try:
                with open("/tmp/big", "wb") as file:
                    for _ in range(600):
                        file.write(bytes(1 << 20))
            except OSError as error:
                return error.strerror
        """,
        timeout_s=20,
        memory_mb=1024,  # What is in /tmp is memory, and counts.
    )
    assert start(function).invoke({}).result == "No space left on device"


def test_output_of_init_and_hooks_reaches_the_sink(runtime: Runtime, write: Write) -> None:
    function = write("""
        import sys
        from snapruntime import register_before_snapshot, register_after_restore
        print("printed by init")
        print("to stderr", file=sys.stderr)
        register_before_snapshot(print, "before")
        register_after_restore(print, "after")

        def handler(event, context):
            print("in the handler")
    """)
    made: list[bytes] = []
    restored: list[bytes] = []
    invoked: list[bytes] = []
    with runtime.snapshot(function, sink=made.append) as snapshot, snapshot.restore(sink=restored.append) as copy:
        answer = copy.invoke({}, sink=invoked.append)
    assert b"".join(made).splitlines() == [b"printed by init", b"to stderr", b"before"]
    assert b"".join(restored) == b"after\n"
    assert b"".join(invoked) == b"in the handler\n"
    assert answer.logs.endswith("in the handler\n")


def test_progress_is_told(runtime: Runtime, write: Write) -> None:
    function = write("def handler(event, context): pass")
    told: list[object] = []
    with runtime.snapshot(function, making=told.append, initialised=told.append) as snapshot:
        assert snapshot.reason == "there is none yet"
    assert told[0] == "there is none yet"
    assert isinstance(told[1], float)
    told.clear()
    with runtime.snapshot(function, making=told.append, initialised=told.append) as again:
        assert again.reason == ""
    assert told == []


def test_the_supervisors_own_threads_and_signals_are_left_alone(runtime: Runtime, snapshot: Snapshot) -> None:
    threads = threading.active_count()
    with snapshot.restore() as copy:
        copy.invoke({})
    assert threading.active_count() == threads
    assert os.getpid() == psutil.Process().pid


def test_the_spawner_runs_no_code_of_the_current_folder(
    criu_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is root: a `json.py` beside a handler is the function's, and must not come before the standard library."""
    for name in ("json", "socket", "select", "snapruntime"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit(9)\n")
    monkeypatch.chdir(tmp_path)
    with Runtime(criu_home):
        pass
    assert not (tmp_path / "ran").exists()


def test_what_our_caller_ignores_functions_do_not(criu_home: Path, write: Write) -> None:
    """A shell ignores SIGINT and SIGQUIT in what it starts by `&`, nohup SIGHUP; only handlers do not outlive exec."""
    function = write(
        """
        def handler(event, context):
            with open("/proc/self/status") as file:
                (mask,) = [int(line.split()[1], 16) for line in file if line.startswith("SigIgn:")]
            return [number for number in range(1, 65) if mask >> (number - 1) & 1]
        """
    )
    ignored = {signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1}
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    try:
        with Runtime(criu_home) as runtime, runtime.snapshot(function) as snapshot, snapshot.restore() as copy:
            seen = copy.invoke({}).result
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert not ignored & set(seen)
