"""Snapshots appear whole or not at all: in what order things reach the disk, and what a killed maker leaves."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import copy_criu
from support import Census, Write, assert_nothing_left, wait_until

from faults.conftest import MANIFEST
from snapruntime import Runtime, SnapshotError
from snapruntime.mechanisms import folders
from snapruntime.mechanisms import store as store_module
from snapruntime.mechanisms.store import IMAGES, TMP, Store
from snapruntime.workflows.freshness import input_changes, record_inputs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def fill(folder: Path) -> None:
    for name in ("core-1.img", "pages-1.img", "memory"):
        (folder / IMAGES / name).write_bytes(os.urandom(20_000))
    (folder / TMP / "deep").mkdir()
    (folder / TMP / "deep" / "file").write_bytes(b"x" * 5000)


def publish(store: Store, slot: str = "slot") -> Path:
    with store.making(slot, 10), store.staging(slot) as staged:
        fill(staged.folder)
        stored = store.publish(staged, MANIFEST)
        stored.close()
        return stored.folder


def visible(store: Store) -> list[Path]:
    """What has a snapshot's name; each must be whole."""
    folders = [folder for slot in store.home.glob("snapshots/*/") for folder in store.newest_first(slot.name)]
    for folder in folders:
        try:
            stored = store.open(folder)
        except FileNotFoundError:
            continue  # Another thread's supervisor has published one more than are kept.
        stored.verify()
        stored.close()
    return folders


def test_what_is_written_reaches_the_disk_before_the_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file and folder is synchronised after its last change and before the rename; then each parent."""
    events: list[tuple[str, str]] = []
    fsync, rename, close = os.fsync, Path.rename, os.close

    def synced(fd: int) -> None:
        events.append(("fsync", os.readlink(f"/proc/self/fd/{fd}")))
        fsync(fd)

    def renamed(self: Path, target: Path) -> Path:
        written = {str(path) for path in [self, *self.rglob("*")] if not path.is_symlink()}
        assert written == {path for kind, path in events if kind == "fsync"}, "all of it, and nothing twice"
        newest = max(path.stat().st_mtime_ns for path in self.rglob("*") if path.is_file())
        events.append(("rename", str(target)))
        result = rename(self, target)
        assert newest == max(path.stat().st_mtime_ns for path in target.rglob("*") if path.is_file())
        return result

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    folder = publish(store)
    monkeypatch.undo()
    assert close is os.close
    at = events.index(("rename", str(folder)))
    assert events[at + 1 :] == [
        ("fsync", str(parent)) for parent in (folder.parent, folder.parents[1], folder.parents[2])
    ]


#: Publishes again and again, and is killed at a moment that is given; each life of it in one fork.
KILLED = """
import json, os, random, select, signal, sys, time
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests"]
from faults.test_store import Store, publish, visible
dice, store, killed, left = random.Random(int(sys.argv[3])), Store(Path(sys.argv[2])), 0, 0
publish(store)
longest = 0.0
for _ in range(5):
    began = time.perf_counter()
    publish(store)
    longest = max(longest, time.perf_counter() - began)
for number in range(int(sys.argv[4])):
    pid = os.fork()
    if pid == 0:
        try:
            publish(store, f"slot-{number % 3}")
        finally:
            os._exit(0)
    select.select([], [], [], dice.random() * longest * 1.5)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    killed += os.WIFSIGNALED(status)
    visible(store)
    left += bool(list(store.home.glob("snapshots/*/.new-*")))
publish(store)
print(json.dumps([killed, left, len(list(store.home.glob("snapshots/*/.new-*")))]))
"""


def test_a_maker_is_killed_at_hundreds_of_moments() -> None:
    # In memory: it is about what is done in which order, and a disk would take its time for each fsync.
    with tempfile.TemporaryDirectory(dir="/dev/shm") as home:
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(ROOT), home, "1", "200"],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    killed, left, after = json.loads(done.stdout)
    assert killed > 20, "how many are done before, depends on what else the machine does"
    assert left > 20, "what killed makers leave is there until the next one"
    assert after == 0


def killed_at(store: Store, call: str, number: int) -> bool:
    """Publish in a process that is killed at its call number `number`; whether it came so far."""
    pid = os.fork()
    if pid == 0:
        count = 0
        owner: Any = {"fsync": os, "rename": Path, "mkdir": Path, "flock": fcntl}[call]
        original = getattr(owner, call)

        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        try:
            setattr(owner, call, counted)
            publish(store)
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir", "flock"])
def test_a_maker_is_killed_at_each_step(store: Store, call: str) -> None:
    """Not by chance: at the first call of its kind, the second, and so on, until it is done."""
    publish(store)
    number, killed = 0, True
    while killed:
        number += 1
        killed = killed_at(store, call, number)
        assert visible(store)
    assert number > 1, "it was killed once at least, and came to its end at last"
    publish(store)
    assert not list(store.home.glob("snapshots/*/.new-*"))


SUPERVISOR = """
import sys
from pathlib import Path
from snapruntime import Runtime, resolve_function
with Runtime(Path(sys.argv[1])) as runtime:
    print("began", flush=True)
    with runtime.snapshot(resolve_function(sys.argv[2]), rebuild=True) as snapshot, snapshot.restore() as copy:
        print(copy.invoke({}).result, flush=True)
"""


def test_a_supervisor_is_killed_while_it_makes_a_snapshot(
    criu_home: Path, tmp_path: Path, write: Write, nothing_left: Census
) -> None:
    """At moments by chance; the soak does it some hundred times more. The next run works, with what is whole."""
    # A store of its own: each time all that is in it is looked through, byte by byte.
    home = copy_criu(criu_home, tmp_path / "home")
    function = write("def handler(event, context): return 1")
    handler, dice, store = f"{function.task_root}/handler.py", random.Random(2), Store(home)

    def one(delay: float) -> bool:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, str(home), handler],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(delay)
            process.kill()
        visible(store)
        return process.returncode == -signal.SIGKILL

    with ThreadPoolExecutor(2) as pool:
        killed = sum(pool.map(one, [dice.random() * 0.4 for _ in range(8)]))
    assert killed > 2, "how many are done before, depends on what else the machine does"
    assert_nothing_left(nothing_left)
    with Runtime(home) as runtime:
        with runtime.snapshot(function) as snapshot, snapshot.restore() as copy:
            assert copy.invoke({}).result == 1
        with runtime.snapshot(function, rebuild=True):
            assert not list(home.glob("snapshots/*/.new-*"))


def test_what_is_alive_is_not_cleared_up(store: Store) -> None:
    """A snapshot in the making by somebody else, in a slot of its own; and one in use."""
    published = publish(store, "used")
    lease = store.open(published)
    with store.making("theirs", 10), store.staging("theirs") as staged:
        fill(staged.folder)
        for _ in range(5):
            publish(store, "used")
        theirs = store.publish(staged, MANIFEST)
    theirs.verify()
    theirs.close()
    lease.verify()
    lease.close()
    publish(store, "used")
    assert not published.exists(), "without a lease it goes, being the oldest of more than are kept"


@pytest.mark.parametrize("moment", ["made", "opened"])
def test_clearing_up_while_another_begins(store: Store, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """A staging folder is there a moment before it is locked: who clears up takes it for a dead maker's then."""
    real_open = os.open
    stolen: list[Path] = []

    def late(path: Any, *arguments: Any, **options: Any) -> int:
        steal = isinstance(path, Path) and path.name.startswith(".new-") and not stolen
        if steal:
            stolen.append(path)
        if steal and moment == "made":
            folders.remove_if_unused(path)
        fd = real_open(path, *arguments, **options)
        if steal and moment == "opened":
            folders.remove_if_unused(path)
        return fd

    (store.home / "snapshots" / "slot").mkdir()
    monkeypatch.setattr(os, "open", late)
    with store.staging("slot") as staged:
        assert staged.folder != stolen[0]
        assert (staged.folder / IMAGES).is_dir()


def test_two_clear_up_the_same_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes second finds it gone, at whatever point it is then: no error."""
    folder = publish(store)
    try_lock, first = folders.try_lock, threading.local()

    def between(fd: int, kind: int) -> bool:
        if not hasattr(first, "done"):
            first.done = True
            folders.remove_if_unused(folder)
        return try_lock(fd, kind)

    monkeypatch.setattr(folders, "try_lock", between)
    store.discard(folder)
    assert not folder.exists()


def test_foreign_things_in_the_store_are_left_alone(store: Store) -> None:
    slot = store.home / "snapshots" / "slot"
    slot.mkdir()
    (slot / ".new-file").write_text("x")
    (slot / "a-file").write_text("x")
    (slot / ".hidden").mkdir()
    (slot / "99991231T235959999999Z-from-the-end-of-time").mkdir()
    folder = publish(store)
    stored = store.open(folder)
    stored.verify()
    stored.close()
    assert {path.name for path in slot.iterdir()} >= {".new-file", "a-file", ".hidden"}


def test_who_waits_for_another_maker_waits_so_long(store: Store) -> None:
    with (
        store.making("slot", 10),
        pytest.raises(SnapshotError, match="has been making a snapshot") as caught,
        store.making("slot", 0.05),
    ):
        pytest.fail("two at once")
    assert "fuser" in caught.value.hint


def test_a_maker_that_is_stopped_does_not_hold_up_others_for_ever(
    runtime: Runtime, criu_home: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = write("def handler(event, context): return 1", timeout_s=0.5)
    slot = Store(criu_home).slot_of(
        function.task_root, function.name, function.version, f"{function.module}.{function.attribute or ''}"
    )
    code = f"""
import sys
from pathlib import Path
from snapruntime.mechanisms.store import Store
with Store(Path(sys.argv[1])).making("{slot}", 10):
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(criu_home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.send_signal(signal.SIGSTOP)
        monkeypatch.setattr("snapruntime.values.model.INIT_LIMIT_S", 0.1)
        monkeypatch.setattr("snapruntime.workflows.runtime.CHECKPOINT_LIMIT_S", 0.0)
        with pytest.raises(SnapshotError, match="Another process"):
            runtime.snapshot(function)
        holder.kill()
    with runtime.snapshot(function) as snapshot, snapshot.restore() as copy:
        assert copy.invoke({}).result == 1


def test_many_supervisors_on_one_store(store: Store) -> None:
    """Making, using and discarding at once: whoever has a lease has a whole snapshot, whatever the others do."""
    ends: list[BaseException] = []
    until = time.monotonic() + 1.5
    publish(store)

    def guarded(job: Any) -> None:
        another = Store(store.home)  # As another process would have: locks are per open file, not per process.
        try:
            while time.monotonic() < until:
                job(another)
        except BaseException as error:
            ends.append(error)

    def use(mine: Store) -> None:
        for folder in mine.newest_first("slot"):
            with contextlib.suppress(FileNotFoundError):
                lease = mine.open(folder)
                try:
                    lease.verify()
                    lease.verify()
                finally:
                    lease.close()

    def discard(mine: Store) -> None:
        for folder in mine.newest_first("slot")[1:]:
            mine.discard(folder)

    threads = [threading.Thread(target=guarded, args=[job]) for job in (publish, publish, use, use, discard)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert ends == []
    publish(store)
    assert visible(store)
    assert not list(store.home.glob("snapshots/*/.new-*"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """`clock[0]`: how many seconds the clock of the store has been set by."""
    shift = [0.0]

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.fromtimestamp(time.time() + shift[0], tz or UTC)

    monkeypatch.setattr(store_module, "datetime", Shifted)
    return shift


def test_a_clock_that_is_set_back_does_not_make_the_newest_the_oldest(store: Store, clock: list[float]) -> None:
    """It would be the first to go, and the last to be tried."""
    published = [publish(store)]
    for step in (+86_400.0, -40 * 86_400.0, -80 * 86_400.0, 0.0):
        clock[0] = step
        published.append(publish(store))
        assert store.newest_first("slot")[0] == published[-1]
    assert store.newest_first("slot") == published[:-4:-1]


@pytest.mark.parametrize("step_s", [-3600, +5, +3600])
def test_the_clock_is_set_during_init(
    runtime: Runtime, write: Write, monkeypatch: pytest.MonkeyPatch, step_s: int
) -> None:
    """What changed while init ran must not be taken for what init read. (The host's own clock is not ours to set.)"""
    function = write("import other\ndef handler(event, context): return other.value", files={"other.py": "value = 1"})
    other = Path(function.task_root) / "other.py"
    real, asked = time.time_ns, 0

    def time_ns() -> int:
        nonlocal asked
        asked += 1
        return real() - (step_s * 10**9 if asked == 1 else 0)  # Before init the clock was off by that much.

    def init_done(_: float) -> None:
        other.write_text("value = 2")  # It had been read.

    monkeypatch.setattr("snapruntime.workflows.checkpoint.time.time_ns", time_ns)
    with runtime.snapshot(function, initialised=init_done):
        pass
    monkeypatch.undo()
    with runtime.snapshot(function) as snapshot, snapshot.restore() as copy:
        # By a clock that was an hour behind, all files of the last hour have changed: it names four, and that is all.
        assert "other.py changed" in snapshot.reason or (step_s > 60 and "; and more" in snapshot.reason)
        assert copy.invoke({}).result == 2


def test_an_input_that_has_become_a_pipe_is_a_change_and_no_wait(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_text("x")
    inputs = record_inputs([str(path)], [], time.time_ns() + 10**9, [str(tmp_path)])
    path.unlink()
    os.mkfifo(path)
    assert input_changes(inputs) == [f"{path} changed"]


def test_a_manifest_that_has_become_a_pipe_is_damage_and_no_wait(store: Store) -> None:
    folder = publish(store)
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    with pytest.raises(SnapshotError.__mro__[1], match="damaged"):
        store.open(folder)


def test_two_supervisors_make_and_use_at_once(criu_home: Path, write: Write, nothing_left: Census) -> None:
    """Two runtimes over real CRIU: every answer is right, nobody takes away what is in use."""
    function = write("def handler(event, context): return event")

    def live(number: int) -> list[int]:
        answers = []
        with Runtime(criu_home) as mine:
            for step in range(4):
                with mine.snapshot(function, rebuild=(step + number) % 2 == 0) as snapshot, snapshot.restore() as copy:
                    answers.append(copy.invoke(step).result)
        return answers

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(live, range(2))) == [[0, 1, 2, 3]] * 2
    shutil.rmtree(criu_home / "snapshots" / "none", ignore_errors=True)
    wait_until(lambda: not list(criu_home.glob("snapshots/*/.new-*")), "nothing half-made")
