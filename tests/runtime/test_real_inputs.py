"""Functions as people write them: large libraries, clients and connections made at init, packages, odd paths."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support import Write, write_files, write_function

from snapruntime import Function, Runtime, SnapruntimeError, UsageError, resolve_function

from .conftest import Start

DATA_HANDLER = """
    import os
    DATA = open(os.path.join(os.path.dirname(__file__), "data.txt")).read()
    kept = open(__file__)
    open("/tmp/left", "w").write("x")

    def handler(event, context):
        open("/tmp/new", "w").write("y")
        return [DATA, os.getcwd(), __file__, kept.read(8), os.path.exists("/tmp/left")]
"""


def test_numpy_and_pandas(start: Start, write: Write) -> None:
    function = write(
        """
        import numpy as np
        import pandas as pd
        frame = pd.DataFrame({"key": list("aabb"), "value": np.arange(4.0)})
        matrix = np.arange(250_000.0).reshape(500, 500)

        def handler(event, context):
            return {
                "groups": frame.groupby("key").value.sum().to_dict(),
                "product": float((matrix @ matrix).trace()),  # Runs in OpenBLAS's threads, made at init.
                "csv": frame.to_csv(index=False).splitlines()[1],
                "time": str(pd.Timestamp("2026-01-01").day_name()),
            }
        """,
        timeout_s=30,
    )
    instance = start(function)
    answers = [instance.invoke({}) for _ in range(2)]
    for answer in answers:
        assert answer.error is None, answer.error
        assert answer.result["groups"] == {"a": 1.0, "b": 5.0}
        assert answer.result["time"] == "Thursday"
        assert answer.result["csv"] == "a,0.0"
        assert answer.result["product"] == answers[0].result["product"]


class Greeter:
    """A TCP server that answers each line with the number of the connection it came by."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._connections: list[socket.socket] = []
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                self._threads.append(threading.Thread(target=self._serve, args=(connection, len(self._connections))))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        with suppress(OSError), connection, connection.makefile("rwb") as lines:
            for _ in lines:
                lines.write(b"%d\n" % number)
                lines.flush()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()


@pytest.fixture
def greeter() -> Iterator[Greeter]:
    server = Greeter()
    yield server
    server.close()


def test_boto3_clients_threads_and_a_connection_made_at_init(runtime: Runtime, write: Write, greeter: Greeter) -> None:
    function = write(
        f"""
        import queue, socket, threading
        import boto3

        s3 = boto3.client("s3", aws_access_key_id="k", aws_secret_access_key="s", region_name="eu-west-1")
        table = boto3.resource("dynamodb", aws_access_key_id="k", aws_secret_access_key="s",
                               region_name="eu-west-1").Table("t")
        work, done = queue.Queue(), queue.Queue()
        for _ in range(4):
            threading.Thread(target=lambda: [done.put(job * 2) for job in iter(work.get, None)], daemon=True).start()

        def connect():
            connection = socket.create_connection(("127.0.0.1", {greeter.port}))
            return connection, connection.makefile("rwb")

        def ask(lines):
            lines.write(b"who\\n")
            lines.flush()
            return int(lines.readline())

        connection, lines = connect()
        first = ask(lines)

        def handler(event, context):
            global connection, lines
            try:
                ask(lines)
                state = "open"
            except (OSError, ValueError) as error:
                state = type(error).__name__
                connection, lines = connect()
            for job in range(8):
                work.put(job)
            return {{
                "state": state, "first": first, "now": ask(lines),
                "threads": sorted(done.get(timeout=5) for _ in range(8)),
                "url": s3.generate_presigned_url("get_object", Params={{"Bucket": "b", "Key": "k"}}).split("?")[0],
                "table": table.name,
            }}
        """,
        timeout_s=30,
    )
    with runtime.snapshot(function) as snapshot:
        seen = set()
        for _ in range(2):
            with snapshot.restore() as copy:
                answer = copy.invoke({})
                assert answer.error is None, answer.error
                assert answer.result["state"] in ("BrokenPipeError", "ConnectionResetError", "ValueError", "OSError")
                assert answer.result["first"] == 1
                assert answer.result["threads"] == list(range(0, 16, 2))
                assert "amazonaws.com" in answer.result["url"]
                seen.add(answer.result["now"])
                assert copy.invoke({}).result["state"] == "open", "the connection made again is kept"
        assert len(seen) == 2
        assert 1 not in seen, "the snapshot's own connection is no copy's"


def test_a_package_of_several_modules(start: Start, write: Write) -> None:
    function = write(
        """
        from . import constants
        from .inner.deep import compute
        import helpers

        def run(event, context):
            return [compute(constants.BASE), helpers.__name__, __name__, __package__]
        """,
        name="app/main.py",
        files={
            "app/__init__.py": "",
            "app/constants.py": "BASE = 20",
            "app/inner/__init__.py": "",
            "app/inner/deep.py": "def compute(base): return base + 1",
            "helpers/__init__.py": "",
        },
    )
    root = os.path.dirname(function.task_root)
    packaged = resolve_in(root, "app.main.run")
    assert start(packaged).invoke({}).result == [21, "helpers", "app.main", "app"]


def resolve_in(folder: str, handler: str) -> Function:
    """Resolve Lambda's module.function, which is looked for in the current folder."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        return resolve_function(handler)
    finally:
        os.chdir(before)


@pytest.mark.parametrize("handler", ["mod.work", "sub.mod.work", "sub/mod.work"])
def test_lambdas_own_way_to_name_a_handler(start: Start, code_root: Path, handler: str) -> None:
    folder = Path(tempfile.mkdtemp(dir=code_root))
    source = "def work(event, context): return __name__"
    write_files(folder, {"mod.py": source, "sub/mod.py": source})
    function = resolve_in(str(folder), handler)
    assert start(function).invoke({}).result == handler.rpartition(".")[0].replace("/", ".")


ODD_NAMES = [
    "with space",
    "co:lon",
    "com,ma",
    "ünïcödé-日本",
    "back\\slash",
    "quote'\"s",
    "br[ack]et",
    "eq=ual",
    "#hash %41 $HOME",
    "tab\tbed",
    "-dash",
    "*?;&|<>",
]


@pytest.mark.parametrize("where", ["/tmp", "/var/tmp"])
@pytest.mark.parametrize("name", [*ODD_NAMES, "/".join(ODD_NAMES)])
def test_odd_folder_names(runtime: Runtime, where: str, name: str) -> None:
    """They become part of mount options, of CRIU's keys and of /proc's tables, each with its own rules of quoting."""
    if where == "/var/tmp" and "/" not in name:
        return  # One path with all of them will do, where nothing is mounted late.
    with tempfile.TemporaryDirectory(dir=where) as folder:
        os.chmod(folder, 0o755)
        for parent in reversed(Path(folder, name).relative_to(folder).parents[:-1]):
            write_files(Path(folder, parent), {})
        function = write_function(Path(folder, name), DATA_HANDLER, files={"data.txt": "data"})
        expected = ["data", f"{folder}/{name}", f"{folder}/{name}/handler.py", "import o", True]
        with runtime.snapshot(function) as snapshot, snapshot.restore() as copy:
            assert copy.invoke({}).result == expected
        if "/" in name:
            with runtime.snapshot(function) as again:
                assert not again.reason, "it is found again"
            with runtime.cold(function) as cold, cold.start() as instance:
                assert instance.invoke({}).result[:4] == expected[:4]


@pytest.mark.parametrize("name", ["my-handler.py", "my handler.py", "händler.py", "class.py", "handler2.py"])
def test_odd_file_names(start: Start, write: Write, name: str) -> None:
    assert start(write("def handler(event, context): return __name__", name=name)).invoke({}).result == name[:-3]


@pytest.mark.parametrize("name", ["new\nline", "my.handler.py"])
def test_names_that_cannot_work_are_refused(runtime: Runtime, code_root: Path, name: str) -> None:
    folder = Path(tempfile.mkdtemp(dir=code_root), name if "\n" in name else "folder")
    file = "handler.py" if "\n" in name else name
    with pytest.raises(UsageError):
        runtime.snapshot(write_function(folder, "def handler(event, context): pass", name=file))


def test_symbolic_links(start: Start, code_root: Path) -> None:
    folder = Path(tempfile.mkdtemp(dir=code_root))
    folder.chmod(0o755)
    write_files(folder / "real", {"handler.py": DATA_HANDLER, "data.txt": "data"})
    (folder / "linked").symlink_to("real")
    (folder / "far.py").symlink_to("real/handler.py")
    for handler in (folder / "linked" / "handler.py", folder / "far.py"):
        function = resolve_function(handler)
        assert start(function).invoke({}).result[:3] == ["data", f"{folder}/real", f"{folder}/real/handler.py"]


def test_code_in_other_places(runtime: Runtime) -> None:
    for parent in ("/run", "/var", "/opt", "/srv", "/root"):
        folder = Path(tempfile.mkdtemp(dir=parent))
        try:
            function = write_function(folder, DATA_HANDLER, files={"data.txt": parent})
            with runtime.snapshot(function) as snapshot, snapshot.restore() as copy:
                assert copy.invoke({}).result[:2] == [parent, str(folder)]
        finally:
            shutil.rmtree(folder)


@pytest.mark.parametrize("parent", ["/", "/tmp", "/dev/shm"])
def test_code_where_it_cannot_be(runtime: Runtime, parent: str) -> None:
    name = f"snapruntime_test_{os.getpid()}"
    if parent == "/dev/shm":
        parent = f"/dev/shm/{name}"
        os.mkdir(parent)
    path = Path(parent, f"{name}.py")
    try:
        path.write_text("def handler(event, context): pass")
        path.chmod(0o644)
        with pytest.raises(UsageError, match="has its own"):
            runtime.snapshot(resolve_function(path))
    finally:
        path.unlink()
        if parent.startswith("/dev/shm/"):
            os.rmdir(parent)


def test_code_that_the_function_may_not_read(tmp_path: Path) -> None:
    """pytest's own folders are closed to others: so would a user's home be."""
    tmp_path.chmod(0o700)
    path = tmp_path / "handler.py"
    path.write_text("def handler(event, context): pass")
    with pytest.raises(UsageError, match=r"cannot be read by the unprivileged user 65534") as caught:
        resolve_function(path)
    assert "chmod" in caught.value.hint
    tmp_path.chmod(0o755)
    path.chmod(0o600)
    with pytest.raises(UsageError, match=r"handler\.py cannot be read"):
        resolve_function(path)
    path.chmod(0o644)
    resolve_function(path)
    path.chmod(0o600)
    resolve_function(path, user="root")


def test_another_user(start: Start, code_root: Path) -> None:
    folder = Path(tempfile.mkdtemp(dir=code_root))
    write_files(folder, {"handler.py": "import os\ndef handler(event, context): return [os.getuid(), os.getgid()]"})
    assert start(resolve_function(folder / "handler.py", user=12345)).invoke({}).result == [12345, 12345]
    assert start(resolve_function(folder / "handler.py", user="daemon")).invoke({}).result == [1, 1]
    assert start(resolve_function(folder / "handler.py", user="root")).invoke({}).result == [0, 0]
    with pytest.raises(UsageError, match="no user"):
        resolve_function(folder / "handler.py", user="nobody-by-that-name")


@pytest.mark.parametrize("user", [0, "0", -1, "-1", (1 << 32) - 1, str((1 << 32) - 1), 1 << 32])
def test_root_is_asked_for_by_name_only(code_root: Path, user: int | str) -> None:
    """The number 4294967295 is -1, by which setresuid leaves its caller who he is."""
    folder = Path(tempfile.mkdtemp(dir=code_root))
    write_files(folder, {"handler.py": "def handler(event, context): pass"})
    with pytest.raises(UsageError, match="root only by name"):
        resolve_function(folder / "handler.py", user=user)


def test_a_number_that_changes_nothing_gives_no_process(runtime: Runtime, code_root: Path) -> None:
    folder = Path(tempfile.mkdtemp(dir=code_root))
    write_files(folder, {"handler.py": "def handler(event, context): pass"})
    function = dataclasses.replace(resolve_function(folder / "handler.py"), uid=(1 << 32) - 1)
    with pytest.raises(SnapruntimeError), runtime.cold(function) as cold:
        cold.start()


def test_root_in_the_sandbox_is_powerless(start: Start, code_root: Path) -> None:
    folder = Path(tempfile.mkdtemp(dir=code_root))
    write_files(
        folder,
        {
            "handler.py": """
            import ctypes, os
            def handler(event, context):
                caps = [line for line in open("/proc/self/status") if line.startswith("Cap")]
                libc = ctypes.CDLL(None, use_errno=True)
                mounted = libc.mount(b"none", b"/tmp", b"tmpfs", 0, None)
                try:
                    open("/etc/written", "w")
                except OSError as error:
                    written = error.strerror
                return [sorted({line.split()[1] for line in caps}), mounted, written]
            """
        },
    )
    for user in ("root", 65534):
        seen = start(resolve_function(folder / "handler.py", user=user)).invoke({}).result
        assert seen[0] == ["0000000000000000"]
        assert seen[1] == -1
        assert seen[2] == "Read-only file system" if user == "root" else seen[2]


def test_the_host_is_not_shown(start: Start, write: Write, tmp_path: Path) -> None:
    function = write("""
        import os
        def handler(event, context):
            return {path: os.path.exists(path) and os.listdir(path) for path in event} | {
                "processes": [name for name in os.listdir("/proc") if name.isdigit()]}
    """)
    seen = start(function).invoke(["/root", "/home", "/var/lib", "/run", "/sys", "/boot", str(tmp_path)]).result
    assert seen["processes"] == ["1"]
    assert not seen["/home"]
    assert not seen["/var/lib"]
    assert not seen["/boot"]
    assert not seen[str(tmp_path)]
    assert "fs" not in (seen["/sys"] or [])


def test_further_paths(start: Start, code_root: Path, tmp_path: Path) -> None:
    shown, changed = tmp_path / "shown", tmp_path / "changed"
    for folder in (shown, changed):
        folder.mkdir()
        folder.chmod(0o777)
        (folder / "file").write_text("host")
        (folder / "file").chmod(0o666)
    function = write_function(
        Path(tempfile.mkdtemp(dir=code_root)),
        """
        def write(path):
            try:
                with open(path, "a") as file:
                    return file.write("+")
            except OSError as error:
                return error.strerror

        def handler(event, context):
            return [open(path + "/file").read() for path in event] + [write(path + "/file") for path in event]
        """,
        read_only=[str(shown)],
        writable=[str(changed)],
    )
    seen = start(function).invoke([str(shown), str(changed)]).result
    assert seen[:2] == ["host", "host"]
    assert seen[2:] == ["Read-only file system", 1]
    assert (changed / "file").read_text() == "host+"
    with pytest.raises(UsageError, match="does not exist"):
        start(
            write_function(
                Path(tempfile.mkdtemp(dir=code_root)),
                "def handler(event, context): pass",
                read_only=[str(tmp_path / "missing")],
            )
        )


@pytest.fixture(scope="module")
def other_environment(code_root: Path) -> Path:
    """A virtual environment with a package of its own, and nothing of ours."""
    folder = Path(tempfile.mkdtemp(dir=code_root)) / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=60)
    packages = next(folder.glob("lib/python*/site-packages"))
    write_files(packages / "only_here", {"__init__.py": "ANSWER = 42"})
    return folder


def test_another_virtual_environment(start: Start, write: Write, other_environment: Path) -> None:
    source = """
        import sys
        import only_here
        from snapruntime import register_after_restore
        from snapshot_restore_py import register_before_snapshot
        try:
            import pandas
        except ImportError:
            pandas = None

        def handler(event, context):
            return [only_here.ANSWER, sys.prefix, pandas is None]
    """
    for python in (other_environment, other_environment / "bin" / "python"):
        function = write(source, python=str(python))
        assert start(function).invoke({}).result == [42, str(other_environment), True]


@pytest.mark.parametrize("python", ["/bin/true", "/nowhere/python", "/etc/passwd", "/etc"])
def test_what_is_no_interpreter(runtime: Runtime, write: Write, python: str) -> None:
    with pytest.raises(UsageError):
        runtime.snapshot(write("def handler(event, context): pass", python=python))
