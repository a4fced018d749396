"""What is left out of the images: what CRIU no longer looks at must still be noticed, and mounts still be there."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from support import Write

from snapruntime import RestoreError, Runtime
from snapruntime.mechanisms.criu import CriuWorker, import_pycriu
from snapruntime.mechanisms.process import Process

MOUNTS = """
    import os
    def handler(event, context):
        with open("/proc/self/mountinfo") as file:
            return [line.split()[4:6] for line in file]
"""


def test_mounts_come_with_the_root(runtime: Runtime, write: Write) -> None:
    """A copy has the mounts, with their flags, that a fresh process has: folded or restored one by one."""
    function = write(MOUNTS)
    found = []
    with runtime.cold(function) as cold, cold.start() as instance:
        found.append(instance.invoke({}).result)
    for plain in (False, True):
        with runtime.snapshot(function, rebuild=True, plain_images=plain) as snapshot, snapshot.restore() as copy:
            assert bool(snapshot.stored.manifest["memory"].get("folded_mounts")) is not plain
            found.append(copy.invoke({}).result)
    fresh, folded, one_by_one = (sorted((point, "ro" in flags.split(",")) for point, flags in one) for one in found)
    assert fresh == folded == one_by_one
    assert ["/usr", True] in [[point, read_only] for point, read_only in folded]


def test_an_inotify_watch_keeps_the_mounts_known_to_criu(runtime: Runtime, write: Write) -> None:
    function = write("""
        import ctypes, os, tempfile
        c = ctypes.CDLL(None)
        f = c.inotify_init()
        c.inotify_add_watch(f, b"/tmp", 0x100)
        def handler(event, context):
            tempfile.mkstemp()
            return len(os.read(f, 4096)) > 16
    """)
    with runtime.snapshot(function) as snapshot, snapshot.restore() as copy:
        assert snapshot.mapped
        assert not snapshot.stored.manifest["memory"]["folded_mounts"]
        assert copy.invoke({}).result is True


def test_a_mapped_library_that_is_replaced(runtime: Runtime, write: Write) -> None:
    """CRIU compares sizes only, the build-IDs being left out; another file of the same size must be noticed as well."""
    name = f"resource{sysconfig.get_config_var('EXT_SUFFIX')}"
    source = Path(sysconfig.get_path("stdlib")) / "lib-dynload" / name
    function = write("import ours\ndef handler(event, context): return ours.getrusage(0).ru_maxrss > 0")
    library = Path(function.task_root) / "ours.py"
    library.write_text(
        "import importlib.util, os\n"
        f"path = os.path.join(os.path.dirname(__file__), {name!r})\n"
        "spec = importlib.util.spec_from_file_location('resource', path)\n"
        "module = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(module)\n"
        "getrusage = module.getrusage\n"
    )
    library.chmod(0o644)
    mapped = Path(function.task_root) / name
    shutil.copyfile(source, mapped)
    mapped.chmod(0o755)
    with runtime.snapshot(function) as snapshot:
        files = import_pycriu(runtime.criu).images.loads((snapshot.stored.folder / "images" / "files.img").read_bytes())
        assert not [entry for entry in files["entries"] if "build_id" in entry.get("reg", {})]
        with snapshot.restore() as copy:
            assert copy.invoke({}).result is True
        other = mapped.with_suffix(".new")
        other.write_bytes(mapped.read_bytes()[:-1] + b"!")
        other.chmod(0o755)
        os.rename(other, mapped)
        with pytest.raises(RestoreError, match="is not the file any more"):
            snapshot.restore()
        snapshot.keep_ready(1)
        snapshot.wait_ready()
        with pytest.raises(RestoreError, match="is not the file any more"):
            snapshot.restore()
    with runtime.snapshot(function) as snapshot, snapshot.restore() as copy:
        assert mapped.name in snapshot.reason
        assert copy.invoke({}).result is True


@pytest.mark.may_skip("CRIU before 3.18 sets none")
def test_no_hardware_breakpoint_is_set(runtime: Runtime, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    if runtime.criu.version < (3, 18, 0):
        pytest.skip("this CRIU has no such breakpoints (its commit dfe9d006a)")
    logs, restore = [], CriuWorker.restore

    def with_all_its_log(self: CriuWorker, **options: Any) -> Process:
        process = restore(self, **options | {"log_level": 4})
        logs.append(self.log())
        return process

    monkeypatch.setattr(CriuWorker, "restore", with_all_its_log)
    with runtime.snapshot(write("def lambda_handler(e, c): return 1")) as snapshot, snapshot.restore() as copy:
        assert copy.invoke({}).result == 1
    assert [log.count("Force no-breakpoints restore of") for log in logs] == [1]
