"""Code on its way in: what a zip file or a folder can do to us, it cannot."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import stat
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.conftest import zipped
from snapruntime.mechanisms.functions import unpack
from snapruntime.mechanisms.functions.unpack import copy_folder, unpack_zip
from snapruntime.values.errors import UsageError
from snapruntime.values.function import FOLDER_LIMIT, UNZIPPED_LIMIT
from snapruntime.values.service_errors import (
    InvalidParameterValueException,
    RequestEntityTooLargeException,
)

LINK = stat.S_IFLNK | 0o777


@pytest.fixture
def into(tmp_path: Path) -> Path:
    folder = tmp_path / "room" / "code"
    folder.mkdir(parents=True)
    return folder


def outside(into: Path) -> list[str]:
    """What there is beside the folder that was unpacked into."""
    return sorted(str(path) for path in into.parents[1].rglob("*") if not path.is_relative_to(into.parent))


def test_what_a_zip_file_has_is_there(into: Path) -> None:
    unpack_zip(zipped({"handler.py": "x = 1", "package/": "", "package/deep/data.bin": b"\0" * 3000}), into)
    assert (into / "handler.py").read_text() == "x = 1"
    assert (into / "package/deep/data.bin").read_bytes() == b"\0" * 3000


def test_modes_are_what_a_function_needs(into: Path) -> None:
    """Files that the zip file closes to others are open to the function's user; none is setuid or writable."""
    modes = {"secret.py": 0o100600, "tool": 0o104755, "own-tool": 0o100700, "open": 0o100666, "dir/": 0o40700}
    unpack_zip(zipped(dict.fromkeys(modes, ""), modes), into)
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in into.rglob("*")}
    assert found == {"secret.py": 0o644, "tool": 0o755, "own-tool": 0o755, "open": 0o644, "dir": 0o755}


def test_a_zip_file_of_another_system_has_no_modes(into: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        entry = zipfile.ZipInfo("handler.py")
        entry.create_system, entry.external_attr = 0, 0
        archive.writestr(entry, "x = 1")
    unpack_zip(content.getvalue(), into)
    assert stat.S_IMODE((into / "handler.py").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/evil",
        "a/../../evil",
        "a//b",
        "..",
        "\\\\evil",
        "a\\..\\..\\evil",
        "./../evil",
        ".//evil",
        "./..",
        "a/..",
    ],
)
def test_names_that_lead_elsewhere_are_refused(into: Path, name: str) -> None:
    with pytest.raises(InvalidParameterValueException, match="leads elsewhere"):
        unpack_zip(zipped({"handler.py": "", name: "evil"}), into)
    assert outside(into) == []


def test_names_that_begin_with_the_folder_itself(into: Path) -> None:
    """As `zip -r code.zip ./` and Java's tools write them; AWS takes them."""
    unpack_zip(zipped({"./": "", "./handler.py": "x = 1", "././package/./": "", "./package/./data.bin": b"1"}), into)
    assert sorted(str(path.relative_to(into)) for path in into.rglob("*")) == [
        *("handler.py", "package", "package/data.bin")
    ]
    assert (into / "handler.py").read_text() == "x = 1"


@pytest.mark.parametrize(
    ("names", "links"),
    [
        (["handler.py", "./handler.py"], {}),
        (["a/./b", "a/b"], {}),
        (["."], {}),
        (["."], {".": LINK}),
        (["./link", "link/file"], {"./link": LINK}),
    ],
)
def test_one_place_by_two_names_is_refused(into: Path, names: list[str], links: dict[str, int]) -> None:
    with pytest.raises(InvalidParameterValueException, match="safely"):
        unpack_zip(zipped(dict.fromkeys(names, "b"), links), into)
    assert outside(into) == []


@pytest.mark.parametrize("target", ["/etc/passwd", "../../evil", "a/../../../evil", "../../home", ""])
def test_links_that_lead_out_are_refused(into: Path, target: str) -> None:
    with pytest.raises(InvalidParameterValueException, match="outside"):
        unpack_zip(zipped({"package/link": target}, {"package/link": LINK}), into)


def test_links_that_stay_inside_are_kept(into: Path) -> None:
    files: dict[str, str | bytes] = {"lib/real.so": b"x", "lib/link.so": "real.so", "a/b/up": "../../lib/real.so"}
    unpack_zip(zipped(files, {"lib/link.so": LINK, "a/b/up": LINK}), into)
    assert os.readlink(into / "lib/link.so") == "real.so"
    assert (into / "a/b/up").read_bytes() == b"x"


def test_nothing_is_written_through_a_link(into: Path) -> None:
    """A link to a folder, then a file "in" it: the classic way out, wherever the link stands among the entries."""
    for number, names in enumerate((["real/", "link", "link/file"], ["real/", "link/file", "link"])):
        folder = into / str(number)
        folder.mkdir()
        content = {"real/": "", "link": "real", "link/file": "evil"}
        with pytest.raises(InvalidParameterValueException, match="safely"):
            unpack_zip(zipped({name: content[name] for name in names}, {"link": LINK}), folder)
        assert list((folder / "real").iterdir()) == []


def test_a_chain_of_links_cannot_climb(into: Path) -> None:
    """`up` leads to the top, which is inside; from there the kernel would take `up/..` out, where its words stay in."""
    files: dict[str, str | bytes] = {"p/q/r/up": "../../..", "p/q/r/out": "up/../evil"}
    with pytest.raises(InvalidParameterValueException, match=r"'up/\.\./evil', which is outside"):
        unpack_zip(zipped(files, {"p/q/r/up": LINK, "p/q/r/out": LINK}), into)


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK])
def test_devices_are_refused(into: Path, kind: int) -> None:
    with pytest.raises(InvalidParameterValueException, match="neither file, folder nor link"):
        unpack_zip(zipped({"thing": ""}, {"thing": kind | 0o666}), into)


def test_two_entries_of_one_name_are_refused(into: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("handler.py", "x = 1")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("handler.py", "x = 2")
    with pytest.raises(InvalidParameterValueException, match=r"handler\.py"):
        unpack_zip(content.getvalue(), into)


def test_names_longer_than_the_disk_takes(into: Path) -> None:
    with pytest.raises(InvalidParameterValueException, match="safely"):
        unpack_zip(zipped({"a" * 300: ""}), into)
    with pytest.raises(InvalidParameterValueException, match="deep"):
        unpack_zip(zipped({"a/" * 80 + "b": ""}), into)


def test_too_large_a_zip_file(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "ZIP_LIMIT", 100)
    with pytest.raises(RequestEntityTooLargeException) as raised:
        unpack_zip(zipped({"handler.py": os.urandom(200)}), into)
    assert raised.value.message == "Zipped size must be smaller than 100 bytes"


def test_too_large_when_unpacked(into: Path) -> None:
    """A bomb: 300 MB of zeros in 300 kB. It is not all written before it is noticed."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("bomb", "w") as file:
        for _ in range(300):
            file.write(bytes(1 << 20))
    with pytest.raises(InvalidParameterValueException) as raised:
        unpack_zip(content.getvalue(), into)
    assert raised.value.message == "Unzipped size must be smaller than 262144000 bytes"
    assert (into / "bomb").stat().st_size <= UNZIPPED_LIMIT


def test_sizes_are_counted_not_believed(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory says 1 byte; what comes is more."""
    monkeypatch.setattr(unpack, "UNZIPPED_LIMIT", 1000)
    content = bytearray(zipped({"bomb": b"x" * 100_000}))
    at = content.rindex(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", 1)
    with pytest.raises(InvalidParameterValueException):
        unpack_zip(bytes(content), into)
    assert sum(path.stat().st_size for path in into.rglob("*")) <= 1000


def test_too_many_entries(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "MAX_ENTRIES", 3)
    with pytest.raises(InvalidParameterValueException, match="5 entries"):
        unpack_zip(zipped({f"{number}": "" for number in range(5)}), into)


def test_folders_that_only_names_ask_for(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """100,000 names with 60 folders each would make six million of them."""
    monkeypatch.setattr(unpack, "MAX_ENTRIES", 30)
    with pytest.raises(InvalidParameterValueException, match="more than 30 files and folders"):
        unpack_zip(zipped({f"{number}/a/b/c/d/e/f/g/file": "" for number in range(20)}), into)
    assert len(list(into.rglob("*"))) <= 40


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressions_that_unpack_into_memory(into: Path, compression: int) -> None:
    """100 MB of zeros are 113 bytes by bzip2, and zipfile would unpack all of them at once."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        archive.writestr("bomb", bytes(100 << 20))
    assert len(content.getvalue()) < 20_000
    tracemalloc.start()
    try:
        with pytest.raises(InvalidParameterValueException, match="another way than by deflate"):
            unpack_zip(content.getvalue(), into)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


def test_an_encrypted_zip_file(into: Path) -> None:
    content = bytearray(zipped({"handler.py": "x = 1"}))
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + at] |= 1
    with pytest.raises(InvalidParameterValueException, match="Could not unzip"):
        unpack_zip(bytes(content), into)


@pytest.mark.parametrize("content", [b"", b"no zip file", b"PK\x05\x06" + bytes(17)])
def test_what_is_no_zip_file(into: Path, content: bytes) -> None:
    with pytest.raises(InvalidParameterValueException, match="Could not unzip uploaded file"):
        unpack_zip(content, into)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_damage_is_the_zip_files_fault(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Bytes changed anywhere: an error of the API's, or code; never another exception, never a file elsewhere."""
    content = bytearray(
        zipped(
            {"handler.py": "x = 1\n" * 50, "lib/link": "../handler.py", "lib/data": bytes(range(50))},
            {"lib/link": LINK},
        )
    )
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    into = tmp_path_factory.mktemp("damage") / "code"
    into.mkdir()
    with contextlib.suppress(InvalidParameterValueException):
        unpack_zip(bytes(content), into)
    assert list(into.parent.iterdir()) == [into]
    for path in into.rglob("*"):
        assert path.resolve().is_relative_to(into.resolve())


def test_a_folder_is_copied_without_what_is_no_code(tmp_path: Path, into: Path) -> None:
    folder = tmp_path / "project"
    for name in (
        "handler.py",
        "package/module.py",
        "__pycache__/handler.pyc",
        ".git/config",
        ".hidden",
        "venv/lib/x.py",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "venv/pyvenv.cfg").touch()
    (folder / "link").symlink_to("package/module.py")
    (folder / "handler.py").chmod(0o600)
    copy_folder(folder, into)
    found = sorted(str(path.relative_to(into)) for path in into.rglob("*") if not path.is_dir())
    assert found == [".hidden", "handler.py", "link", "package/module.py"]
    assert stat.S_IMODE((into / "handler.py").stat().st_mode) == 0o644
    assert os.readlink(into / "link") == "package/module.py"


@pytest.mark.parametrize("target", ["/etc/hosts", "../outside"])
def test_a_folder_with_a_link_that_leads_out(tmp_path: Path, into: Path, target: str) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "link").symlink_to(target)
    with pytest.raises(UsageError, match="outside of the function's folder") as raised:
        copy_folder(folder, into)
    assert "--ro" in raised.value.hint


def test_a_folder_with_what_is_no_file(tmp_path: Path, into: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket"))
        with pytest.raises(UsageError, match="neither file, folder nor link"):
            copy_folder(folder, into)


def test_a_folder_too_large(tmp_path: Path, into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    with open(folder / "sparse", "wb") as file:
        file.truncate(FOLDER_LIMIT + 1)
    with pytest.raises(UsageError, match="more than 10 GB"):
        copy_folder(folder, into)
    (folder / "sparse").unlink()
    monkeypatch.setattr(unpack, "MAX_ENTRIES", 3)
    for number in range(5):
        (folder / str(number)).touch()
    with pytest.raises(UsageError, match="more than 3 files"):
        copy_folder(folder, into)


def test_a_folder_that_is_not_there(tmp_path: Path, into: Path) -> None:
    with pytest.raises(UsageError, match="There is no folder"):
        copy_folder(tmp_path / "nowhere", into)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_takes_a_places_meanwhile(
    tmp_path: Path, into: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Who may write to the folder has nothing copied from elsewhere, and no mode changed there."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (outside / "secret").chmod(0o600)
    folder = tmp_path / "project"
    (folder / "package").mkdir(parents=True)
    (folder / "package" / "secret").write_text("public")
    place = folder / "package" if what == "folder" else folder / "package" / "secret"
    real_stat = os.stat

    def swap(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        """Right after somebody looked at it."""
        status = real_stat(path, *arguments, **options)
        if path == place.name and options.get("dir_fd") is not None and not place.is_symlink():
            place.rename(tmp_path / "away")
            place.symlink_to(outside if what == "folder" else outside / "secret")
        return status

    monkeypatch.setattr(os, "stat", swap)
    with contextlib.suppress(UsageError):
        copy_folder(folder, into)
    monkeypatch.undo()
    assert place.is_symlink()
    assert [path.read_text() for path in into.rglob("secret") if path.is_file()] in ([], ["public"])
    assert stat.S_IMODE((outside / "secret").stat().st_mode) == 0o600
