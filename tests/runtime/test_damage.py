"""A snapshot is code: one that is not byte for byte what was published is never restored."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import Write

from snapruntime import Function, HostError, RestoreError, Runtime

from .test_reuse import take


@pytest.fixture(scope="module")
def function(write: Write) -> Function:
    return write("open('/tmp/left', 'w').write('x')\ndef handler(event, context): return open('/tmp/left').read()")


@pytest.fixture
def folder(runtime: Runtime, function: Function) -> Path:
    """The folder of a good snapshot that nobody uses."""
    with runtime.snapshot(function) as snapshot:
        return snapshot.stored.folder


def flip(path: Path, at: int = -1) -> None:
    """Change one bit; the file's size and times stay."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def rewrite_manifest(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    """Change the manifest's content without its digest, as an editor would."""
    path = folder / "manifest.json"
    head, _, body = path.read_bytes().partition(b"\n")
    manifest = json.loads(body)
    change(manifest)
    path.write_bytes(head + b"\n" + json.dumps(manifest).encode())


def manifest_to_folder(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()


def snapshot_to_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("x")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit in memory": (lambda folder: flip(folder / "images/pages-1.img", 5000), "is not as it was written"),
    "a flipped bit in registers": (lambda folder: flip(folder / "images/core-1.img"), "is not as it was written"),
    "a flipped bit in /tmp": (lambda folder: flip(folder / "tmp/left"), "is not as it was written"),
    "truncated": (lambda folder: os.truncate(folder / "images/pages-1.img", 100), "is not as it was written"),
    "emptied": (lambda folder: os.truncate(folder / "images/mm-1.img", 0), "is not as it was written"),
    "a missing image": (lambda folder: (folder / "images/mm-1.img").unlink(), "mm-1.img is missing"),
    "all images missing": (lambda folder: shutil.rmtree(folder / "images"), "is missing"),
    "a missing file of /tmp": (lambda folder: (folder / "tmp/left").unlink(), "tmp/left is missing"),
    "a further file": (lambda folder: (folder / "images/more.img").write_text("x"), "does not belong to it"),
    "a further file in /tmp": (lambda folder: (folder / "tmp/more").write_text("x"), "does not belong to it"),
    "an image that is a link": (
        lambda folder: (folder / "images/mm-1.img").symlink_to((folder / "images/mm-1.img").rename(folder / "../mm")),
        "mm-1.img",
    ),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), ""),
    "empty manifest": (lambda folder: os.truncate(folder / "manifest.json", 0), ""),
    "half a manifest": (lambda folder: os.truncate(folder / "manifest.json", 400), ""),
    "nonsense for a manifest": (lambda folder: (folder / "manifest.json").write_bytes(b"\xff\x00nonsense"), ""),
    "a list for a manifest": (lambda folder: (folder / "manifest.json").write_bytes(b"[]\n[]"), ""),
    "a deep manifest": (lambda folder: (folder / "manifest.json").write_bytes(b"[" * 100_000), ""),
    "another format": (
        lambda folder: (folder / "manifest.json").write_bytes(b'{"format": 99, "sha256": ""}\n{"news": 1}'),
        "",
    ),
    "an edited manifest": (lambda folder: rewrite_manifest(folder, lambda manifest: manifest.pop("files")), ""),
    "a manifest that is a folder": (
        manifest_to_folder,
        "",
    ),
    "a snapshot that is a file": (
        snapshot_to_file,
        "",
    ),
    "a snapshot that is gone": (shutil.rmtree, ""),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_snapshot_is_made_anew(runtime: Runtime, function: Function, folder: Path, what: str) -> None:
    damage, reason = DAMAGES[what]
    # Others of this slot would be good still; only the newest is to be there.
    for other in folder.parent.iterdir():
        if other.is_dir() and other != folder:
            shutil.rmtree(other)
    damage(folder)
    identity, why, answer = take(runtime, function)
    assert identity != folder.name
    assert why, "why it was made anew is said"
    assert reason in why
    assert answer == "x"
    assert take(runtime, function)[0] == identity
    assert not folder.is_dir() or what in ("another format",), "what is damaged does not stay for ever"


def test_an_older_good_one_is_used_in_place_of_a_damaged_one(runtime: Runtime, function: Function) -> None:
    older = take(runtime, function)[0]
    with runtime.snapshot(function, rebuild=True) as newer:
        folder = newer.stored.folder
    flip(folder / "images/core-1.img")
    assert take(runtime, function)[0] == older


def test_damage_while_it_is_in_use_fails_the_restore(runtime: Runtime, function: Function) -> None:
    """The lease keeps it from being removed by us, not from being harmed by others: an error, then made anew."""
    snapshot = runtime.snapshot(function, rebuild=True)
    with snapshot.restore() as copy:
        assert copy.invoke({}).result == "x"
    (snapshot.stored.folder / "images" / "core-1.img").unlink()
    with pytest.raises(RestoreError) as caught:
        snapshot.restore()
    assert "CRIU" in caught.value.message
    with runtime.remake(function, snapshot) as again, again.restore() as copy:
        assert again.id != snapshot.id
        assert again.reason
        assert copy.invoke({}).result == "x"


def test_a_snapshot_removed_while_it_is_in_use(runtime: Runtime, function: Function) -> None:
    snapshot = runtime.snapshot(function, rebuild=True)
    shutil.rmtree(snapshot.stored.folder)
    with pytest.raises(RestoreError):
        snapshot.restore()
    with runtime.remake(function, snapshot) as again, again.restore() as copy:
        assert copy.invoke({}).result == "x"


def test_a_store_that_others_may_write_to_is_refused(criu_home: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(criu_home / "criu", home / "criu", symlinks=True)
    (home / "snapshots").mkdir()
    (home / "snapshots").chmod(0o777)
    with pytest.raises(HostError, match="writable by nobody else"):
        Runtime(home)
    (home / "snapshots").chmod(0o700)
    os.chown(home / "snapshots", 1234, 1234)
    with pytest.raises(HostError, match="must belong to the user"):
        Runtime(home)


def test_a_snapshot_is_closed_to_other_users(folder: Path) -> None:
    """The memory of a function may hold secrets; the function's own user must not read the images either."""
    assert folder.stat().st_mode & 0o077 == 0 or folder.parent.parent.stat().st_mode & 0o077 == 0
