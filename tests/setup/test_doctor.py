"""`doctor` and the probes behind it, on this very host: as it is, without CRIU, without root, without capabilities."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from snapruntime.mechanisms.host import capabilities, probes
from snapruntime.mechanisms.host.container import Container, find_container
from snapruntime.mechanisms.host.facts import file_system, read_kernel_options
from snapruntime.mechanisms.host.isolated import run_isolated
from snapruntime.mechanisms.host.probes import probe_host, require_host
from snapruntime.mechanisms.host.trials import run_trials
from snapruntime.values.errors import HostError
from snapruntime.values.host import Criu, Probe

from .conftest import Run

# Becomes another user only after everything is imported, which that user need not be able to read.
_NOBODY = "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)"


def test_this_host_is_able(installed_home: Path, installed: Criu) -> None:
    answers = probe_host(installed_home)
    assert [probe for probe in answers if probe.blocks] == []
    assert len({probe.name for probe in answers}) == len(answers)
    for probe in answers:
        assert (probe.fix is None) == (probe.status == "ok"), probe


def test_table_and_exit_code(installed_home: Path, installed: Criu, run: Run) -> None:
    started = time.monotonic()
    done = run(installed_home, "doctor")
    assert time.monotonic() - started < 3
    assert done.returncode == 0, done.stdout + done.stderr
    assert "This host can run snapshots" in done.stdout
    assert "criu check" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("columns", ["40", "200"])
def test_table_fits_the_terminal(installed_home: Path, installed: Criu, run: Run, columns: str) -> None:
    done = run(installed_home, "doctor", env={"COLUMNS": columns})
    assert max(len(line) for line in done.stdout.splitlines()) <= int(columns)


def test_json(installed_home: Path, installed: Criu, run: Run) -> None:
    done = run(installed_home, "doctor", "--json")
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert document["ok"] is True
    assert document["criu"]["argv"] == list(installed.argv)
    assert document["criu"]["version"] == ".".join(map(str, installed.version))
    assert all(set(probe) == {"name", "status", "detail", "fix", "required"} for probe in document["probes"])


def test_without_criu(tmp_path: Path, run: Run) -> None:
    done = run(tmp_path / "home", "doctor", "--json")
    assert done.returncode == 3
    document = json.loads(done.stdout)
    assert document["ok"] is False
    assert document["criu"] is None
    assert _statuses(document)["criu"] == "missing"
    setup = f"Run `snapruntime --home {tmp_path}/home setup`."
    assert [_fixes(document)[name] for name in ("criu", "criu_check", "pycriu")] == [setup] * 3
    assert not (tmp_path / "home").exists(), "doctor only looks"


def test_a_criu_that_loses_something_says_what(installed_home: Path, installed: Criu) -> None:
    host = probes.gather(installed_home)
    host = dataclasses.replace(host, criu=dataclasses.replace(installed, version=(3, 17, 1)))
    (answer,) = (probe for probe in probes.judge(host) if probe.name == "criu")
    assert (answer.status, "no_new_privs" in answer.detail) == ("degraded", True)


def test_a_criu_that_does_not_start_is_set_up_again(
    installed_home: Path, installed: Criu, tmp_path: Path, run: Run
) -> None:
    home = tmp_path / "home"
    shutil.copytree(installed_home, home, symlinks=True)
    (binary,) = (home / "criu").glob("*/bin/criu")
    os.truncate(binary, 4096)
    document = json.loads(run(home, "doctor", "--json").stdout)
    assert document["ok"] is False
    for name in ("criu", "criu_check"):
        assert _statuses(document)[name] == "missing"
        assert "snapruntime setup" in _fixes(document)[name]


def test_without_root(tmp_path: Path, run: Run) -> None:
    done = run(tmp_path / "home", "doctor", "--json", before=_NOBODY)
    assert done.returncode == 3, done.stderr
    document = json.loads(done.stdout)
    assert _statuses(document)["root"] == "missing"
    assert _fixes(document)["root"] == find_container().become_root()


@pytest.mark.parametrize(
    ("capability", "blocked"),
    [
        ("setpcap", {"capabilities"}),
        ("sys_admin", {"capabilities", "namespaces", "sandbox", "run_folder", "criu_check"}),
        ("setuid", {"capabilities", "unprivileged_user"}),
        ("dac_override", {"capabilities"}),
        ("kill", {"capabilities"}),
    ],
)
def test_without_a_capability(
    installed_home: Path, installed: Criu, run: Run, capability: str, blocked: set[str]
) -> None:
    done = run(installed_home, "doctor", "--json", wrap=("setpriv", f"--bounding-set=-{capability}"))
    assert done.returncode == 3, done.stderr
    document = json.loads(done.stdout)
    missing = {probe["name"] for probe in document["probes"] if probe["required"] and probe["status"] == "missing"}
    assert missing == blocked
    assert (
        f"CAP_{capability.upper()}" in _fixes(document)["capabilities"]
        or "--cap-add" in _fixes(document)["capabilities"]
    )


#: Puts a seccomp filter that allows all on the process: BPF_RET | BPF_K, SECCOMP_RET_ALLOW.
_FILTERED = """
import ctypes, struct
code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000))
program = struct.pack("HxxxxxxQ", 1, ctypes.addressof(code))
assert ctypes.CDLL(None).prctl(22, 2, program, 0, 0) == 0
"""


def test_below_a_seccomp_filter(installed_home: Path, installed: Criu, run: Run) -> None:
    """As under an engine's default profile. The kernel lets nobody who is filtered look into others' filters."""
    done = run(installed_home, "doctor", "--json", before=_FILTERED)
    assert done.returncode == 3, done.stderr
    document = json.loads(done.stdout)
    assert _statuses(document)["seccomp"] == "missing"
    assert _statuses(document)["capabilities"] == "ok"
    assert "seccomp=unconfined" in _fixes(document)["seccomp"] or "SystemCallFilter" in _fixes(document)["seccomp"]


def test_in_a_user_namespace(installed_home: Path, installed: Criu, run: Run) -> None:
    """As in a rootless container: all capabilities are there, and CRIU still may not."""
    done = run(installed_home, "doctor", "--json", wrap=("unshare", "--user", "--map-root-user"))
    assert done.returncode == 3, done.stderr
    document = json.loads(done.stdout)
    assert _statuses(document)["user_namespace"] == "missing"
    assert "user namespace" in _fixes(document)["user_namespace"] or "userns" in _fixes(document)["user_namespace"]
    assert _statuses(document)["criu"] == "ok", "it is there; what it cannot do is in the next line"
    assert _statuses(document)["criu_check"] == "missing"
    assert "setup" not in _fixes(document)["criu_check"]


def test_a_capability_that_only_costs_something(installed_home: Path, installed: Criu, run: Run) -> None:
    done = run(installed_home, "doctor", "--json", wrap=("setpriv", "--bounding-set=-mknod"))
    assert done.returncode == 0, done.stdout
    assert _statuses(json.loads(done.stdout))["devices"] == "degraded"


_ALL = frozenset(capabilities.BITS)


def _remedies(monkeypatch: pytest.MonkeyPatch, held: frozenset[str], *failed: str) -> dict[str, str]:
    """The fixes that a container's `doctor` names where these trials fail, which takes no confinement."""
    monkeypatch.setattr(probes, "confinement", lambda: None)
    names = ("pid", "mnt", "ipc", "uts", "net", "time", "root", "run", "other_uid", "ptrace", "filter", "overlay")
    trials = dict.fromkeys((*names, "device", "memory", "cpu", "pids")) | dict.fromkeys(failed, "refused")
    host = probes.Host(Path("/"), Container("podman"), held, None, None, None, trials)
    return {probe.name: probe.fix or "" for probe in probes.judge(host)}


def test_a_capability_that_is_there_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    fixes = _remedies(monkeypatch, _ALL, "mnt", "run", "other_uid", "overlay", "device")
    for name in ("namespaces", "run_folder", "unprivileged_user", "overlay", "devices"):
        assert fixes[name].startswith("Look at what confines this process"), name


def test_the_capability_that_lacks_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    start = "Start the container with --cap-add="
    assert _remedies(monkeypatch, _ALL - {"SYS_ADMIN"}, "device")["devices"] == f"{start}SYS_ADMIN."
    assert _remedies(monkeypatch, _ALL - {"MKNOD"}, "device")["devices"] == f"{start}MKNOD."
    assert _remedies(monkeypatch, _ALL - {"DAC_OVERRIDE"}, "overlay")["overlay"] == f"{start}DAC_OVERRIDE."


def _denied(*_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def test_who_is_not_root_in_a_container_becomes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of --privileged --user 1000, no capability is left; another --cap-add gives none."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("tempfile.mkdtemp", _denied)
    fixes = _remedies(monkeypatch, frozenset(), "mnt", "pids")
    for name in ("root", "capabilities", "namespaces", "limits", "data_folder"):
        assert fixes[name] == "Start the container with --user 0.", name
    assert "runAsUser: 0" in Container("kubernetes").become_root()
    assert "sudo" in Container("").become_root()


def test_run_is_refused_with_the_first_reason(
    installed_home: Path, installed: Criu, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert require_host(installed_home) == installed
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(HostError, match="CRIU needs root") as caught:
        require_host(installed_home)
    assert caught.value.hint.startswith(find_container().become_root())
    monkeypatch.undo()
    monkeypatch.setattr("snapruntime.mechanisms.host.capabilities.effective", lambda: frozenset({"SYS_ADMIN"}))
    with pytest.raises(HostError, match="CAP_SETPCAP"):
        require_host(installed_home)
    monkeypatch.undo()
    monkeypatch.setattr("snapruntime.mechanisms.host.privileges.has_seccomp_filter", lambda: True)
    with pytest.raises(HostError, match="a filter is active"):
        require_host(installed_home)
    monkeypatch.undo()
    monkeypatch.setattr("snapruntime.mechanisms.host.privileges.has_user_namespace", lambda: True)
    with pytest.raises(HostError, match="no root outside"):
        require_host(installed_home)
    monkeypatch.undo()
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(HostError, match="riscv64"):
        require_host(installed_home)


def test_run_needs_setup_first(tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        require_host(tmp_path / "home")
    assert f"snapruntime --home {tmp_path}/home setup" in caught.value.hint


def test_requiring_is_quick(installed_home: Path, installed: Criu) -> None:
    started = time.perf_counter()
    for _ in range(20):
        require_host(installed_home)
    assert (time.perf_counter() - started) / 20 < 0.01


def test_trials_change_nothing_here() -> None:
    before = Path("/proc/self/mountinfo").read_text()
    assert set(run_trials().values()) == {None}
    assert Path("/proc/self/mountinfo").read_text() == before


def test_a_program_that_hangs_is_ended_with_its_children() -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"within 0\.5 s"):
        run_isolated(["sh", "-c", "sleep 600 & sleep 600"], 0.5)
    assert time.monotonic() - started < 5


def test_the_check_sees_a_run_folder_of_its_own(tmp_path: Path) -> None:
    """CRIU's cache lands on the tmpfs of the throwaway namespace, and never on this host's /run."""
    code, stdout, stderr = run_isolated(
        probes_child("/bin/sh", "-c", "stat -f -c %T /run; touch /run/snapruntime-test; echo $$"), 10
    )
    assert (code, stdout.split()) == (0, ["tmpfs", "1"]), stderr
    assert not Path("/run/snapruntime-test").exists()


# --- facts -----------------------------------------------------------------------------------------------------------


def test_kernel_options_of_a_stock_kernel(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / "config-6.1.0").write_text("CONFIG_PID_NS=y\nCONFIG_UNIX_DIAG=m\n# CONFIG_TUN is not set\n")
    assert read_kernel_options("6.1.0", tmp_path) == {"PID_NS": "y", "UNIX_DIAG": "m"}
    assert read_kernel_options("6.2.0", tmp_path) is None


def test_missing_kernel_options_are_named(
    installed_home: Path, installed: Criu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "read_kernel_options", lambda _: {"PID_NS": "y"})
    probe = _only(probe_host(installed_home), "kernel_options")
    assert probe.status == "degraded", "CRIU's own check passes, which counts for more"
    assert probe.fix is not None
    assert "CONFIG_CHECKPOINT_RESTORE" in probe.fix
    monkeypatch.setattr(probes, "read_kernel_options", lambda _: None)
    assert _only(probe_host(installed_home), "kernel_options").status == "ok"


def test_file_systems() -> None:
    assert file_system("/proc/self") == "proc"
    assert file_system("/dev/shm") == "tmpfs"


@pytest.mark.parametrize(
    ("path", "text", "engine"),
    [
        ("run/.containerenv", "", "podman"),
        (".dockerenv", "", "docker"),
        ("proc/1/cgroup", "0::/kubepods/besteffort/pod1\n", "kubernetes"),
        ("proc/1/cgroup", "12:memory:/docker/abc\n", "docker"),
        ("run/systemd/container", "lxc\n", "lxc"),
        ("run/systemd/container", "something-else\n", "unknown"),
        ("etc/hostname", "host\n", ""),
    ],
)
def test_containers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, text: str, engine: str) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.delenv("container", raising=False)
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(text)
    assert find_container(tmp_path) == Container(engine)


def test_a_disk_made_from_a_docker_image_is_no_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.delenv("container", raising=False)
    (tmp_path / ".dockerenv").touch()
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text("21 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n")
    assert find_container(tmp_path) == Container("")


def test_each_engine_has_its_flag() -> None:
    assert "--cap-add=SETPCAP" in Container("podman").grant("SETPCAP")
    assert "capabilities.add" in Container("kubernetes").grant("SETPCAP")
    assert "CAP_SETPCAP" in Container("systemd-nspawn").grant("SETPCAP")
    assert "lxc.cap.drop" in Container("lxc").grant("SETPCAP")
    assert "seccomp=unconfined" in (Container("docker").loosen("seccomp") or "")
    assert Container("").loosen("seccomp") is None
    assert "hostUsers" in Container("kubernetes").leave_user_namespace()
    assert "idmap" in Container("lxc").leave_user_namespace()
    assert "--private-users=no" in Container("systemd-nspawn").leave_user_namespace()
    assert "--userns=host" in Container("docker").leave_user_namespace()
    assert "unshare" in Container("").leave_user_namespace()


def probes_child(*argv: str) -> list[str]:
    """What `criu check` is started with."""
    from snapruntime.mechanisms.host.isolated import child_argv

    return child_argv("isolated", *argv)


def _statuses(document: dict[str, Any]) -> dict[str, str]:
    return {probe["name"]: probe["status"] for probe in document["probes"]}


def _fixes(document: dict[str, Any]) -> dict[str, str]:
    return {probe["name"]: probe["fix"] or "" for probe in document["probes"]}


def _only(answers: list[Probe], name: str) -> Probe:
    return next(probe for probe in answers if probe.name == name)
