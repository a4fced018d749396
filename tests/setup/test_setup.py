"""`setup`: really installing, once and again, killed, twice at once, and everything it has to refuse."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support import wait_until

from snapruntime.mechanisms.provision import candidates as criu_candidates
from snapruntime.mechanisms.provision import install as criu_install
from snapruntime.mechanisms.provision import prefix as criu_prefix
from snapruntime.mechanisms.provision.install import find_criu, run_criu_check, setup_criu
from snapruntime.values.errors import HostError, UsageError
from snapruntime.values.host import CheckResult, Criu, SetupProgress

from .conftest import Run, argv, names_in


def test_installs_from_nothing(installed: Criu, installed_home: Path) -> None:
    assert installed.source == "prefix"
    assert installed.version >= (4, 1, 0)
    checked = run_criu_check(installed)  # Probing sockets may fail beside much else that is done, without harm.
    assert (checked.passed, checked.output.rpartition("; ")[2]) == (True, "Looks good.")
    assert installed.pycriu is not None
    assert names_in(installed.pycriu) == {"pycriu"}, "nothing else may become importable, least of all google.protobuf"
    assert not [name for name in names_in(installed_home / "criu") if name.startswith(".")]
    assert find_criu(installed_home) == installed


def test_every_library_is_the_prefixs_own(installed: Criu) -> None:
    prefix = installed.binary.parent.parent
    listed = subprocess.run(
        [*installed.argv[:-1], "--list", str(installed.binary)], capture_output=True, text=True, timeout=20, check=True
    )
    paths = [line.split("=> ")[1].split(" (")[0] for line in listed.stdout.splitlines() if "=>" in line]
    assert len(paths) > 5
    assert all(path.startswith(f"{prefix}/") for path in paths)


def test_a_second_setup_says_so_and_fetches_nothing(installed_home: Path, installed: Criu, run: Run) -> None:
    started = time.monotonic()
    done = run(installed_home, "setup", "--mirror", "http://127.0.0.1:1/debian")
    assert done.returncode == 0, done.stderr
    assert "already set up" in done.stdout
    assert time.monotonic() - started < 5


def test_finding_is_quick(installed_home: Path, installed: Criu) -> None:
    started = time.perf_counter()
    for _ in range(20):
        find_criu(installed_home)
    assert (time.perf_counter() - started) / 20 < 0.005


def test_the_data_folder_may_be_moved(installed_home: Path, installed: Criu, tmp_path: Path) -> None:
    moved = tmp_path / "a place with spaces"
    shutil.copytree(installed_home, moved, symlinks=True)
    found = find_criu(moved)
    assert found.binary.is_relative_to(moved)
    assert found.pycriu is not None
    assert found.pycriu.is_relative_to(moved)
    assert run_criu_check(found).passed


def test_another_kernel_is_checked_again(
    installed_home: Path, installed: Criu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = _copy(installed_home, tmp_path)
    record = home / "criu" / "current.json"
    text = json.loads(record.read_text())
    record.write_text(json.dumps(text | {"checked": {"kernel": "5.0.0 another", "passed": True}}))
    find_criu(home)
    assert json.loads(record.read_text())["checked"] == text["checked"]

    record.write_text(json.dumps(text | {"checked": {"kernel": "5.0.0 another", "passed": True}}))
    monkeypatch.setattr(criu_install, "run_criu_check", lambda *_: CheckResult(False, "no such luck"))
    with pytest.raises(HostError, match="no such luck"):
        find_criu(home)


def test_nothing_set_up_is_said(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="No usable CRIU") as caught:
        find_criu(tmp_path / "home")
    assert caught.value.hint == f"Run `snapruntime --home {tmp_path}/home setup`."


def test_the_usual_folder_needs_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAPRUNTIME_HOME", str(tmp_path / "home"))
    with pytest.raises(HostError, match="No usable CRIU") as caught:
        find_criu(tmp_path / "home")
    assert caught.value.hint == "Run `snapruntime setup`."


def test_a_damaged_record_is_as_none(tmp_path: Path) -> None:
    (tmp_path / "criu").mkdir()
    (tmp_path / "criu" / "current.json").write_text('{"format": 1, "sou')
    with pytest.raises(HostError, match="No usable CRIU"):
        find_criu(tmp_path)


# --- killed, and two at once -----------------------------------------------------------------------------------------

# What `setup` says as it begins each step, and there the test kills it.
_POINTS = ("Looking for CRIU in", "Fetching CRIU", "Unpacking", "Checking")


def test_killed_at_any_point_then_damaged_then_two_at_once(tmp_path: Path) -> None:
    """The points follow each other on one data folder: each setup meets what the one before it left.

    In the end two setups start at once, and one of the libraries has been deleted: one of the two mends that, the
    other waits for it.
    """
    home = tmp_path / "home"
    for point in _POINTS:
        _kill_at(home, point)
        complete = [name for name in names_in(home / "criu") if name[0].isdigit()]
        assert all(criu_prefix.starts(home / "criu" / name) for name in complete)
        assert _error_of_finding(home) == "No usable CRIU has been set up on this host."

    # The last one was killed after its prefix was complete.
    (prefix,) = (home / "criu" / name for name in names_in(home / "criu") if name[0].isdigit())
    next((prefix / "lib").glob("libnet.so.*")).unlink()
    assert not criu_prefix.starts(prefix)

    both = [
        subprocess.Popen(argv(home, "setup"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=100) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    told = [stdout for stdout, _ in answers]
    assert sum("already set up" in text for text in told) == 1
    assert any("Waiting for another setup" in text for text in told)
    names = names_in(home / "criu")
    assert names >= {"current.json", "lock"}
    assert len(names) == 3, "and the prefix; nothing of the killed ones"
    assert run_criu_check(find_criu(home)).passed


def _kill_at(home: Path, point: str) -> None:
    """Start `setup`, and kill it when it says that it has come to `point`."""
    with subprocess.Popen(
        argv(home, "setup"), stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(point):
                process.send_signal(signal.SIGKILL)
                break
        else:
            pytest.fail(f"setup ended without {point!r}")
        assert process.wait() == -signal.SIGKILL


def test_killed_while_apt_waits_for_a_mirror(tmp_path: Path) -> None:
    """apt waits as long as a mirror that says nothing lets it: it must not keep the lock meanwhile."""
    home = tmp_path / "home"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mirror = f"http://127.0.0.1:{silent.getsockname()[1]}/debian"
        with subprocess.Popen(argv(home, "setup", "--mirror", mirror), stdout=subprocess.DEVNULL) as process:
            silent.settimeout(30)
            with silent.accept()[0]:
                process.kill()
                process.wait()
                with (home / "criu" / "lock").open() as lock:
                    wait_until(lambda: _is_free(lock.fileno()), "nobody has the lock")


def _is_free(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# --- the system's own ------------------------------------------------------------------------------------------------


def test_the_systems_own_is_used_where_it_will_do(
    tmp_path: Path, installed: Criu, monkeypatch: pytest.MonkeyPatch
) -> None:
    _on_path(tmp_path, installed.binary, monkeypatch)
    home = tmp_path / "home"
    found = find_criu(home)
    assert (found.source, found.binary) == ("system", installed.binary)
    assert setup_criu(home, mirror="http://127.0.0.1:1", progress=lambda _: None) == found
    assert setup_criu(tmp_path / "other", mirror="http://127.0.0.1:1", progress=lambda _: None).source == "system"


def test_the_systems_own_is_passed_over_where_its_check_fails(
    tmp_path: Path, old_prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _on_path(tmp_path, old_prefix / "bin" / "criu", monkeypatch)
    assert _error_of_finding(tmp_path / "home") == "No usable CRIU has been set up on this host."
    with pytest.raises(HostError, match="No CRIU to install"):
        setup_criu(tmp_path / "home", mirror="http://127.0.0.1:1", progress=lambda _: None)


def test_without_the_privilege_the_check_waits_for_the_first_run(tmp_path: Path, installed: Criu, run: Run) -> None:
    """As in the build of a container image, where the privileges come with the container that is started from it."""
    home = tmp_path / "home"
    for _ in range(2):
        done = run(
            home,
            "setup",
            "--criu",
            str(installed.binary),
            wrap=("setpriv", "--bounding-set=-sys_admin"),
        )
        assert done.returncode == 0, done.stderr
        assert "left to the first run" in done.stdout
    done = run(home, "setup", wrap=("setpriv", "--bounding-set=-sys_admin"))
    assert "already set up" in done.stdout
    assert find_criu(home).binary == installed.binary, "and passes there"
    assert json.loads((home / "criu" / "current.json").read_text())["checked"]["passed"] is True


# --- what it must refuse ---------------------------------------------------------------------------------------------


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such file"):
        _named(tmp_path, tmp_path / "criu-nowhere")


def test_not_executable(tmp_path: Path) -> None:
    path = tmp_path / "criu"
    path.write_bytes(b"\x7fELF")
    path.chmod(0o644)
    with pytest.raises(UsageError, match="not executable"):
        _named(tmp_path, path)


def test_a_wrapper_script(tmp_path: Path) -> None:
    path = tmp_path / "criu"
    path.write_text("#!/bin/sh\necho Version: 4.2.1\n")
    path.chmod(0o755)
    with pytest.raises(UsageError, match="wrapper script"):
        _named(tmp_path, path)


def test_not_criu(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="to `--version` it answers"):
        _named(tmp_path, Path(shutil.which("true") or "/bin/true"))


def test_a_named_criu_is_taken_and_remembered(tmp_path: Path, installed: Criu, steps: list[SetupProgress]) -> None:
    home = tmp_path / "home"
    found = setup_criu(home, criu=installed.binary, progress=steps.append)
    assert (found.source, found.binary, found.pycriu) == ("path", installed.binary, installed.pycriu)
    assert find_criu(home) == found
    assert steps[-1].fraction == 1.0


def test_a_bad_one_does_not_replace_a_good_choice(tmp_path: Path, installed: Criu, old_prefix: Path) -> None:
    home = tmp_path / "home"
    good = setup_criu(home, criu=installed.binary, progress=lambda _: None)
    with pytest.raises(HostError, match="cannot work on this host"):
        setup_criu(home, criu=old_prefix / "bin" / "criu", progress=lambda _: None)
    assert find_criu(home) == good


def test_a_real_old_criu_is_judged_by_its_check(old_prefix: Path, tmp_path: Path) -> None:
    """Debian 12's 3.17.1 cannot work on Linux 6.13 or newer, and CRIU's own words must reach the user."""
    binary, start, pycriu = criu_prefix.layout(old_prefix)
    result = run_criu_check(Criu(binary, start, (3, 17, 1), pycriu, "path"))
    assert not result.passed
    with pytest.raises(HostError, match="cannot work on this host") as caught:
        _named(tmp_path, binary)
    assert result.output.split(";")[0][:30] in caught.value.message
    assert _error_of_finding(tmp_path / "home") == "No usable CRIU has been set up on this host."


def test_old_but_passing_its_check_is_taken(old_prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criu_install, "run_criu_check", lambda *_: CheckResult(True, "Looks good."))
    found = _named(tmp_path, old_prefix / "bin" / "criu")
    assert found.version == (3, 17, 1)


def test_pointer_authentication_rules_out_4_1(
    old_prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(criu_candidates, "has_pointer_authentication", lambda: True)
    with pytest.raises(HostError, match="paca"):
        _named(tmp_path, old_prefix / "bin" / "criu")
    assert criu_candidates.minimum_version() == (4, 2, 0)
    _on_path(tmp_path, old_prefix / "bin" / "criu", monkeypatch)
    assert _error_of_finding(tmp_path / "home").startswith("CRIU 3.17.1 cannot be used on this CPU")


def test_an_old_one_of_the_system_that_works_is_for_where_no_newer_is_to_be_had(
    old_prefix: Path, tmp_path: Path, installed: Criu, steps: list[SetupProgress], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Debian 12 with its own kernel."""
    _on_path(tmp_path, old_prefix / "bin" / "criu", monkeypatch)
    for module in (criu_candidates, criu_install):
        monkeypatch.setattr(module, "run_criu_check", lambda *_: CheckResult(True, "Looks good."))
    home = tmp_path / "home"
    assert setup_criu(home, mirror="http://127.0.0.1:1", progress=steps.append).version == (3, 17, 1)
    assert any("a newer one cannot be had" in step.detail for step in steps)
    (home / "criu" / "newer").symlink_to(installed.binary.parent.parent)
    monkeypatch.setattr(criu_prefix, "install", lambda *_, **__: home / "criu" / "newer")
    assert setup_criu(home, progress=steps.append).version == installed.version


def test_pointer_authentication_is_read_from_cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd paca pacg\n")
    assert not criu_candidates.has_pointer_authentication(cpuinfo) or os.uname().machine == "aarch64"
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert criu_candidates.has_pointer_authentication(cpuinfo)
    cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd\n")
    assert not criu_candidates.has_pointer_authentication(cpuinfo)


def test_no_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="no Debian system") as caught:
        setup_criu(tmp_path / "home", progress=lambda _: None)
    assert "--criu PATH" in caught.value.hint
    assert not [name for name in names_in(tmp_path / "home" / "criu") if name != "lock"]


def test_no_keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snapruntime.mechanisms.provision.debian.KEYRINGS", (tmp_path / "no.gpg",))
    with pytest.raises(HostError, match="cannot be verified"):
        setup_criu(tmp_path / "home", progress=lambda _: None)


def test_dead_mirror(tmp_path: Path, run: Run) -> None:
    done = run(tmp_path / "home", "setup", "--mirror", "http://127.0.0.1:1/debian")
    assert done.returncode != 0
    assert "HostError: No CRIU to install" in done.stderr
    assert "127.0.0.1:1" in done.stderr
    assert "--mirror URL" in done.stderr
    assert names_in(tmp_path / "home" / "criu") == {"lock"}


def test_keys_that_do_not_know_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old machine's keyring does not know a newer suite's key: that is said, and nothing unverified is taken."""
    keyring = tmp_path / "keys.gpg"
    keyring.write_bytes(b"")
    monkeypatch.setattr("snapruntime.mechanisms.provision.debian.KEYRINGS", (keyring,))
    with pytest.raises(HostError, match="No CRIU to install"):
        criu_prefix.install(tmp_path, _work(tmp_path), minimum=(4, 1, 0), progress=lambda _: None, suites=("testing",))
    assert names_in(tmp_path) == {"keys.gpg", "work"}


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(HostError, match="Too little space"):
        setup_criu(tmp_path / "home", progress=lambda _: None)


@pytest.mark.parametrize("name", ["a:b", "a;b", "a$b"])
def test_a_folder_that_the_loader_takes_for_two(tmp_path: Path, name: str) -> None:
    """CRIU in it ended with status 127 at its first start, for which another CRIU was recommended."""
    with pytest.raises(HostError, match="dynamic loader") as caught:
        setup_criu(tmp_path / name, progress=lambda _: None)
    assert "SNAPRUNTIME_HOME" in caught.value.hint


def test_a_suite_that_does_not_exist_is_passed_over(tmp_path: Path, steps: list[SetupProgress]) -> None:
    with pytest.raises(HostError, match=r"nosuchsuite: .*does not have a Release file"):
        criu_prefix.install(
            tmp_path, _work(tmp_path), minimum=(4, 1, 0), progress=steps.append, suites=("nosuchsuite",)
        )
    assert any("cannot be used" in step.detail for step in steps)


# --- helpers ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def old_prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Debian 12's CRIU, unpacked as `setup` unpacks a new one."""
    folder = tmp_path_factory.mktemp("old")
    return criu_prefix.install(folder, _work(folder), minimum=(3, 0, 0), progress=lambda _: None, suites=("bookworm",))


def _work(folder: Path) -> Path:
    work = folder / "work"
    work.mkdir()
    return work


def _on_path(tmp_path: Path, binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `binary` be the first criu on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "criu").symlink_to(binary)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def _named(tmp_path: Path, binary: Path) -> Criu:
    return setup_criu(tmp_path / "home", criu=binary, progress=lambda _: None)


def _copy(home: Path, tmp_path: Path) -> Path:
    shutil.copytree(home, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def _error_of_finding(home: Path) -> str:
    with pytest.raises(HostError) as caught:
        find_criu(home)
    return caught.value.message


def test_a_newer_one_is_preferred_where_the_kernel_is_too_new_for_it() -> None:
    assert criu_candidates.shortcoming((4, 1, 1), "6.12.48+deb13-amd64") is None
    assert "network sockets" in (criu_candidates.shortcoming((4, 1, 1), "6.16.0") or "")
    assert "network sockets" in (criu_candidates.shortcoming((3, 17, 1), "7.0.1-arch") or "")
    assert criu_candidates.shortcoming((4, 2, 0), "6.18.44") is None


def test_what_falls_short_is_replaced_or_else_kept(
    tmp_path: Path, installed: Criu, monkeypatch: pytest.MonkeyPatch, steps: list[SetupProgress]
) -> None:
    home = tmp_path / "home"
    monkeypatch.setattr(criu_install, "system_criu", lambda _: replace(installed, source="system"))
    monkeypatch.setattr(criu_install, "shortcoming", lambda version: "cannot do something")
    kept = setup_criu(home, mirror="http://127.0.0.1:1/debian", progress=steps.append)
    assert (kept.binary, kept.source) == (installed.binary, "system")
    assert any("cannot do something" in step.detail for step in steps)
    assert any("a newer one cannot be had" in step.detail for step in steps)
    better = setup_criu(home, progress=steps.append)
    assert (better.source, better.binary.is_relative_to(home)) == ("prefix", True)
