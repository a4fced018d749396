"""What `doctor` says of the data folder, its disk and /tmp is what `run` finds there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import Write

from snapruntime import Runtime
from snapruntime.mechanisms import linux
from snapruntime.mechanisms.host import probes
from snapruntime.mechanisms.host.container import Container
from snapruntime.mechanisms.host.storage import data_folder_probe, disk_space_probe, tmp_probe
from snapruntime.mechanisms.provision import candidates
from snapruntime.mechanisms.store import Store
from snapruntime.values.errors import HostError
from snapruntime.values.host import CRIU_PREFERRED

_NOWHERE = Container("")
_PODMAN = Container("podman")


@pytest.mark.parametrize("home", ["/dev/null", "/proc/1", "/dev/null/folder"])
def test_a_data_folder_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    """With the system's CRIU, whose pycriu lies among other packages and is shown alone by a link in there."""
    packages = tmp_path / "lib" / "python3" / "dist-packages"
    (packages / "pycriu").mkdir(parents=True)
    (packages / "pycriu" / "__init__.py").touch()
    (packages / "other").mkdir()
    found = (tmp_path / "bin" / "criu", ("/bin/false",), CRIU_PREFERRED)
    monkeypatch.setattr(candidates, "_on_the_system", lambda: found)
    answers = {probe.name: probe for probe in probes.probe_host(Path(home))}
    for name in ("criu", "data_folder"):
        assert (answers[name].status, answers[name].blocks) == ("missing", True)
        assert home in answers[name].detail
        assert "SNAPRUNTIME_HOME" in (answers[name].fix or "")
    with pytest.raises(HostError, match=f"The data folder {home} cannot be used") as caught:
        probes.require_host(Path(home))
    assert "SNAPRUNTIME_HOME" in caught.value.hint


def _is_a_file(snapshots: Path) -> None:
    snapshots.rmdir()
    snapshots.touch()


@pytest.mark.parametrize(
    "damage", [lambda path: path.chmod(0o777), lambda path: os.chown(path, 65534, 65534), _is_a_file]
)
def test_a_folder_of_snapshots_that_run_refuses(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    Store(tmp_path)
    assert not data_folder_probe(tmp_path, _NOWHERE).blocks
    damage(tmp_path / "snapshots")
    with pytest.raises(HostError) as refused:
        Store(tmp_path)
    answer = data_folder_probe(tmp_path, _NOWHERE)
    assert answer.blocks
    assert (answer.detail, answer.fix) == (refused.value.message.removesuffix("."), refused.value.hint)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A data folder on a disk of 20 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    linux.mount("tmpfs", str(disk), "tmpfs", 0, "size=20m,mode=755")
    yield disk
    linux.umount(str(disk), linux.MNT_DETACH)


def test_a_small_disk_will_do(small_disk: Path, criu_home: Path, write: Write) -> None:
    (small_disk / "criu").symlink_to(criu_home / "criu")
    function = write("def handler(event, context): return event")
    answer = disk_space_probe(small_disk)
    assert (answer.status, answer.blocks) == ("degraded", False)
    with Runtime(small_disk) as runtime, runtime.snapshot(function) as snapshot, snapshot.restore() as copy:
        assert copy.invoke(1).payload == b"1"


def test_a_full_disk_will_not(small_disk: Path) -> None:
    with (small_disk / "fill").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 15 << 20)
    answer = disk_space_probe(small_disk)
    assert answer.blocks
    assert answer.detail == "5 MB free"


@pytest.fixture
def read_only(small_disk: Path) -> Path:
    linux.mount("none", str(small_disk), None, linux.MS_REMOUNT | linux.MS_RDONLY)
    return small_disk


def test_a_read_only_root_needs_a_volume(read_only: Path) -> None:
    home = read_only / "home"
    answer = data_folder_probe(home, _PODMAN)
    assert (answer.blocks, answer.fix) == (
        True,
        f"Start the container with -v VOLUME:{home}, or name another with SNAPRUNTIME_HOME.",
    )
    assert "Read-only file system" in answer.detail
    assert f"volume at {home} " in (data_folder_probe(home, Container("kubernetes")).fix or "")
    assert "SNAPRUNTIME_HOME" in (data_folder_probe(home, _NOWHERE).fix or "")


def test_tmp_is_needed(read_only: Path) -> None:
    assert tmp_probe(_PODMAN, check_passed=False).status == "ok"
    answer = tmp_probe(_PODMAN, check_passed=False, tmp=read_only)
    assert (answer.blocks, answer.fix) == (True, f"Start the container with --tmpfs {read_only}.")
    assert tmp_probe(_PODMAN, check_passed=True, tmp=read_only).status == "degraded"
    assert f"emptyDir at {read_only} " in (
        tmp_probe(Container("kubernetes"), check_passed=False, tmp=read_only).fix or ""
    )
    assert "chmod 1777" in (tmp_probe(_NOWHERE, check_passed=False, tmp=read_only / "none").fix or "")
