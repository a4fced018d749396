"""The driver of `make test-kernels` and `make test-arm64`, with the steps run here in place of on a machine."""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
from pathlib import Path

import pytest

from machines import boot, guest, project, report
from machines.boot import Result
from machines.catalogue import ARM64, FACTS, KERNELS, Machine, Step
from snapruntime.mechanisms.provision import debian
from snapruntime.mechanisms.provision.install import setup_criu


def follow(tmp_path: Path, *steps: Step) -> list[Result]:
    """What comes of `steps`, run by the machine's own program, and read from what that prints."""
    (tmp_path / "steps.json").write_text(json.dumps([step.document() for step in steps]))
    machine = dataclasses.replace(KERNELS[0], steps=steps)
    argv = [sys.executable, guest.__file__, str(tmp_path / "steps.json")]
    return boot.boot(machine, argv, tmp_path / "console", lambda what: None)


def shell(name: str, text: str, *, seconds: float = 20, says: str = "", passes: int = 0) -> Step:
    return Step(name, ("sh", "-c", text), seconds, says=says, passes=passes)


def test_each_step_is_judged(tmp_path: Path) -> None:
    good, bad, silent, hung, few, after = follow(
        tmp_path,
        shell("good", "echo one; printf 'two, unfinished'", says="one\ntwo"),
        shell("bad", "echo why; exit 3"),
        shell("silent", "echo nothing", says="something"),
        shell("hung", "sleep 1000 & wait", seconds=0.5),
        shell("few", "echo '5 passed in 1.00s'", passes=6),
        shell("after", "echo '===== 61 passed, 2 warnings in 3.21s (0:00:03) ====='", passes=60),
    )
    assert (good.trouble, good.lines) == ("", ("one", "two, unfinished"))
    assert bad.trouble == "status 3 in place of 0"
    assert silent.trouble == "does not say 'something'"
    assert hung.trouble == "did not end"
    assert few.trouble == "5 tests passed, at least 6 must"
    assert (after.trouble, after.passed) == ("", 61)


def test_a_machine_that_stops_has_done_none_of_what_was_left(tmp_path: Path) -> None:
    first, second, third = follow(
        tmp_path, shell("first", "true"), shell("second", "kill -9 $PPID"), shell("third", "true")
    )
    assert [result.trouble for result in (first, second, third)] == ["", "did not end", "did not end"]


def test_what_programs_draw_is_taken_out(tmp_path: Path) -> None:
    (result,) = follow(tmp_path, shell("colours", r"printf '\033[1;32mgreen\033[0m\r\n'"))
    assert result.lines == ("green",)


def test_the_table_is_made_of_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "FOLDER", tmp_path)
    monkeypatch.setattr(report, "TABLE", tmp_path / "machines.md")
    monkeypatch.setattr(report, "run", lambda *argv, folder=None: f"{argv[0]}\n")
    machine = KERNELS[0]
    lines = (" degraded  criu  CRIU 3.17.1: loses something", "             -> Run something.")
    results = [
        Result(FACTS, 0, 1.0, ("kernel: 6.1.0 x86_64", "cgroups: cgroup2 /sys/fs/cgroup")),
        Result(shell("setup", "true"), 0, 1.0, ("Ready: CRIU 3.17.1 (system, /usr/sbin/criu)",)),
        Result(shell("doctor", "true"), 0, 1.0, lines),
        Result(shell("tests", "true", passes=1), 0, 1.0, ("a traceback", "FAILED tests/a.py", "12 passed in 1.00s")),
    ]
    report.record(machine, report.log_text(machine, "test-kernels", results))
    log = (tmp_path / f"{machine.name}.log").read_text()
    assert "a traceback" not in log
    assert "FAILED tests/a.py" in log
    row = (tmp_path / "machines.md").read_text().splitlines()[-1]
    for cell in ("6.1.0 x86_64", "3.17.1 (system)", "degraded (criu: CRIU 3.17.1: loses something)", "12 passed"):
        assert f"| {cell} |" in row
    results[0] = Result(FACTS, None, 0.0, ())
    assert report.outcome(results) == "unfinished (facts)"
    results[0] = Result(FACTS, 1, 0.0, ())
    assert report.outcome(results) == "not (facts: status 1 in place of 0)"


def test_setup_installs_from_the_packages_that_machines_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are a mirror in a folder, as people have where there is no network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    mirror = project.mirror(debian.architecture(platform.machine()), lambda what: None)
    found = setup_criu(tmp_path / "home", mirror=f"file://{mirror}", progress=lambda _: None)
    assert (found.source, found.version >= (4, 2, 0)) == ("prefix", True)


@pytest.mark.parametrize("machine", [*KERNELS, *ARM64], ids=lambda machine: machine.name)
def test_tests_that_machines_run_are_there(machine: Machine) -> None:
    root = Path(__file__).parents[2]
    named = [word for step in machine.steps for word in step.argv if word.startswith("tests/")]
    assert named
    assert [word for word in named if not (root / word.partition("::")[0]).exists()] == []
