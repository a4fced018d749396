"""`publish`, `ls`, `show`, `alias`, `rm`, `gc` and shell completion, through the real command line."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import write_files

from edges.conftest import LIMIT_S, Cli, Result, Several, command
from snapruntime.edges import exits
from snapruntime.workflows.collect import collect
from snapruntime.workflows.functions import Functions

PLAIN = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture(autouse=True)
def _no_functions(home: Path) -> Iterator[None]:
    yield
    with Functions(home) as functions:
        for latest in functions.all():
            functions.delete(latest.name)
        list(collect(functions))
        with functions.database.changing() as tables:  # So that each test's versions begin with 1.
            tables.connection.execute("DELETE FROM numbers")


def published(done: Result) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def document(done: Result) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_publish(cli: Cli) -> None:
    done = cli("publish", "echo.py", "--name", "f")
    assert published(done) == "f:1 is Active"
    assert re.search(r"Snapshot \S+ made in [\d.]+ s\.", done.stderr)
    again = cli("publish", "echo.py", "--name", "f")
    assert published(again) == "f:1 is Active"
    assert "Nothing has changed since f:1 was published." in again.stderr
    again = cli("publish", "echo.py", "--name", "f", "--reuse")
    assert "--reserve hold for all versions of f, from now on.\nNothing else has changed since f:1 was" in again.stderr


def test_what_is_not_said_stays_as_it_was(cli: Cli) -> None:
    cli("publish", "echo.py", "--name", "f", "--env", "A1=1", "--env", "B1=2", "--timeout", "9", "--memory", "256")
    changed = document(cli("publish", "echo.py", "--name", "f", "--env", "B1=3", "--memory", "128", "--json"))
    assert (changed["Version"], changed["Timeout"], changed["MemorySize"]) == ("2", 9, 128)
    assert changed["Environment"]["Variables"] == {"A1": "1", "B1": "3"}
    unset = document(cli("publish", "echo.py", "--name", "f", "--unset", "A1", "--json"))
    assert unset["Environment"]["Variables"] == {"B1": "3"}
    other = document(cli("publish", "echo.py:lambda_handler", "--name", "f", "--json", "--no-snapshot"))
    assert other["SnapStart"] == {"ApplyOn": "None", "OptimizationStatus": "Off"}
    assert other["State"] == "Active"
    assert document(cli("publish", "echo.py", "--name", "f", "--json", "--no-snapshot"))["Version"] == "5"


def test_settings_of_the_function_as_a_whole(cli: Cli) -> None:
    cli("publish", "echo.py", "--name", "f", "--no-snapshot")
    assert re.search(r"copies +fresh +\n", cli("show", "f").stdout)
    changed = cli("publish", "echo.py", "--name", "f", "--reuse", "--reserve", "3")
    assert published(changed) == "f:1 is Active", "they are not part of a version"
    assert re.search(r"copies +reuse, 3 invocations at once reserved", cli("show", "f:1").stdout)
    cli("publish", "echo.py", "--name", "f", "--reserve", "none")
    assert re.search(r"copies +reuse +\n", cli("show", "f").stdout)
    assert cli("publish", "echo.py", "--reserve", "-1").returncode == exits.USAGE


def test_what_is_reserved_leaves_some_for_the_others(cli: Cli) -> None:
    """A tenth of 1000, as by PutFunctionConcurrency; what is refused has published nothing."""
    published(cli("publish", "echo.py", "--name", "f", "--no-snapshot", "--reserve", "800"))
    for name in ("f", "g"):
        refused = cli("publish", "echo.py", "--name", name, "--reserve", {"f": "901", "g": "101"}[name])
        assert refused.returncode == exits.USAGE
        assert "UnreservedConcurrentExecution below its minimum value of [100]." in refused.stderr
        assert "snapruntime show" in refused.stderr
    assert cli("show", "g").returncode == exits.USAGE, "there is none"
    assert len(document(cli("show", "f", "--json"))["Versions"]) == 1
    published(cli("publish", "echo.py", "--name", "f", "--no-snapshot", "--reserve", "900"))
    published(cli("publish", "echo.py", "--name", "g", "--no-snapshot", "--reserve", "0"))
    assert cli("publish", "echo.py", "--name", "g", "--reserve", "9" * 5000).returncode == exits.USAGE


def test_json_is_the_apis(cli: Cli) -> None:
    """The keys are those of botocore's FunctionConfiguration, so that programs need one reader for both."""
    import botocore.session

    shape = botocore.session.get_session().get_service_model("lambda").shape_for("FunctionConfiguration")
    version = document(cli("publish", "echo.py", "--name", "f", "--description", "first", "--json"))
    assert set(version) <= set(shape.members)
    assert (version["FunctionName"], version["Version"], version["State"]) == ("f", "1", "Active")
    assert version["SnapStart"] == {"ApplyOn": "PublishedVersions", "OptimizationStatus": "On"}
    assert version["Description"] == "first"
    shown = document(cli("show", "f:1", "--json"))
    assert shown == version
    both = document(cli("show", "f", "--json"))
    assert both["Versions"] == [version]
    assert document(cli("ls", "--json")) == {"Functions": [both]}


def test_several_publish_the_same_function_at_once(all_at_once: Several, cli: Cli) -> None:
    """Each gets a version of its own, on top of the others': what one says, another does not undo."""
    names = ("A1", "B1", "C1")
    lines = [["publish", "echo.py", "--name", "f", "--env", f"{name}=1", "--no-snapshot", "--json"] for name in names]
    versions = [document(done) for done in all_at_once(lines)]
    assert sorted(version["Version"] for version in versions) == ["1", "2", "3"]
    for name, version in zip(names, versions, strict=True):
        variables = version["Environment"]["Variables"]
        assert name in variables
        assert len(variables) == int(version["Version"])


def test_a_function_that_fails_at_init(cli: Cli) -> None:
    done = cli("publish", "bad_init.py")
    assert done.returncode == exits.FUNCTION
    assert "loading" in done.stderr
    assert "The function's init failed: Runtime.ImportModuleError" in done.stderr
    shown = cli("show", "bad_init")
    assert re.search(r"^ 1 +Failed \(Runtime\.ImportModuleError: ", shown.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["publish", "nowhere.py"], "There is no file nowhere.py."),
        (["publish", "echo.py", "--timeout", "2.5"], "whole seconds"),
        (["publish", "echo.py", "--name", "a b"], "A name has letters, digits, - and _ only"),
        (["publish", "echo.py", "--env", "A=1"], "environment.variables"),
        (["show", "f"], "`snapruntime ls` lists the functions"),
        (["show", "f:1:2"], "A name has letters"),
        (["rm", "f"], "Function not found"),
        (["alias", "f", "live", "1"], "Function not found"),
        (["alias", "f", "live", "--delete", "--weight", "1=0.5"], "takes neither"),
        (["alias", "f", "live", "1", "--weight", "x"], "VERSION=SHARE"),
    ],
)
def test_mistakes_say_what_to_do(cli: Cli, arguments: list[str], said: str) -> None:
    done = cli(*arguments)
    assert done.returncode == exits.USAGE
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_aliases(cli: Cli) -> None:
    assert published(cli("publish", "echo.py", "--name", "f", "--alias", "live")) == "f:1 is Active"
    cli("publish", "echo.py", "--name", "f", "--memory", "256")
    assert published(cli("alias", "f", "live")) == "f:live is 1"
    assert published(cli("alias", "f", "live", "1", "--weight", "2=0.25")) == "f:live is 1 (75 %) + 2 (25 %)"
    assert "live → 1 (75 %) + 2 (25 %)" in cli("ls").stdout
    assert document(cli("alias", "f", "live", "--json"))["RoutingConfig"] == {"AdditionalVersionWeights": {"2": 0.25}}
    assert document(cli("alias", "f", "live", "--description", "x", "--json"))["Description"] == "x"
    in_use = cli("rm", "f:2")
    assert in_use.returncode == exits.USAGE
    assert "aliases reference it: [live]" in in_use.stderr
    assert "`snapruntime alias`" in in_use.stderr
    assert published(cli("alias", "f", "live", "2")) == "f:live is 2", "the sharing ends"
    assert published(cli("rm", "f:1")) == ""
    assert "is an alias of f, no version" in cli("rm", "f:live").stderr
    assert cli("rm", "f:1").returncode == exits.USAGE, "it is not there any more"
    assert published(cli("publish", "echo.py", "--name", "f", "--memory", "512", "--alias", "live")) == "f:3 is Active"
    assert published(cli("alias", "f", "live")) == "f:live is 3"
    assert published(cli("alias", "f", "live", "--delete")) == ""
    gone = cli("alias", "f", "live")
    assert (gone.returncode, "Cannot find alias" in gone.stderr) == (exits.USAGE, True)


def test_an_alias_does_not_name_what_failed(cli: Cli, functions: Path) -> None:
    folder = functions.parent / "changes"
    write_files(folder, {"handler.py": "def handler(event, context): return 1"})
    cli("publish", str(folder / "handler.py"), "--name", "f", "--alias", "live")
    write_files(folder, {"handler.py": "raise ValueError('broken')"})
    failed = cli("publish", str(folder / "handler.py"), "--name", "f", "--alias", "live")
    assert failed.returncode == exits.FUNCTION
    assert published(cli("alias", "f", "live")) == "f:live is 1"
    shutil.rmtree(folder)


def test_gc(cli: Cli, home: Path) -> None:
    version = document(cli("publish", "echo.py", "--name", "f", "--json"))
    cli("rm", "f")
    would = document(cli("gc", "--dry-run", "--json"))
    assert {one["kind"] for one in would["removed"]} == {"snapshot", "code"}
    assert would["bytes"] > 1_000_000
    assert version["Version"] == "1"
    table = cli("gc", "--dry-run").stdout
    assert "version 1 of f was deleted" in table
    assert "would be freed" in table
    freed = cli("gc")
    assert re.search(r"[\d.]+ [kM]B freed\.", freed.stdout)
    assert "There is nothing to remove." in cli("gc").stdout
    assert list((home / "functions" / "code").iterdir()) == []


def test_nothing_is_there_yet(cli: Cli, tmp_path: Path) -> None:
    assert "There are no functions." in cli("ls", home=tmp_path / "new").stdout
    assert document(cli("ls", "--json", home=tmp_path / "new")) == {"Functions": []}


def test_tables_are_for_reading_by_people_and_by_grep(cli: Cli) -> None:
    cli("publish", "echo.py", "--name", "a-function-with-a-rather-long-name-for-a-table", "--env", "SECRET=hidden")
    lines = cli("ls").stdout.splitlines()
    assert len(lines) == 2, "a line for each, where it is no terminal"
    assert re.match(
        r" a-function-with-a-rather-long-name-for-a-table +1 +Active +python3\.\d+ +512 MB +3 s +2", lines[1]
    )
    shown = cli("show", "a-function-with-a-rather-long-name-for-a-table").stdout
    assert "SECRET" in shown
    assert "hidden" not in shown, "values may be secrets"


# Shell completion.


def completions(home: Path, line: str, **environment: str) -> list[str]:
    """What click answers to a shell whose command line is `line`, with the cursor at its end."""
    words = line.split(" ")
    variables = {"_SNAPRUNTIME_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        command(home)[:3],
        env={**os.environ, "SNAPRUNTIME_HOME": str(home), **variables, **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    return [found.split(",")[1] for found in done.stdout.split()]


def test_completions(cli: Cli, home: Path, tmp_path: Path) -> None:
    cli("publish", "echo.py", "--name", "first", "--alias", "live", "--no-snapshot")
    cli("publish", "echo.py", "--name", "second", "--no-snapshot")
    assert completions(home, "snapruntime pu") == ["publish"]
    assert completions(home, "snapruntime show ") == ["first", "second"]
    assert completions(home, "snapruntime rm f") == ["first"]
    assert completions(home, "snapruntime show first:") == ["first:$LATEST", "first:1", "first:live"]
    assert completions(home, "snapruntime show first:l") == ["first:live"]
    assert completions(home, "snapruntime alias first:") == []
    assert completions(home, "snapruntime publish --na") == ["--name"]
    assert completions(home, f"snapruntime --home {tmp_path} show ") == []
    assert list(tmp_path.iterdir()) == [], "to ask makes no data folder"
    assert completions(home, f"snapruntime --home {home} show s", SNAPRUNTIME_HOME=str(tmp_path)) == ["second"]


def test_the_script_works_in_bash(cli: Cli, home: Path, tmp_path: Path) -> None:
    """A bash on a terminal: the tabulator key completes a version, of which the colon is no end of a word."""
    cli("publish", "echo.py", "--name", "first", "--alias", "live", "--no-snapshot")
    script = cli("completion", "bash")
    assert script.returncode == 0
    (tmp_path / "bashrc").write_text(script.stdout + "PS1='ready> '\n")
    ours, theirs = pty.openpty()
    environment = {
        **os.environ,
        "SNAPRUNTIME_HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TERM": "dumb",
    }
    process = subprocess.Popen(
        ["bash", "--noprofile", "--rcfile", str(tmp_path / "bashrc"), "-i"],
        env=environment,
        pass_fds=[theirs],
        preexec_fn=lambda: os.login_tty(theirs),
    )
    os.close(theirs)

    def until(text: str) -> None:
        seen, deadline = "", time.monotonic() + LIMIT_S
        while text not in PLAIN.sub("", seen):
            assert time.monotonic() < deadline, seen
            if select.select([ours], [], [], 1)[0]:
                seen += os.read(ours, 4096).decode()

    until("ready> ")
    os.write(ours, b"snapruntime show first:l\t")
    until("first:live")
    os.write(ours, b"\x15snapruntime alias fi\t")
    until("alias first")
    os.write(ours, b"\x15exit\n")
    process.wait(LIMIT_S)
    os.close(ours)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_scripts_for_other_shells(cli: Cli, shell: str) -> None:
    script = cli("completion", shell).stdout
    assert "_SNAPRUNTIME_COMPLETE" in script
    assert "snapruntime" in script
