"""The parts that need no process: the static pass, comparing outputs, suppressing comments."""

from __future__ import annotations

import contextlib
import gc
import os
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from snapruntime.values.findings import Finding, Place
from snapruntime.values.model import Invocation
from snapruntime.workflows.check import answers
from snapruntime.workflows.check.differ import duplicates
from snapruntime.workflows.check.observe import Run, files_below, flatten
from snapruntime.workflows.check.places import assignment, read, suppress
from snapruntime.workflows.check.rules import RULES
from snapruntime.workflows.check.static import check_file

INVOCATION = Invocation("r", None, True, 1, None, None, None, None, 0.0, None, b"1", None, "invoke", "")


def static(tmp_path: Path, source: str) -> list[tuple[str, int]]:
    (tmp_path / "handler.py").write_text(textwrap.dedent(source).lstrip("\n"))
    found = check_file(str(tmp_path / "handler.py"), str(tmp_path))
    return sorted((one.rule.id, one.place.line) for one in found if one.counts and one.place)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import uuid as u\nx = [u.uuid4() for _ in range(3)]", [("SR003", 2)]),
        ("from uuid import uuid4 as new\nx = {'id': f'{new()}'}", [("SR003", 2)]),
        ("import uuid\nif 1:\n    try:\n        x = uuid.uuid4()\n    except OSError:\n        x = 0", [("SR003", 4)]),
        ("import uuid\nif __name__ == '__main__':\n    x = uuid.uuid4()", []),
        ("import uuid\nprint(uuid.uuid4())", []),
        ("import uuid\nmake = lambda: uuid.uuid4()\ndef f():\n    return uuid.uuid4()", []),
        ("import uuid\ndef f():\n    a = uuid.uuid4()\n    return str(a)\nx = f()", [("SR003", 5)]),
        ("import uuid\ndef f():\n    global x\n    x = uuid.uuid4()\nf()", [("SR003", 4)]),
        ("import uuid\nids = []\nids.append(uuid.uuid4())", [("SR003", 3)]),
        ("import uuid\nx = uuid.uuid4()\ndel x", []),
        ("def uuid4():\n    return 3\nx = uuid4()", []),
        ("import time\nstart = time.time()\nwork()\ntook = time.time() - start\ndel start", []),
        ("import random\nr = random.Random(None)", [("SR001", 2)]),
        ("import random\nr = random.Random(a_seed())", []),
        ("import random\nrandom.seed(3)\nx = random.random()", [("SR016", 2)]),
        ("import socket\nwith socket.create_connection(('h', 1)) as s:\n    s.recv(1)", []),
        ("import socket\ns = socket.create_connection(('h', 1))\ns.close()", []),
        ("import psycopg2.pool\np = psycopg2.pool.SimpleConnectionPool(1, 2)", [("SR015", 2)]),
        ("import threading\nt = threading.Timer(3, print)\nt.start()", [("SR008", 3)]),
        ("from snapruntime import register_after_restore as after\nimport uuid\nx = uuid.uuid4()\n"
         "def renew():\n    fresh()\ndef fresh():\n    global x\n    x = uuid.uuid4()\nafter(renew)", []),
    ],
)  # fmt: skip
def test_the_static_pass(tmp_path: Path, source: str, expected: list[tuple[str, int]]) -> None:
    assert static(tmp_path, source) == expected


def test_sources_are_read_below_the_folder_only(tmp_path: Path) -> None:
    """The names come from the process that is looked at; a reader of whatever it names could wait or grow for ever."""
    root = tmp_path / "code"
    root.mkdir()
    (tmp_path / "secret.py").write_text("import uuid\nx = uuid.uuid4()\n")
    (root / "link.py").symlink_to(tmp_path / "secret.py")
    (root / "large.py").write_text("import uuid\nx = uuid.uuid4()\n" + "#" * (1 << 20))
    os.mkfifo(root / "pipe.py")
    os.symlink("/dev/zero", root / "zero.py")
    for path in (*root.iterdir(), tmp_path / "secret.py", "/dev/zero", "/a\0b", root / ".." / "secret.py"):
        assert read(str(path), str(root)) == ""
        assert assignment([str(path), "x", None, None], str(root)) is None
    place = Place(str(tmp_path / "secret.py"), 2)
    (tmp_path / "secret.py").write_text("import uuid\nx = uuid.uuid4()  # snapruntime: ignore[SR003] a reason\n")
    assert suppress([Finding(RULES["SR003"], "", place=place)], str(root))[0].suppressed is None


@pytest.mark.parametrize(
    "source",
    [
        "if y == 0: pass\n" + "".join(f"elif y == {n}: pass\n" for n in range(2000)),
        "x = A()" + ".m()" * 2000,
        "x = y" + " + y" * 3000,
        "x = " + "-" * 5000 + "1",
        "# coding: rot13\nx = 1",
        "# coding: nosuch\nx = 1",
        "# coding: ascii\nx = 'é'",
        "import random, threading\nt = threading.Thread(target=0x" + "f" * 9000 + ")\nt.start()",
    ],
)
def test_a_file_that_cannot_be_analysed_is_told(tmp_path: Path, source: str) -> None:
    assert static(tmp_path, source) == [("SR091", 1)]


def test_chains_of_calls_take_no_longer_than_they_are(tmp_path: Path) -> None:
    (tmp_path / "handler.py").write_text("import uuid\nx = uuid.uuid4().hex" + ".upper()" * 40)
    began = time.process_time()
    assert [one.rule.id for one in check_file(str(tmp_path / "handler.py"), str(tmp_path))] == ["SR003"]
    assert time.process_time() - began < 1


def test_the_static_pass_takes_milliseconds(tmp_path: Path) -> None:
    source = "import uuid\n" + "\n".join(f"def f{n}(x):\n    return [x, {n}, uuid.uuid4()]" for n in range(400))
    (tmp_path / "handler.py").write_text(source)
    gc.freeze()  # Else collections on the way walk all that this process's other tests have left.
    try:
        began = time.process_time()
        check_file(str(tmp_path / "handler.py"), str(tmp_path))
        assert time.process_time() - began < 0.2
    finally:
        gc.unfreeze()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import uuid\nx = uuid.uuid4()  # snapruntime: ignore[SR003] one per build", []),
        ("import uuid\n# snapruntime: ignore[SR003] one per build\n# and more words\nx = uuid.uuid4()", []),
        ("import uuid\nx = str(\n    uuid.uuid4()\n)  # snapruntime: ignore[SR003] one per build", []),
        ("import uuid\nx = uuid.uuid4()  # snapruntime: ignore[SR004] another", [("SR003", 2)]),
        ("import uuid\nx = uuid.uuid4()  # snapruntime: ignore[SR003]", [("SR003", 2), ("SR090", 2)]),
        ("import uuid\nx = uuid.uuid4()  # snapruntime: ignore all of it", [("SR003", 2), ("SR090", 2)]),
        ("import uuid\nx = uuid.uuid4()  # snapruntime: ignore[SR999] why", [("SR003", 2), ("SR090", 2)]),
        ("import uuid\nx = uuid.uuid4(), '# snapruntime: ignore[SR003] in a string'", [("SR003", 2)]),
    ],
)
def test_suppressions(tmp_path: Path, source: str, expected: list[tuple[str, int]]) -> None:
    assert static(tmp_path, source) == expected


ITEM: dict[str, Any] = {
    "path": "handler.x",
    "kind": "value",
    "type": "str",
    "source": ["/f.py", "x", None, None],
    "digest": "1",
}
MARKED: dict[str, Any] = {**ITEM, "heals": False, "pooled": False, "hook": "", "cached": False}
SCAN = {"items": [MARKED], "shared": {"random": "1"}, "files": ["/f.py"], "sqlite": False, "truncated": False, "ms": 1}
SEEN = {"requests": [{"target": "/", "headers": {"a": "b"}}], "dead": [{"error": "e", "place": ["/f.py", 1]}]}


@pytest.mark.parametrize(
    "scan",
    [
        *(None, 1, "x", [], [1], {}, {**SCAN, "items": {}}, {**SCAN, "items": ["x"]}, {**SCAN, "items": [ITEM]}),
        *({**SCAN, "files": [3]}, {**SCAN, "files": "abc"}, {**SCAN, "shared": [1]}, {**SCAN, "shared": {"a": []}}),
        *({**SCAN, "ms": "1"}, {**SCAN, "ms": True}, {**SCAN, "ms": float("nan")}, {**SCAN, "truncated": None}),
        *({**SCAN, "items": [{**MARKED, name: 7}]} for name in MARKED),
        *(
            {**SCAN, "items": [{**MARKED, **more}]}
            for more in ({"place": 1}, {"line": -1}, {"line": 1, "source": None})
        ),
        {**SCAN, "items": [{**MARKED, "kind": "file"}]},
    ],
)
def test_a_scan_of_another_form_is_none(scan: Any) -> None:
    assert answers.scan_of(SCAN) == SCAN
    assert answers.scan_of(scan) is None


@pytest.mark.parametrize(
    "seen",
    [
        *(None, [1], "x", {}, {**SEEN, "requests": {"a": 1}}, {**SEEN, "requests": [{"target": "x"}]}),
        *({**SEEN, "requests": [{"target": 1, "headers": {}}]}, {**SEEN, "dead": "abc"}, {**SEEN, "dead": [{"a": 1}]}),
        *(
            {**SEEN, "dead": [{"error": "e", "place": place}]}
            for place in ("x", [], [3, 1], ["/f.py", "1"], ["/f", -1])
        ),
    ],
)
def test_requests_of_another_form_are_none(seen: Any) -> None:
    assert answers.seen_of(SEEN) == SEEN
    assert answers.seen_of(seen) is None


def test_files_that_change_while_they_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name becomes a symlink, or what waits for a writer, once the folder has been listed."""
    outside, top = tmp_path / "outside", tmp_path / "top"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    for folder in ("a", "b", "c"):
        (top / folder).mkdir(parents=True)
    (top / "file").write_text("0" * (1 << 20))
    (top / "swapped").write_text("own")
    (top / "c" / "kept").write_text("kept")
    listed = os.scandir

    def swapping(folder: int) -> Any:
        entries = list(listed(folder))
        if "a" in {entry.name for entry in entries}:
            for name in ("a", "b"):
                (top / name).rmdir()
            (top / "swapped").unlink()
            (top / "a").symlink_to(outside)
            os.mkfifo(top / "b")
            (top / "swapped").symlink_to(outside / "secret")
        return contextlib.nullcontext(entries)

    monkeypatch.setattr(os, "scandir", swapping)
    fd = os.open(top, os.O_RDONLY)
    try:
        found = dict(files_below(fd))
    finally:
        os.close(fd)
    assert {name: len(content) for name, content in found.items()} == {"/tmp/file": 1 << 18, "/tmp/c/kept": 4}


def run(value: Any = None, log: str = "", **files: str) -> Run:
    texts = {"log": log.splitlines(), **{f"/tmp/{name}": text.splitlines() for name, text in files.items()}}
    return Run(None, INVOCATION, dict(flatten("response", value)), texts)


@pytest.mark.parametrize(
    ("copies", "colds", "expected"),
    [
        (["a-token", "a-token"], ["b-token", "c-token"], ["response"]),
        (["a-token", "b-token"], ["c-token", "d-token"], []),
        (["a-token", "a-token"], ["b-token", "b-token"], []),
        ([{"a": [{"b": 12345678}]}] * 2, [{"a": [{"b": 2}]}, {"a": [{"b": 3}]}], ["response.a[0].b"]),
        ([{"init_ms": 12.5}] * 2, [{"init_ms": 11.5}, {"init_ms": 13.1}], []),
        ([{"a": "x", "b": 1}] * 2, [{"a": "y"}, {"a": "z"}], ["response.a"]),
        ([{"a": None}] * 2, [{"a": 1}, {"a": 2}], []),
        ([True, True], [1, 2], ["response"]),
        ([0x7F2A3C4D5700] * 2, [0x7F01A9B8C6C0, 0x7FEE12345680], []),
        ([0x7F2A3C4D5701] * 2, [0x7F01A9B8C6C1, 0x7FEE12345681], ["response"]),
        (["139818274313984 begins"] * 2, ["140737341200960 begins", "139801234567168 begins"], []),
        ([10**400] * 2, [10**401, 10**402], ["response"]),
    ],
)
def test_values_are_compared(copies: list[Any], colds: list[Any], expected: list[str]) -> None:
    found = duplicates([run(value) for value in copies], [run(value) for value in colds])
    assert [one.path for one in found] == expected


def test_words_of_log_lines_are_compared() -> None:
    copies = [run(log=f"session 77aa99 begins\nrequest {n}\n") for n in ("one", "two")]
    colds = [run(log=f"loading\nsession {n} begins\nrequest {n}\n") for n in ("11bb22", "33cc44")]
    assert [(one.path, one.value) for one in duplicates(copies, colds)] == [("log", "77aa99")]


def test_lines_of_files_are_compared() -> None:
    copies = [run(id="first\n77aa99\n")] * 2
    colds = [run(id="first\n11bb22\n"), run(id="first\n33cc44\n")]
    assert [(one.path, one.value) for one in duplicates(copies, colds)] == [("/tmp/id", "77aa99")]


def test_what_is_noise_is_taken_out() -> None:
    values = dict(flatten("response", ["<Box at 0x7f12345678>", "id-1", 2], "id-1"))
    assert values == {"response[0]": "<Box at <address>>", "response[1]": "<request id>", "response[2]": 2}
