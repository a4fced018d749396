"""Other threads that ran at the checkpoint go on in the copies, and are named with the line that started them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support import Write

from snapruntime import Runtime

SOURCE = """
    import queue, threading, time
    from concurrent.futures import ThreadPoolExecutor

    import helper

    jobs, done = queue.Queue(), queue.Queue()
    asleep = threading.Event()

    def work():
        while True:
            done.put(jobs.get() * 2)

    def nap():
        asleep.set()
        time.sleep(0.3)
        done.put("slept")

    threading.Thread(target=work, name="worker", daemon=True).start()
    pool = ThreadPoolExecutor(1)
    pool.submit(int).result()

    def handler(event, context):
        jobs.put(21)
        return [done.get(timeout=10), pool.submit(sum, [1, 2]).result(10), helper.lock.locked()]
"""
HELPER = """
    import threading
    lock = threading.Lock()
    held = threading.Event()
    def hold():
        with lock:
            held.set()
            threading.Event().wait()
    def start():
        threading.Thread(target=hold, name="holder", daemon=True).start()
        held.wait()
    start()
"""


def test_threads_go_on_and_are_named(runtime: Runtime, write: Write) -> None:
    with runtime.snapshot(write(SOURCE, files={"helper.py": HELPER})) as snapshot:
        assert snapshot.threads == (
            "holder (helper.hold), started at helper.py:9",
            "worker (handler.work), started at handler.py:18",
            "ThreadPoolExecutor-0_0 (concurrent.futures.thread._worker), started at handler.py:20",
        )
        assert snapshot.native_threads == 0
        for _ in range(2):
            with snapshot.restore() as copy:
                assert copy.invoke({}).result == [42, 3, True]


def test_a_sleeping_thread_sleeps_on(runtime: Runtime, write: Write) -> None:
    source = SOURCE.replace("pool = Thread", "threading.Thread(target=nap).start(); asleep.wait()\n    pool = Thread")
    source = source.replace("jobs.put(21)\n", "")
    with runtime.snapshot(write(source, files={"helper.py": HELPER})) as snapshot, snapshot.restore() as copy:
        assert copy.invoke({}).result[0] == "slept"


def test_threads_of_native_libraries_are_counted(runtime: Runtime, write: Write) -> None:
    source = """
        import polars
        polars.DataFrame({"a": range(1000)}).lazy().select(polars.col("a").sum()).collect()
        def handler(event, context): return 1
    """
    with runtime.snapshot(write(source, timeout_s=20)) as snapshot, snapshot.restore() as copy:
        assert copy.invoke({}).result == 1
        assert snapshot.native_threads > 0
        assert snapshot.threads == ()


def test_the_command_line_names_them(criu_home: Path, write: Write) -> None:
    function = write(SOURCE, files={"helper.py": HELPER})
    command = [str(Path(sys.executable).with_name("snapruntime")), "--home", str(criu_home), "run"]
    done = subprocess.run([*command, f"{function.task_root}/handler.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "This thread of init goes on in every copy: worker (handler.work), started at handler.py:18\n" in done.stderr
