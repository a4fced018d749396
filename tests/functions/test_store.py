"""The folders of code and the database, by themselves."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from functions.conftest import HANDLER, zipped
from snapruntime.mechanisms import folders
from snapruntime.mechanisms.functions import code, database
from snapruntime.values.function import FunctionSettings
from snapruntime.values.service_errors import ServiceException
from snapruntime.workflows.collect import collect
from snapruntime.workflows.functions import Functions


def test_the_same_code_is_there_once(functions: Functions, tmp_path: Path) -> None:
    """Whether it came by a zip file, with times and modes of its own, or as a folder."""
    first = functions.version("f").code
    with functions.code.adding(zipped({"handler.py": HANDLER}, {"handler.py": 0o100600})) as again:
        assert again.folder == first.folder
        assert again.sha256 != first.sha256, "of the zip file, which another is"
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "handler.py").write_text(HANDLER)
    with functions.code.adding(tmp_path / "project") as copied:
        assert copied.folder == first.folder
        assert copied.size == len(HANDLER)
    for other in ({"handler.py": HANDLER, "empty/": ""}, {"Handler.py": HANDLER}):
        with functions.code.adding(zipped({**other})) as different:
            assert different.folder != first.folder
    with functions.code.adding(zipped({"handler.py": HANDLER}, {"handler.py": 0o100755})) as executable:
        assert executable.folder != first.folder


def test_whether_code_is_used_is_asked_under_its_lock(functions: Functions) -> None:
    """Before, somebody might take it between the answer and the lock."""
    asked = []

    def is_used(folder: str) -> bool:
        fd = os.open(folder, os.O_RDONLY)
        asked.append(folders.try_lock(fd, fcntl.LOCK_SH))
        os.close(fd)
        return True

    assert list(functions.code.unused(is_used, dry_run=False)) == []
    assert asked == [False]


def test_code_goes_again_while_it_is_still_going(functions: Functions) -> None:
    """The name that it was given when it last went is still there: whoever removes it has not come to the end."""
    folder = Path(functions.version("f").code.folder)
    going = folder.with_name(f"{folders.STAGING}{folder.name}")
    (going / "something").mkdir(parents=True)
    lock = os.open(going, os.O_RDONLY)
    assert folders.try_lock(lock, fcntl.LOCK_EX)
    functions.delete("f")
    assert [one.path for one in collect(functions)] == [str(folder)]
    assert not folder.exists()
    os.close(lock)
    assert [one.kind for one in collect(functions)] == ["unfinished"]


def test_a_change_that_fails_changes_nothing(functions: Functions) -> None:
    def fail() -> None:
        with functions.database.changing() as tables:
            tables.put_function("g", FunctionSettings())
            tables.delete_function("f")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with functions.database.reading() as tables:
        assert tables.names() == ["f"]


def test_what_is_read_in_one_block_is_of_one_moment(functions: Functions) -> None:
    with functions.database.reading() as before:
        assert before.names() == ["f"]
        functions.delete("f")
        assert before.names() == ["f"]
        assert before.version("f", "$LATEST") is not None
    with functions.database.reading() as after:
        assert after.names() == []


def test_one_who_changes_something_and_hangs(functions: Functions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads goes on; who wants to change something too, is told in the end."""
    monkeypatch.setattr(database, "_PATIENCE_S", 0.2)
    with Functions(functions.home) as other, functions.database.changing() as tables:
        tables.delete_function("f")
        assert other.version("f").name == "f"
        with pytest.raises(ServiceException, match="locked"):
            other.publish("f")
    assert functions.all() == []


def test_one_who_stores_code_and_hangs(functions: Functions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "_PATIENCE_S", 0.2)
    content = zipped({"handler.py": "x = 1"})
    message = "Another process has been storing"
    with (
        functions.code.adding(content),
        Functions(functions.home) as other,
        pytest.raises(ServiceException, match=message),
    ):
        other.update_code("f", content)
    functions.update_code("f", content)


def test_makers(functions: Functions) -> None:
    makers = functions.makers
    me = makers.me()
    assert makers.me() == me
    with Functions(functions.home) as other:
        assert other.makers.is_alive(me)
        assert other.makers.me() != me
        makers.clear()
        assert makers.is_alive(other.makers.me())
        name = other.makers.me()
    assert not makers.is_alive(name)
    assert not makers.is_alive("")
    assert not makers.is_alive("nobody")


def test_a_makers_lock_is_seen_before_it_is_locked(functions: Functions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who clears up takes it for a dead one's: another is made."""
    real_open = os.open
    seen: list[str] = []

    def late(path: object, *arguments: int, **options: int) -> int:
        fd = real_open(path, *arguments, **options)  # type: ignore[arg-type]
        if isinstance(path, Path) and path.parent.name == "makers" and not seen:
            seen.append(path.name)
            path.unlink()
        return fd

    monkeypatch.setattr(os, "open", late)
    me = functions.makers.me()
    assert me != seen[0]
    assert functions.makers.is_alive(me)
