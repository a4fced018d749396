"""A host that lacks what it takes: root, CRIU, room on the disk. Always clear, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import Write, write_function

from snapruntime import HostError, Runtime, SnapruntimeError, SnapshotError, resolve_function
from snapruntime.mechanisms import linux
from snapruntime.mechanisms.provision.install import find_criu

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("megabytes", [1, 20, 39])
def test_the_disk_is_full(criu_home: Path, tmp_path: Path, write: Write, megabytes: int) -> None:
    function = write("""
        import os
        memory = os.urandom(40 << 20)
        def handler(event, context): return len(memory)
    """)
    home = tmp_path / "home"
    home.mkdir()
    used = sum(path.lstat().st_blocks * 512 for path in criu_home.glob("criu/**/*")) >> 20
    linux.mount("tmpfs", str(home), "tmpfs", data=f"size={used + megabytes}m,mode=0755")
    try:
        shutil.copytree(criu_home / "criu", home / "criu", symlinks=True)
        with Runtime(home) as runtime:
            with pytest.raises(SnapshotError, match="No space left on device") as caught:
                runtime.snapshot(function)
            assert caught.value.code == "Snapruntime.DiskFull"
            assert "Free disk space" in caught.value.hint
            assert not list(home.glob("snapshots/*/.new-*"))
            assert not list(home.glob("snapshots/*/2*"))
            with runtime.cold(function) as cold, cold.start() as instance:
                assert instance.invoke({}).result == 40 << 20
            if megabytes > 10:
                with runtime.snapshot(write("def handler(event, context): return 1")) as small, small.restore() as copy:
                    assert copy.invoke({}).result == 1
    finally:
        linux.umount(str(home))


def test_the_disk_fills_up_by_tmp_at_init(criu_home: Path, tmp_path: Path, write: Write) -> None:
    function = write("""
        with open("/tmp/big", "wb") as file:
            for _ in range(200):
                file.write(bytes(1 << 20))
        def handler(event, context): return 1
    """)
    home = tmp_path / "home"
    home.mkdir()
    linux.mount("tmpfs", str(home), "tmpfs", data="size=80m,mode=0755")
    try:
        shutil.copytree(criu_home / "criu", home / "criu", symlinks=True)
        with Runtime(home) as runtime:
            with pytest.raises(SnapruntimeError, match=r"No space left on device|left on the disk"):
                runtime.snapshot(function)
            assert not list(home.glob("snapshots/*/.new-*"))
    finally:
        linux.umount(str(home))


def test_a_read_only_home(criu_home: Path, tmp_path: Path, write: Write) -> None:
    home = tmp_path / "home"
    home.mkdir()
    linux.mount("tmpfs", str(home), "tmpfs", data="mode=0755")
    try:
        shutil.copytree(criu_home / "criu", home / "criu", symlinks=True)
        linux.mount("none", str(home), flags=linux.MS_REMOUNT | linux.MS_RDONLY)
        with pytest.raises(HostError, match="Read-only file system"):
            Runtime(home)
        linux.mount("none", str(home), flags=linux.MS_REMOUNT)
        with Runtime(home) as runtime:
            linux.mount("none", str(home), flags=linux.MS_REMOUNT | linux.MS_RDONLY)
            with pytest.raises((SnapshotError, HostError), match="Read-only file system"):
                runtime.snapshot(write("def handler(event, context): return 1"))
    finally:
        linux.umount(str(home))


def run_python(code: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, env=environment, **options
    )


ATTEMPT = """
import json, sys
from pathlib import Path
from snapruntime import Runtime, SnapruntimeError, resolve_function
try:
    with Runtime(Path(sys.argv[1])) as runtime, runtime.snapshot(resolve_function(sys.argv[2])) as snapshot:
        with snapshot.restore() as copy:
            print(json.dumps([copy.invoke({}).result, "", ""]))
except SnapruntimeError as error:
    print(json.dumps([type(error).__name__, error.message, error.hint]))
"""


def test_not_root(criu_home: Path, write: Write, tmp_path: Path) -> None:
    function = write("def handler(event, context): return 1")
    home = tmp_path / "home"
    shutil.copytree(criu_home / "criu", home / "criu", symlinks=True)
    subprocess.run(["chown", "-R", "65534:65534", tmp_path], check=True)
    # It becomes another user after its imports: our interpreter may lie where only root can read.
    imports, _, rest = ATTEMPT.partition("try:")
    load = "import os, snapruntime.workflows.runtime, snapruntime.workflows.resolve, snapruntime.edges.cli"
    become = "os.setgroups([]); os.setgid(65534); os.setuid(65534)"
    done = run_python(
        f"{load}\n{imports}\nRuntime\n{become}\ntry:{rest}", str(home), f"{function.task_root}/handler.py"
    )
    assert done.returncode == 0, done.stderr
    kind, message, hint = json.loads(done.stdout)
    assert kind == "HostError"
    assert "root" in message + hint


def test_criu_is_missing(tmp_path: Path, write: Write) -> None:
    function = write("def handler(event, context): return 1")
    nowhere = "from snapruntime.mechanisms.provision import candidates; candidates._SYSTEM_PATH = '/nonexistent'"
    done = run_python(
        nowhere + ATTEMPT, str(tmp_path / "empty"), f"{function.task_root}/handler.py", env={"PATH": "/nonexistent"}
    )
    assert done.returncode == 0, done.stderr
    kind, message, hint = json.loads(done.stdout)
    assert kind == "HostError"
    assert "CRIU" in message
    assert f"snapruntime --home {tmp_path}/empty setup" in hint


@pytest.mark.may_skip("the system's own CRIU is not in the data folder")
def test_criu_has_gone_since(criu_home: Path, tmp_path: Path, write: Write) -> None:
    if find_criu(criu_home).source == "system":
        pytest.skip("this is the system's own CRIU")
    home = tmp_path / "home"
    shutil.copytree(criu_home / "criu", home / "criu", symlinks=True)
    function = write("def handler(event, context): return 1")
    with Runtime(home) as runtime:
        shutil.rmtree(home / "criu")
        with pytest.raises(SnapruntimeError):
            runtime.snapshot(function)


def test_resolving_needs_no_host(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    function = write_function(tmp_path / "code", "def handler(event, context): pass")
    assert resolve_function(tmp_path / "code" / "handler.py") == function
