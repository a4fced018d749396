"""What a function says that it read, and what its process has mapped, are names: they must not lead us anywhere."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Write

from snapruntime import Runtime, SnapshotError
from snapruntime.mechanisms import host_files
from snapruntime.workflows.freshness import input_changes, record_inputs


def recorded(*paths: object, shown: Path | None = None) -> list[str]:
    """Which of the names are taken for files, folders, or names that nothing has, of the host."""
    inputs = record_inputs(map(str, paths), [], time.time_ns() + 10**9, [] if shown is None else [str(shown)])
    return [path for kind in ("files", "listed", "absent") for path in inputs[kind]]


@pytest.mark.parametrize(
    "path",
    [
        "/proc/kmsg",
        "/./proc/kmsg",
        "//proc/kmsg",
        "///usr/../proc/kmsg",
        "/usr//../sys/kernel/uevent_seqnum",
        "/dev/../dev/null",
        "usr/bin/env",
        "",
        "/tmp",
        "/tmp/mine",
        "/run/x",
        "/var/runtime/snapruntime/wire.py",
    ],
)
def test_names_that_are_none_of_the_hosts(path: str) -> None:
    assert recorded(path) == []


def test_links_to_what_is_no_file_of_a_disk(tmp_path: Path) -> None:
    """Opening /proc/kmsg and reading from it would wait for the kernel's next message, and take it."""
    for name, target in {"kmsg": "/proc/kmsg", "null": "/dev/null", "state": "/sys/kernel/uevent_seqnum"}.items():
        (tmp_path / name).symlink_to(target)
    (tmp_path / "real").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    names = ["kmsg", "null", "state", "pipe", "real"]
    assert recorded(*(tmp_path / name for name in names), shown=tmp_path) == [str(tmp_path / "real")]


@pytest.fixture
def hosts_tmp() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_a_link_out_of_what_is_shown_into_what_the_sandbox_has_for_itself(hosts_tmp: Path) -> None:
    (hosts_tmp / "shown").mkdir()
    (hosts_tmp / "other").write_text("x")
    (hosts_tmp / "shown/link").symlink_to(hosts_tmp / "other")
    assert recorded(hosts_tmp / "shown/link", shown=hosts_tmp / "shown") == []


def test_an_input_that_leads_to_the_kernel_now_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_text("")
    inputs = record_inputs([str(path)], [], time.time_ns() + 10**9, [str(tmp_path)])
    path.unlink()
    path.symlink_to("/proc/kmsg")  # As long as it was: 0 bytes.
    assert input_changes(inputs) == [f"{path} changed"]


def test_a_file_too_large_to_read_is_known_by_its_state(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, 2 << 40)
    inputs = record_inputs([str(path)], [], time.time_ns() + 10**9, [str(tmp_path)])
    assert inputs["files"][str(path)][-1] == host_files.UNREAD
    assert input_changes(inputs) == []
    os.utime(path)
    assert input_changes(inputs) == [f"{path} changed"]


def test_reading_ends_when_its_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(host_files, "READ_LIMIT_S", 0.0)
    inputs = record_inputs([str(tmp_path / "file")], [], time.time_ns() + 10**9, [str(tmp_path)])
    assert inputs["files"][str(tmp_path / "file")][-1] == host_files.UNREAD
    assert input_changes(inputs) == []


def test_a_file_in_the_functions_own_tmp_is_not_the_hosts(runtime: Runtime, write: Write, hosts_tmp: Path) -> None:
    (hosts_tmp / "mine").write_bytes(bytes(4096))
    source = f"""
        import mmap, os
        os.makedirs("{hosts_tmp}")
        file = open("{hosts_tmp}/mine", "w+b")
        file.truncate(4096)
        mapped = mmap.mmap(file.fileno(), 4096)
        def handler(event, context): return 1
        """
    with runtime.snapshot(write(source)) as snapshot:
        manifest = snapshot.stored.manifest
    assert f"{hosts_tmp}/mine" in manifest["mapped_files"]
    assert f"{hosts_tmp}/mine" not in manifest["inputs"]["files"]


def test_closing_the_runtime_ends_the_reading(criu_home: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ctrl-C does: nobody waits for a file that takes long."""
    monkeypatch.setattr(host_files, "READ_LIMIT", 1 << 50)
    monkeypatch.setattr(host_files, "READ_LIMIT_S", 3600.0)
    function = write("open(__file__ + '.data').close()\ndef handler(event, context): return 1")
    data = Path(function.task_root, "handler.py.data")
    data.touch()
    os.truncate(data, 2 << 40)
    runtime, reading = Runtime(home=criu_home), threading.Event()
    digest = host_files.Reading.digest

    def seen(self: host_files.Reading, fd: int) -> str:
        if os.fstat(fd).st_size >= 2 << 40:
            reading.set()
        return digest(self, fd)

    monkeypatch.setattr(host_files.Reading, "digest", seen)

    def close() -> None:
        reading.wait()
        runtime.close()

    closing = threading.Thread(target=close)
    closing.start()
    began = time.monotonic()
    with pytest.raises(SnapshotError):
        runtime.snapshot(function)
    closing.join()
    assert time.monotonic() - began < 30


def test_comparing_ends_when_it_is_watched(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_text("x")
    inputs = record_inputs([str(path)], [], time.time_ns() + 10**9, [str(tmp_path)])
    os.utime(path)

    def watch() -> None:
        raise SnapshotError("closed")

    with pytest.raises(SnapshotError, match="closed"):
        input_changes(inputs, watch)
