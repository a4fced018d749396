"""Files, devices, user, environment: what a function can read, what it can write, and as whom."""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path

import pytest
from support import Write, write_files

from snapruntime import Runtime, UsageError, resolve_function
from snapruntime.values.host import CRIU_KEEPS_NO_NEW_PRIVS

from .conftest import SOURCE, Attempt, Breaker

ROOT_ONLY = (
    "/etc/shadow",
    "/etc/gshadow",
    "/etc/ssl/private",
    "/root/.bashrc",
    "/root/.local",
    "/run/snapruntime",
    "/var/lib",
    "/boot",
    "/sys/fs",
)


def test_no_privileges(attempt: Attempt, runtime: Runtime, way: str) -> None:
    seen = attempt("identity")
    assert seen["Uid"] == seen["Gid"] == ["65534"] * 4
    assert seen["Groups"] == []
    assert {seen[name][0] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert seen["Seccomp"] == ["2"]
    # Doctor and docs/security.md name what else stands in for it: mounts are nosuid, and the bounding set is empty.
    kept = way == "cold" or runtime.criu.version >= CRIU_KEEPS_NO_NEW_PRIVS
    assert seen["NoNewPrivs"] == ["1" if kept else "0"]


def test_another_user_by_name_or_number(breaker: Breaker) -> None:
    entry = pwd.getpwnam("games")
    seen = breaker(user="games")("identity")
    assert (seen["Uid"], seen["Gid"]) == ([str(entry.pw_uid)] * 4, [str(entry.pw_gid)] * 4)
    seen = breaker(user=12345)("identity")
    assert (seen["Uid"], seen["Groups"]) == (["12345"] * 4, [])


def test_root_by_name_has_no_powers(breaker: Breaker) -> None:
    """Root without capabilities still owns the kernel's switches and the host's secrets."""
    attempt = breaker(user="root")
    seen = attempt("identity")
    assert (seen["Uid"], seen["CapEff"], seen["CapBnd"]) == (["0"] * 4, ["0" * 16], ["0" * 16])
    switches = [
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/core_pattern",
        "/proc/sysrq-trigger",
        "/proc/1/oom_score_adj",
    ]
    assert set(attempt("write", *filter(os.path.exists, switches)).values()) == {"OSError EROFS"}
    secrets = [
        path for path in ("/etc/shadow", "/etc/gshadow", "/etc/ssl/private", "/etc/sudoers.d") if os.path.exists(path)
    ]
    assert "/etc/shadow" in secrets
    assert set(attempt("look", *secrets).values()) == {"OSError EACCES"}
    assert attempt("look", "/proc/kcore")["/proc/kcore"].startswith("OSError")
    assert attempt("make_device") == "OSError EPERM"


def test_the_environment_is_what_was_given(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, first = attempt("environment")
    assert seen["GIVEN"] == "yes"
    known = {"PATH", "LANG", "TZ", "LAMBDA_TASK_ROOT", "LAMBDA_RUNTIME_DIR", "_HANDLER", "_X_AMZN_TRACE_ID", "LC_CTYPE"}
    assert {name for name in seen if not name.startswith("AWS_")} <= known | {"GIVEN"}
    assert not {line.partition("=")[0] for line in first if line} - seen.keys() - known


def test_what_is_not_shown(attempt: Attempt, criu_home: Path) -> None:
    seen = attempt("look", *ROOT_ONLY, str(criu_home), "/proc/1/root/root/.bashrc", "/proc/kcore", "/proc/self/mem")
    for path, found in seen.items():
        assert found in ("OSError ENOENT", "OSError EACCES", "OSError EIO", "OSError EPERM"), path


def test_only_tmp_can_be_written(attempt: Attempt) -> None:
    assert attempt("writable_mounts") == ["/tmp"]
    folders = ("/", "/usr", "/etc/passwd", "/var/runtime", "/dev", "/run", "/sys/devices/system/cpu")
    assert set(attempt("write", *folders).values()) <= {"OSError EROFS", "OSError EACCES"}


def test_the_least_of_devices(attempt: Attempt) -> None:
    devices = {name: found for name, found in attempt("devices").items() if found[0] != "link"}
    assert {name: tuple(found[1:]) for name, found in devices.items()} == {
        "null": (1, 3),
        "zero": (1, 5),
        "full": (1, 7),
        "random": (1, 8),
        "urandom": (1, 9),
        "tty": (5, 0),
    }
    assert attempt("make_device") == "OSError EPERM"


def test_the_kernels_switches_are_read_only(attempt: Attempt) -> None:
    switches = ("/proc/sys/kernel/ns_last_pid", "/proc/self/oom_score_adj", "/proc/self/uid_map", "/proc/sysrq-trigger")
    assert set(attempt("write", *filter(os.path.exists, switches)).values()) <= {"OSError EROFS", "OSError EACCES"}


def test_the_snapshots_are_hidden_where_their_folder_is_shown(
    criu_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A function beside the data folder, as in the home folder of whoever tries snapruntime out."""
    place = Path("/opt/snapruntime-test")
    place.mkdir()
    try:
        home = place / "data"
        home.mkdir(mode=0o755)
        (home / "criu").symlink_to(criu_home / "criu")
        write_files(place / "code", {"handler.py": SOURCE})
        for shown in ({"read_only": [str(place)]}, {"writable": [str(place)]}):
            function = resolve_function(place / "code" / "handler.py", **shown)  # type: ignore[arg-type]
            with Runtime(home) as runtime, runtime.snapshot(function) as snapshot, snapshot.restore() as copy:
                asked = {"do": "look", "with": [str(home), str(home / "snapshots"), str(place)]}
                seen = copy.invoke(asked).result
                with runtime.cold(function) as cold, cold.start() as instance:
                    assert instance.invoke(asked).result == seen
            assert seen[str(home)] == "OSError EACCES"
            assert seen[str(home / "snapshots")] in ("OSError EACCES", "OSError ENOENT")
            assert seen[str(place)] == ["code", "data"]
    finally:
        shutil.rmtree(place)


def test_showing_the_snapshots_is_refused(runtime: Runtime, write: Write, criu_home: Path) -> None:
    for shown in (criu_home, criu_home / "snapshots", criu_home.parent):
        (criu_home / "snapshots").mkdir(exist_ok=True)
        with pytest.raises(UsageError, match="would show the function the data folder"):
            runtime.snapshot(write(SOURCE, read_only=[str(shown)]))


@pytest.mark.parametrize("place", ["/", "/proc", "/proc/1", "/run", "/dev", "/sys", "/tmp", "/var/run"])
def test_a_link_to_what_the_sandbox_has_of_its_own_is_refused(
    runtime: Runtime, write: Write, code_root: Path, place: str
) -> None:
    """A bind mount shows what the link leads to: the host's processes, devices, sockets."""
    link = code_root / "link-out"
    link.unlink(missing_ok=True)
    link.symlink_to(place)
    with pytest.raises(UsageError, match=f"leads to {os.path.realpath(place)}, which cannot be shown"):
        runtime.cold(write(SOURCE, read_only=[str(link)]))


@pytest.mark.parametrize("option", ["read_only", "writable"])
def test_what_can_be_no_use_to_the_function_is_refused(
    runtime: Runtime, write: Write, code_root: Path, tmp_path: Path, option: str
) -> None:
    """What is not there; the current folder by an empty name; a folder that hides what is shown below it."""
    for path in ("", str(tmp_path / "missing")):
        with pytest.raises(UsageError, match="does not exist"):
            write(SOURCE, **{option: [path]})
    closed = code_root / "closed"
    closed.mkdir(mode=0o700, exist_ok=True)
    with pytest.raises(UsageError, match=f"{closed} cannot be read by the unprivileged user 65534"):
        runtime.snapshot(write(SOURCE, **{option: [str(closed)]}))


def test_code_in_the_data_folder_is_no_snapshot(runtime: Runtime, criu_home: Path) -> None:
    """Where published functions keep theirs."""
    folder = criu_home / "functions" / "code" / "one"
    write_files(folder, {"handler.py": SOURCE})
    try:
        with runtime.snapshot(resolve_function(folder / "handler.py")) as snapshot, snapshot.restore() as copy:
            places = [str(folder), str(criu_home), str(criu_home / "snapshots")]
            seen = copy.invoke({"do": "look", "with": places}).result
    finally:
        shutil.rmtree(folder)
    assert seen == {places[0]: ["handler.py"], places[1]: ["functions"], places[2]: "OSError ENOENT"}
