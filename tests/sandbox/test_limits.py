"""Memory, processes, files, /tmp, output: more than a function may have ends the function, not the host."""

from __future__ import annotations

import mmap
import os
import re
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import Write, wait_until

from snapruntime import FunctionError, Runtime
from snapruntime.mechanisms.cgroup import PROCESSES, Cgroups, find_hierarchies
from snapruntime.mechanisms.channel import LOG_LIMIT, LOG_PASSED_LIMIT

from .conftest import SOURCE, Attempt, Breaker, start

MB = 1 << 20


def groups() -> list[Path]:
    """The groups of this process's supervisors: below the folders that it holds open to lock them."""
    links = {os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")}
    held = [Path(link) for link in links if re.search("/snapruntime/[0-9a-f]{12}$", link)]
    return [group for run in held for group in run.iterdir() if group.is_dir()]


@pytest.fixture(autouse=True)
def no_group_left() -> object:
    before = set(groups())
    yield
    wait_until(lambda: set(groups()) <= before, "the groups are gone")


@pytest.mark.parametrize("who", ["itself", "a child of its"])
def test_out_of_memory(runtime: Runtime, write: Write, way: str, who: str) -> None:
    function = write(SOURCE, timeout_s=30.0, memory_mb=128)
    event = {"do": "allocate", "with": [300]} if who == "itself" else {"do": "child", "with": ["allocate", 300]}
    with ExitStack() as stack:
        instance = start(runtime, function, way, stack)
        other = start(runtime, function, way, stack)
        answer = instance.invoke(event, request_id="f1")
        assert answer.error == {
            "errorType": "Runtime.OutOfMemory",
            "errorMessage": "RequestId: f1 Error: Runtime exited with error: signal: killed",
            "requestId": "f1",
            "stackTrace": [],
        }
        assert answer.max_memory_mb is not None
        assert 128 <= answer.max_memory_mb < 160
        assert other.invoke({"do": "allocate", "with": [60]}).result == 60, "its neighbour goes on"


def test_out_of_memory_at_init(runtime: Runtime, write: Write) -> None:
    function = write("block = bytearray(300 << 20)\ndef handler(event, context): return 1", memory_mb=128)
    with pytest.raises(FunctionError) as caught:
        runtime.snapshot(function)
    assert caught.value.document["errorType"] == "Runtime.OutOfMemory"


def test_memory_is_measured(runtime: Runtime, write: Write, way: str) -> None:
    with ExitStack() as stack:
        instance = start(runtime, write(SOURCE, timeout_s=30.0), way, stack)
        before = instance.invoke({"do": "os_name", "with": []}).max_memory_mb
        after = instance.invoke({"do": "child", "with": ["allocate", 200]}).max_memory_mb
    assert before is not None
    assert after is not None
    assert before < 40
    assert 200 <= after < 240, "what its children had counts"


def test_files_in_tmp_are_memory(breaker: Breaker) -> None:
    attempt = breaker(memory_mb=1024)
    done, why = attempt("fill", "/tmp/large", 600 * MB)
    assert (done > 500 * MB, why) == (True, "ENOSPC")


def test_no_more_files_than_pages(breaker: Breaker) -> None:
    assert breaker(memory_mb=2048)("make_files", 140_000)[1] == "ENOSPC"


def test_processes(breaker: Breaker) -> None:
    count, why = breaker(memory_mb=2048)("fork_bomb", 2000)
    assert (count + 1, why) == (PROCESSES, "EAGAIN")


def test_resource_limits(attempt: Attempt) -> None:
    assert attempt("limits") == {
        "RLIMIT_NOFILE": [1024, 1024],
        "RLIMIT_CORE": [1, 1],
        "RLIMIT_FSIZE": [512 * MB + mmap.PAGESIZE] * 2,
    }
    assert attempt("raise_limit") == "refused"
    count, why = attempt("open_many", 2000)
    assert (count > 1000, why) == (True, "EMFILE")


def test_a_flood_of_output_ends(runtime: Runtime, write: Write, way: str) -> None:
    passed: list[int] = []
    with ExitStack() as stack:
        instance = start(runtime, write(SOURCE, timeout_s=30.0), way, stack)
        answer = instance.invoke({"do": "flood", "with": [300]}, sink=lambda data: passed.append(len(data)))
        assert answer.result == "written"
        assert len(answer.logs) < LOG_LIMIT + 100
        assert LOG_PASSED_LIMIT <= sum(passed) < LOG_PASSED_LIMIT + MB
        assert instance.invoke({"do": "flood", "with": [1]}, sink=lambda data: passed.append(len(data))).result
        assert sum(passed) >= LOG_PASSED_LIMIT + MB, "each event anew"


def test_groups_of_one_that_was_killed_are_cleared_and_of_the_living_kept() -> None:
    hierarchies = find_hierarchies()
    living, dead = Cgroups(hierarchies), Cgroups(hierarchies)
    try:
        before = {folder for _, folder in living._hierarchies}
        left = {folder for _, folder in dead._hierarchies}
        for folder in left:
            (folder / "copy").mkdir()
        while dead._locks:
            os.close(dead._locks.pop())  # As the kernel does.
        Cgroups(hierarchies).close()
        assert not any(folder.exists() for folder in left)
        assert all(folder.exists() for folder in before)
    finally:
        living.close()
        dead.close()


def test_a_group_of_v1_is_entered_without_waiting_for_all_processors() -> None:
    hierarchies = find_hierarchies()
    cgroups = Cgroups(hierarchies)
    try:
        entered = [Path(op[1]).name for op in cgroups.surround("copy", 128) if op[0] == "write" and op[2] == "0"]
    finally:
        cgroups.close()
    assert entered == [{1: "tasks", 2: "cgroup.procs"}[hierarchy.version] for hierarchy in hierarchies]
