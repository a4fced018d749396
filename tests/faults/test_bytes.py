"""Each region of each file of a snapshot is changed, cut, replaced, removed: always seen before anything of it runs."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import Write

from snapruntime import DamagedSnapshotError, Runtime
from snapruntime.mechanisms import manifest as manifests
from snapruntime.mechanisms.store import Store

SOURCE = """
    import os
    os.makedirs("/tmp/deep/er")
    os.mkfifo("/tmp/pipe")
    os.symlink("/etc/hostname", "/tmp/link")
    open("/tmp/empty", "w").close()
    with open("/tmp/deep/er/file", "w") as file:
        file.write("x" * 10000)
    def handler(event, context): return open("/tmp/deep/er/file").read()[:1]
"""


@pytest.fixture(scope="module")
def whole(runtime: Runtime, write: Write, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path, Path]:
    """A store of its own with the snapshot of a function; and another function's, to take files from."""
    store = Store(tmp_path_factory.mktemp("bytes"))
    folders = []
    for source in (SOURCE, SOURCE.replace("10000", "9999")):
        with runtime.snapshot(write(source)) as snapshot:
            slot = store.home / "snapshots" / snapshot.stored.folder.parent.name
            slot.mkdir()
            copy_whole(snapshot.stored.folder, slot / snapshot.id)
            folders.append(slot / snapshot.id)
    return store, folders[0], folders[1]


def copy_whole(source: Path, target: Path) -> None:
    """With modes, owners, links and pipes, as a backup would."""
    assert os.spawnlp(os.P_WAIT, "cp", "cp", "-a", str(source), str(target)) == 0


def check(store: Store, folder: Path) -> None:
    """What the runtime does with a snapshot before it makes anything of it: this alone, and in this order."""
    stored = store.open(folder)
    try:
        stored.verify()
    finally:
        stored.close()


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def positions(size: int, dice: random.Random) -> Iterator[int]:
    """Both ends, the header's words (CRIU's magic numbers, lengths), the middle, page borders, and some by chance."""
    wanted = {
        0,
        1,
        4,
        8,
        12,
        size // 2,
        size - 1,
        size - 4096,
        4095,
        4096,
        *(int(dice.random() * size) for _ in range(3)),
    }
    return (at for at in sorted(wanted) if 0 <= at < size)


def test_it_is_whole(whole: tuple[Store, Path, Path]) -> None:
    store, folder, other = whole
    check(store, folder)
    check(store, other)
    assert {path.name for path in files_of(folder)} >= {"manifest.json", "core-1.img", "memory", "file"}


def test_each_byte_region_of_each_file(whole: tuple[Store, Path, Path]) -> None:
    store, folder, _ = whole
    dice, tried = random.Random(4), 0
    for path in files_of(folder):
        size = path.stat().st_size
        for at in positions(size, dice):
            with open(path, "r+b", buffering=0) as file:
                byte = os.pread(file.fileno(), 1, at)[0]
                os.pwrite(file.fileno(), bytes([byte ^ 1 << dice.randrange(8)]), at)
                with pytest.raises(DamagedSnapshotError):
                    check(store, folder)
                os.pwrite(file.fileno(), bytes([byte]), at)
            tried += 1
    check(store, folder)
    assert tried > 150


def test_each_file_cut_lengthened_emptied_and_swapped(whole: tuple[Store, Path, Path]) -> None:
    store, folder, other = whole
    for path in files_of(folder):
        content = path.read_bytes()
        name = path.relative_to(folder)
        variants = {content[: len(content) // 2], content[:-1], b"", content + b"\0", bytes(len(content))}
        if (other / name).exists():
            variants.add((other / name).read_bytes())  # A foreign file of the right name, itself whole.
        for variant in variants - {content}:
            path.write_bytes(variant)
            with pytest.raises(DamagedSnapshotError):
                check(store, folder)
        path.write_bytes(content)
    check(store, folder)


def _link(path: Path, aside: Path) -> None:
    path.symlink_to(aside)


def _folder(path: Path, _: Path) -> None:
    path.mkdir()


def _pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


def _nothing(_: Path, __: Path) -> None:
    return


@pytest.mark.parametrize("instead", [_link, _folder, _pipe, _nothing], ids=["link", "folder", "pipe", "nothing"])
def test_each_file_replaced_by_something_else(
    whole: tuple[Store, Path, Path], tmp_path: Path, instead: Callable[[Path, Path], None]
) -> None:
    """A link would even lead to the right content: still it is not what was published."""
    store, folder, _ = whole
    for path in files_of(folder):
        aside = tmp_path / "aside"
        shutil.move(path, aside)
        instead(path, aside)
        with pytest.raises(DamagedSnapshotError):
            check(store, folder)
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        shutil.move(aside, path)
    check(store, folder)


def _retarget(folder: Path) -> None:
    link = folder / "tmp/link"
    link.unlink()
    link.symlink_to("/etc/shadow")


#: What no content of a file tells of.
AROUND: dict[str, Callable[[Path], object]] = {
    "a further file": lambda folder: (folder / "images/more.img").write_bytes(b"x"),
    "a further file beside the manifest": lambda folder: (folder / "more").write_bytes(b"x"),
    "a further link": lambda folder: (folder / "images/more.img").symlink_to("core-1.img"),
    "a further folder": lambda folder: (folder / "tmp/more").mkdir(),
    "a further pipe": lambda folder: os.mkfifo(folder / "tmp/more"),
    "a further device": lambda folder: os.mknod(folder / "tmp/more", 0o20666, os.makedev(1, 3)),
    "a link that leads elsewhere": _retarget,
    "a missing link": lambda folder: (folder / "tmp/link").unlink(),
    "a missing pipe": lambda folder: (folder / "tmp/pipe").unlink(),
    "another owner": lambda folder: os.chown(folder / "tmp/deep/er/file", 1234, 1234),
    "a set-user-ID bit": lambda folder: (folder / "tmp/deep/er/file").chmod(0o4755),
    "another owner of the manifest": lambda folder: os.chown(folder / manifests.NAME, 1, 1),
    "a manifest that others may write": lambda folder: (folder / manifests.NAME).chmod(0o666),
    "a manifest with a set-user-ID bit": lambda folder: (folder / manifests.NAME).chmod(0o4755),
    "an open folder": lambda folder: (folder / "tmp/deep").chmod(0o777),
}


@pytest.mark.parametrize("what", AROUND)
def test_what_is_around_the_files(whole: tuple[Store, Path, Path], what: str) -> None:
    store, whole_folder, _ = whole
    folder = whole_folder.with_name("copied")
    try:
        copy_whole(whole_folder, folder)
        check(store, folder)
        AROUND[what](folder)
        with pytest.raises(DamagedSnapshotError):
            check(store, folder)
    finally:
        shutil.rmtree(folder)


def test_every_byte_of_the_manifest_head(whole: tuple[Store, Path, Path]) -> None:
    """Its format and digest: each bit of them."""
    store, folder, _ = whole
    path = folder / manifests.NAME
    content = path.read_bytes()
    for at in range(content.index(b"\n") + 1):
        for bit in range(8):
            path.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
            with pytest.raises(DamagedSnapshotError):
                store.open(folder)
    path.write_bytes(content)
    check(store, folder)


def test_want_of_descriptors_is_no_damage(whole: tuple[Store, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A good snapshot must not be thrown away because we lack something."""
    store, folder, _ = whole

    def none(*_: object) -> object:
        raise OSError(24, "Too many open files")

    stored = store.open(folder)
    with monkeypatch.context() as patch:
        patch.setattr(manifests, "_open", none)
        with pytest.raises(OSError, match="Too many"):
            stored.verify()
        with pytest.raises(OSError, match="Too many"):
            store.open(folder)
    stored.verify()
    stored.close()
