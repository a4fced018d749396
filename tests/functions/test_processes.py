"""Several processes on one store, and what is left of it when they are killed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

from functions.conftest import HANDLER, configured, zipped
from snapruntime.mechanisms.functions.database import Database
from snapruntime.values.errors import HostError
from snapruntime.values.function import LATEST, ApplyOn, FunctionVersion
from snapruntime.values.service_errors import (
    InvalidZipFileException,
    ResourceConflictException,
    ResourceNotFoundException,
)
from snapruntime.workflows.collect import collect
from snapruntime.workflows.functions import Functions

ROOT = Path(__file__).resolve().parents[2]
COLD = configured(snap_start=ApplyOn.NONE)
OPENERS = 3


def code(number: int) -> bytes:
    return zipped({"handler.py": f"{HANDLER}# {number}\n", "package/data": f"{number}" * 1000})


def start(function: str, home: Path, *arguments: object) -> subprocess.Popen[str]:
    """Run a function of this module in a process of its own."""
    program = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from pathlib import Path\n"
        "from functions import test_processes\n"
        "getattr(test_processes, sys.argv[3])(Path(sys.argv[4]), *sys.argv[5:])\n"
    )
    command = [sys.executable, "-c", program, str(ROOT), str(ROOT / "tests"), function, str(home)]
    return subprocess.Popen([*command, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def finish(processes: list[subprocess.Popen[str]]) -> list[str]:
    try:
        said = [process.communicate(timeout=100)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes)
    return said


def check(functions: Functions) -> None:
    """What must be true of a store at any time."""
    with functions.database.reading() as tables:
        assert tables.connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert tables.connection.execute("PRAGMA foreign_key_check").fetchall() == []
        names = tables.names()
        versions = {name: tables.versions(name) for name in names}
        aliases = {name: tables.aliases(name) for name in names}
    for name in names:
        numbers = [version.version for version in versions[name]]
        assert numbers[0] == LATEST
        for alias in aliases[name]:
            assert set(alias.versions) <= set(numbers), "no alias of a version that is gone"
    for version in (version for found in versions.values() for version in found):
        functions.code.verify(version.code)


def usable(functions: Functions, version: FunctionVersion) -> bool:
    """Whether a version's code is there and whole. Raises ResourceNotFoundException where it has been deleted."""
    try:
        lease = functions.code.lease(version.code)
    except InvalidZipFileException:
        functions.version(version.name, version.version)
        return False
    functions.code.verify(version.code)
    os.close(lease)
    return True


def work(home: Path, seed: str) -> None:
    """Change everything at once with others; whatever is confirmed must be so."""
    dice = random.Random(seed)
    with Functions(home) as functions:
        for number in range(40):
            content = code(int(seed) * 1000 + number)
            name = f"f{dice.randrange(2)}"
            try:
                functions.create(name, COLD, content)
            except ResourceConflictException:
                try:
                    functions.update_code(name, content)
                except ResourceNotFoundException:
                    continue
            try:
                version = functions.publish(name)
                assert usable(functions, version)
                assert functions.version(name, version.version) == version
                functions.create_alias(name, f"a{seed}-{number}", version.version)
                assert functions.target(name, f"a{seed}-{number}").version == version
            except ResourceNotFoundException:
                pass  # Somebody has deleted the function.
            if dice.random() < 0.1:
                with contextlib.suppress(ResourceNotFoundException):
                    functions.delete(name)
            if dice.random() < 0.3:
                list(collect(functions))
        functions.create(f"own-{seed}", COLD, code(int(seed)))


def test_several_processes_change_one_store(shm: Path) -> None:
    finish([start("work", shm, seed) for seed in range(4)])
    with Functions(shm) as functions:
        check(functions)
        assert {f"own-{seed}" for seed in range(4)} <= {latest.name for latest in functions.all()}
        for latest in functions.all():
            functions.delete(latest.name)
        list(collect(functions))
    assert list((shm / "functions" / "code").iterdir()) == []
    assert list((shm / "functions" / "makers").iterdir()) == []


def open_at_once(home: Path, rounds: str, number: str) -> None:
    """Open databases that do not exist yet, each at the same moment as the others of the same round."""
    for round_ in range(int(rounds)):
        folder = home / str(round_)
        (folder / f"ready-{number}").touch()
        while len(list(folder.glob("ready-*"))) < OPENERS:
            pass
        try:
            Database(folder / "functions.db", folder).close()
        except HostError as error:
            print(error)


def test_a_new_database_is_opened_by_several_at_once(shm: Path) -> None:
    """SQLite itself tells one of them that the file is locked, in a few rounds of a hundred."""
    for round_ in range(150):
        (shm / str(round_)).mkdir(parents=True)
    said = finish([start("open_at_once", shm, 150, number) for number in range(OPENERS)])
    assert said == [""] * OPENERS


def publish_many(home: Path, seed: str) -> None:
    with Functions(home) as functions:
        for number in range(25):
            functions.update("shared", configured(description=f"{seed}-{number}"), ROOT / "examples" / "hello")
            print(functions.publish("shared").version)


def test_no_number_is_given_twice(shm: Path) -> None:
    """Each change is one transaction: a version is published once, and what two publish at once is told apart."""
    with Functions(shm) as functions:
        functions.create("shared", configured(), code(0))
    said = finish([start("publish_many", shm, seed) for seed in range(4)])
    with Functions(shm) as functions:
        versions = functions.versions("shared")[1:]
        check(functions)
    numbers = [int(version.version) for version in versions]
    assert numbers == list(range(1, len(numbers) + 1))
    descriptions = [version.configuration.description for version in versions]
    assert len(set(descriptions)) == len(descriptions), "no configuration was published twice in a row"
    assert {int(number) for text in said for number in text.split()} == set(numbers)


def add_and_forget(home: Path) -> None:
    """The same code comes and goes, and is asked for again while it is going."""
    with Functions(home) as functions:
        for number in range(150):
            content = code(number % 2)
            try:
                functions.create("f", COLD, content)
            except ResourceConflictException:
                functions.update_code("f", content)
            assert usable(functions, functions.version("f"))
            if number % 3 == 0:
                functions.delete("f")


def collect_all(home: Path) -> None:
    with Functions(home) as functions:
        removed = 0
        while not (home / "done").exists():
            removed += len(list(collect(functions)))
        print(removed)


def test_nothing_is_collected_that_is_being_stored(shm: Path) -> None:
    """Between the code's appearance and the database's word of it, only its lock says that it is needed."""
    Functions(shm).close()
    collectors = [start("collect_all", shm) for _ in range(2)]
    finish([start("add_and_forget", shm)])
    (shm / "done").touch()
    removed = sum(map(int, finish(collectors)))
    assert removed > 20, "or nothing was tried"


#: Changes a store again and again, and is killed at moments by chance. What was confirmed before is there afterwards.
KILLED = """
import json, os, random, select, signal, sys, time
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
from functions.test_processes import COLD, Functions, check, code, collect, live_once
shm, dice = Path(sys.argv[3]), random.Random(int(sys.argv[4]))
began = time.perf_counter()
live_once(shm, 0, -1)
longest = time.perf_counter() - began
counts = {"killed": 0, "unfinished": 0, "confirmed": 0}
for number in range(1, int(sys.argv[5]) + 1):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            live_once(shm, number, write)
        finally:
            os._exit(0)
    os.close(write)
    if number % 4 == 0:  # However slow the machine is, some are killed when they have confirmed something.
        select.select([read], [], [])
    select.select([], [], [], dice.random() * longest * 0.7)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    counts["killed"] += os.WIFSIGNALED(status)
    confirmed = os.read(read, 65536).decode().splitlines()
    os.close(read)
    with Functions(shm) as functions:
        check(functions)
        for line in confirmed:
            version, sha256 = line.split()
            assert functions.version("f", version).code.sha256 == sha256, line
        counts["confirmed"] += len(confirmed)
        if confirmed:
            assert functions.alias("f", "live").version in {line.split()[0] for line in confirmed} | {
                version.version for version in functions.versions("f")}
    counts["unfinished"] += bool(list((shm / "functions" / "code").glob(".new-*")))
with Functions(shm) as functions:
    list(collect(functions))
    check(functions)
    used = {version.code.folder for version in functions.versions("f")}
    assert {str(path) for path in (shm / "functions" / "code").iterdir()} == used
    assert len(list((shm / "functions" / "makers").iterdir())) == 0
print(json.dumps(counts))
"""


def live_once(home: Path, number: int, confirmations: int) -> None:
    """Some changes; each version is written to `confirmations` once it has been published and aliased."""
    with Functions(home) as functions:
        for turn in range(4):
            content = code(number * 10 + turn)
            try:
                functions.create("f", configured(), content)
            except ResourceConflictException:
                functions.update_code("f", content)
            version = functions.publish("f")
            try:
                functions.update_alias("f", "live", version=version.version)
            except ResourceNotFoundException:
                functions.create_alias("f", "live", version.version)
            if confirmations >= 0:
                os.write(confirmations, f"{version.version} {version.code.sha256}\n".encode())
        for version in functions.versions("f")[1:-8]:
            functions.delete("f", version.version)
        list(collect(functions))


def test_killed_at_hundreds_of_moments(shm: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(ROOT), str(ROOT / "tests"), str(shm), "5", "200"],
        stdout=subprocess.PIPE,
        text=True,
        timeout=110,
        check=True,
    )
    counts = json.loads(done.stdout)
    # How many come to their end before they are killed, depends on what else the machine does.
    assert counts["killed"] > 20
    assert counts["unfinished"] > 2, "or no code was being stored when they were killed"
    assert counts["confirmed"] > 20
