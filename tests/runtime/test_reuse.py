"""A snapshot is used again exactly while everything that it was made from is unchanged; what changed is said."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import Write, write_files, write_function

from snapruntime import Function, Runtime, resolve_function
from snapruntime.mechanisms import store
from snapruntime.workflows import freshness

ROOT = Path(__file__).resolve().parents[2]

SOURCE = """
    import json, os, sys
    sys.path.insert(0, os.path.join(os.path.dirname(__file__), "vendored"))
    import shadow, sibling
    from package import part
    HERE = os.path.dirname(__file__)
    DATA = open(os.path.join(HERE, "data.txt")).read()
    if os.path.exists(os.path.join(HERE, "maybe.txt")):
        DATA += "!"
    try:
        DATA += open(os.path.join(HERE, "optional.txt")).read()
    except FileNotFoundError:
        pass
    PLUGINS = os.listdir(os.path.join(HERE, "plugins"))

    def handler(event, context):
        return [sibling.VALUE, part.VALUE, DATA, os.environ.get("X")]
"""
FILES: dict[str, str | bytes] = {
    "shadow.py": "VALUE = 1",
    "shadow/data.txt": "no package yet",
    "sibling.py": "VALUE = 1",
    "package/__init__.py": "",
    "package/part.py": "VALUE = 2",
    "data.txt": "data",
    "unread.txt": "nobody reads this",
    "plugins/a": "",
}


@pytest.fixture
def folder(code_root: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=code_root))


@pytest.fixture
def function(folder: Path) -> Function:
    return write_function(folder, SOURCE, files=FILES)


def take(runtime: Runtime, function: Function, *, rebuild: bool = False) -> tuple[str, str, object]:
    """Identifier of the snapshot, why it was made (empty: it was there), and what a copy of it answers."""
    with runtime.snapshot(function, rebuild=rebuild) as snapshot, snapshot.restore() as copy:
        return snapshot.id, snapshot.reason, copy.invoke({}).result


def test_unchanged(runtime: Runtime, function: Function, folder: Path) -> None:
    first = take(runtime, function)
    assert first[1:] == ("there is none yet", [1, 2, "data", None])
    again = take(runtime, function)
    assert again == (first[0], "", first[2])
    same = resolve_function(folder / "handler.py")
    assert take(runtime, same)[0] == first[0]


def edit(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: write_files(folder, {name: content})


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "handler edited": (
        lambda folder: (folder / "handler.py").write_text((folder / "handler.py").read_text() + "\n# more\n"),
        "handler.py changed",
    ),
    "sibling edited": (edit("sibling.py", "VALUE = 3"), "sibling.py changed"),
    "module of a package edited": (edit("package/part.py", "VALUE = 3"), "part.py changed"),
    "data edited": (edit("data.txt", "atad"), "data.txt changed"),
    "data gone": (lambda folder: (folder / "data.txt").rename(folder / "moved.txt"), "data.txt"),
    "standard module shadowed": (edit("decimal.py", ""), "modules were added to or removed from"),
    "package shadows a module": (edit("sibling/__init__.py", "VALUE = 9"), "modules were added to or removed from"),
    "a folder becomes a package, and shadows": (
        edit("shadow/__init__.py", "VALUE = 9"),
        "modules were added to or removed from",
    ),
    "new module in a package": (edit("package/new.py", ""), "added to or removed from FOLDER/package"),
    "package shadows a package's module": (edit("package/part/__init__.py", "VALUE = 9"), "from FOLDER/package"),
    "new module in a folder of the handler's": (
        edit("vendored/new.py", ""),
        "added to or removed from FOLDER/vendored",
    ),
    "data beside a package's modules": (edit("package/new.txt", ""), ""),
    "a file that could not be opened appears": (edit("optional.txt", "?"), "optional.txt is there now"),
    "more in a folder that was listed": (edit("plugins/b", ""), "plugins, where something was added or removed"),
    "a file that was only asked for appears": (edit("maybe.txt", ""), ""),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_file_means_a_new_snapshot(runtime: Runtime, function: Function, folder: Path, what: str) -> None:
    change, reason = CHANGES[what]
    first = take(runtime, function)
    change(folder)
    if what == "data gone":
        write_files(folder, {"handler.py": "def handler(event, context): return 'without'"})
    if not reason:
        return  # Not promised: init could have asked for anything in the world.
    second = take(runtime, function)
    assert second[0] != first[0]
    assert reason.replace("FOLDER", str(folder)) in second[1]
    assert take(runtime, function)[0] == second[0]


def test_snapshots_of_no_use_go_when_another_is_made(runtime: Runtime, write: Write, criu_home: Path) -> None:
    """Those of handlers that are gone, or that nobody has used for long; but none that is in use."""
    source = "def handler(event, context): return 1"
    folders = {}
    for name in ("kept", "gone", "gone but in use", "not used for long", "used again"):
        function = write(source)
        with runtime.snapshot(function) as snapshot:
            folders[name] = function, snapshot.stored.folder
    for name in ("not used for long", "used again"):
        long_ago = time.time() - store.KEEP_UNUSED_S - 60
        os.utime(folders[name][1].parent / "of", (long_ago, long_ago))
    for name in ("gone", "gone but in use"):
        (Path(folders[name][0].task_root) / "handler.py").rename(Path(folders[name][0].task_root) / "moved.py")
    stored = store.Store(criu_home).open(folders["gone but in use"][1])
    with runtime.snapshot(folders["used again"][0]) as again:
        assert again.reason == ""
    take(runtime, write("def handler(event, context): return 2"))
    assert [name for name, (_, folder) in folders.items() if folder.exists()] == [
        "kept",
        "gone but in use",
        "used again",
    ]
    stored.close()
    take(runtime, write("def handler(event, context): return 3"))
    assert not folders["gone but in use"][1].exists()


def test_what_init_did_not_read_does_not_matter(runtime: Runtime, function: Function, folder: Path) -> None:
    first = take(runtime, function)
    write_files(folder, {"unread.txt": "changed", "new.txt": "new", "notes.md": "x"})
    (folder / "__pycache__").mkdir(exist_ok=True)
    (folder / ".git").mkdir()
    assert take(runtime, function)[0] == first[0]


def test_a_touch_or_a_fresh_checkout_keeps_it(runtime: Runtime, function: Function, folder: Path) -> None:
    first = take(runtime, function)
    for path in folder.rglob("*"):
        os.utime(path)
    assert take(runtime, function)[0] == first[0]
    moved = folder.with_name(folder.name + "-moved")
    folder.rename(moved)
    shutil.copytree(moved, folder)
    assert take(runtime, function)[0] == first[0]


def test_changed_while_its_times_stay_the_same(runtime: Runtime, function: Function, folder: Path) -> None:
    """Same size, same modification time, same inode: only the change time tells (rsync, `touch -r`)."""
    path = folder / "data.txt"
    first = take(runtime, function)
    status = path.stat()
    with path.open("r+") as file:
        file.write("DATA")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    second = take(runtime, function)
    assert second[2] == [1, 2, "DATA", None]
    assert second[0] != first[0]


def test_changed_options(runtime: Runtime, function: Function, tmp_path: Path) -> None:
    first = take(runtime, function)[0]
    with_x = dataclasses.replace(function, environment={"X": "1"})
    taken = take(runtime, with_x)
    assert taken[1] == "environment variable X was added"
    assert taken[2] == [1, 2, "data", "1"]
    secret = take(runtime, dataclasses.replace(function, environment={"X": "hunter2"}))
    assert secret[1] == "environment variable X changed", "names only: values may be secrets"
    seen = {first, taken[0], secret[0]}
    tmp_path.chmod(0o755)
    for changed, reason in (
        ({"memory_mb": 1024}, "memory"),
        ({"name": "another"}, "there is none yet"),  # Another function, whose snapshots are its own.
        ({"uid": 1234, "gid": 1234}, "user"),
        ({"read_only": (str(tmp_path),)}, "ro"),
        ({"version": "7"}, "there is none yet"),
    ):
        identity, why, _ = take(runtime, dataclasses.replace(function, **changed))
        assert reason in why
        assert identity not in seen
        seen.add(identity)


def test_the_time_limit_is_no_part_of_it(runtime: Runtime, function: Function) -> None:
    assert take(runtime, function)[0] == take(runtime, dataclasses.replace(function, timeout_s=60))[0]


def test_going_back_and_forth_finds_both(runtime: Runtime, function: Function) -> None:
    other = dataclasses.replace(function, environment={"X": "1"})
    ids = [take(runtime, one)[0] for one in (function, other, function, other)]
    assert ids[0] == ids[2]
    assert ids[1] == ids[3]


def test_of_many_snapshots_those_used_last_are_kept(runtime: Runtime, function: Function) -> None:
    """Not the newest: who tries options in between comes back to the usual ones."""
    usual = take(runtime, function)[0]
    for memory in (600, 700, 800, 900):
        take(runtime, dataclasses.replace(function, memory_mb=memory))
        assert take(runtime, function)[:2] == (usual, "")
    assert take(runtime, dataclasses.replace(function, memory_mb=600))[1] == "option --memory changed"


def test_the_reason_is_what_separates_the_nearest_snapshot(runtime: Runtime, function: Function, folder: Path) -> None:
    """Not the newest, which may have been made with other options than these."""
    take(runtime, function)
    other = dataclasses.replace(function, memory_mb=1024, environment={"X": "1"})
    take(runtime, other)
    write_files(folder, {"sibling.py": "VALUE = 3"})
    assert take(runtime, function)[1] == f"{folder}/sibling.py changed"
    assert take(runtime, other)[1] == f"{folder}/sibling.py changed"
    assert take(runtime, dataclasses.replace(other, memory_mb=2048))[1] == "option --memory changed"


def test_another_interpreter(runtime: Runtime, function: Function, code_root: Path) -> None:
    first = take(runtime, function)
    venv = Path(tempfile.mkdtemp(dir=code_root)) / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=60)
    other = dataclasses.replace(function, python=str(venv / "bin" / "python"))
    second = take(runtime, other)
    assert second[0] != first[0]
    assert "interpreter" in second[1]
    packages = next(venv.glob("lib/python*/site-packages"))
    write_files(packages, {"decimal.py": ""})
    third = take(runtime, other)
    assert third[0] != second[0]
    assert f"modules were added to or removed from {packages}" in third[1]


@pytest.mark.parametrize(
    ("attribute", "value", "reason"),
    [
        ("_worker_code", lambda: "other code", "the worker code of snapruntime changed"),
        ("_processor", lambda: "other processor", "the processor changed"),
    ],
)
def test_another_machine_or_version(
    runtime: Runtime,
    function: Function,
    monkeypatch: pytest.MonkeyPatch,
    attribute: str,
    value: Callable[[], str],
    reason: str,
) -> None:
    first = take(runtime, function)
    monkeypatch.setattr(freshness, attribute, value)
    second = take(runtime, function)
    assert reason in second[1]
    assert second[0] != first[0]


def test_another_criu_or_kernel(runtime: Runtime, function: Function, monkeypatch: pytest.MonkeyPatch) -> None:
    first = take(runtime, function)
    monkeypatch.setattr("platform.release", lambda: "7.0.0")
    second = take(runtime, function)
    assert f"kernel changed from {os.uname().release} to 7.0.0" in second[1]
    monkeypatch.setattr(runtime, "criu", dataclasses.replace(runtime.criu, version=(4, 99, 0)))
    third = take(runtime, function)
    assert "CRIU changed from" in third[1]
    assert "to 4.99.0" in third[1]
    assert len({first[0], second[0], third[0]}) == 3


def test_rebuild(runtime: Runtime, function: Function) -> None:
    first = take(runtime, function)
    second = take(runtime, function, rebuild=True)
    assert second[0] != first[0]
    assert second[1] == "as asked for"


def test_changed_while_init_ran(runtime: Runtime, folder: Path) -> None:
    """What init read may not be what is there when the snapshot is done; the next run must look again."""
    function = write_function(
        folder,
        """
        import time
        DATA = open(__file__.replace("handler.py", "data.txt")).read()
        print("read", flush=True)
        time.sleep(0.3)

        def handler(event, context):
            return DATA
        """,
        files={"data.txt": "old"},
    )

    def change(output: bytes) -> None:
        if b"read" in output:
            (folder / "data.txt").write_text("new")

    with runtime.snapshot(function, sink=change) as snapshot, snapshot.restore() as copy:
        assert copy.invoke({}).result == "old"
        first = snapshot.id
    second = take(runtime, function)
    assert second[0] != first
    assert second[2] == "new"
    assert "data.txt" in second[1]


def test_retention_and_leases(runtime: Runtime, function: Function, criu_home: Path) -> None:
    """Who uses a snapshot may go on, however many newer ones are made; what nobody uses goes."""
    held = runtime.snapshot(function)
    slot = held.stored.folder.parent
    made = [take(runtime, function, rebuild=True)[0] for _ in range(store.KEEP + 2)]
    there = {path.name for path in slot.iterdir() if path.is_dir()}
    assert held.id in there
    assert set(made[-store.KEEP :]) <= there
    assert not set(made[: -store.KEEP]) & there
    with held.restore() as copy:
        assert copy.invoke({}).result == [1, 2, "data", None]
    held.close()
    last = take(runtime, function, rebuild=True)[0]
    there = {path.name for path in slot.iterdir() if path.is_dir()}
    assert there == {*made[-store.KEEP + 1 :], last}


def test_threads_that_want_the_same_make_one(runtime: Runtime, function: Function) -> None:
    started = threading.Barrier(4)

    def one(_: int) -> tuple[str, str, object]:
        started.wait(10)
        return take(runtime, function)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(one, range(4)))
    assert len({result[0] for result in results}) == 1
    assert sorted(result[1] for result in results) == ["", "", "", "there is none yet"]


PROCESS = """
import json, sys
from pathlib import Path
from snapruntime import Runtime, resolve_function
with Runtime(Path(sys.argv[1])) as runtime, runtime.snapshot(resolve_function(sys.argv[2])) as snapshot:
    with snapshot.restore() as copy:
        print(json.dumps([snapshot.id, snapshot.reason, copy.invoke({}).result]))
"""


def test_processes_at_once_on_one_store(criu_home: Path, function: Function, folder: Path) -> None:
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(criu_home), str(folder / "handler.py")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for _ in range(3)
    ]
    results = []
    for process in running:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err.decode()
        results.append(json.loads(out))
    assert len({result[0] for result in results}) == 1
    assert sorted(result[1] for result in results) == ["", "", "there is none yet"]
    assert all(result[2] == [1, 2, "data", None] for result in results)


def test_functions_of_one_file_do_not_share_a_snapshot(runtime: Runtime, folder: Path) -> None:
    write_files(folder, {"handler.py": "def a(event, context): return 'a'\ndef b(event, context): return 'b'"})
    answers = [take(runtime, resolve_function(f"{folder}/handler.py:{name}")) for name in "ab"]
    assert [answer[2] for answer in answers] == ["a", "b"]
    assert answers[0][0] != answers[1][0]


def test_failed_inits_leave_the_old_snapshot(runtime: Runtime, function: Function, folder: Path, write: Write) -> None:
    first = take(runtime, function)
    good = (folder / "handler.py").read_text()
    (folder / "handler.py").write_text("raise ValueError('broken')")
    with pytest.raises(Exception, match="broken"):
        runtime.snapshot(function)
    (folder / "handler.py").write_text(good)
    assert take(runtime, function)[0] == first[0]
