"""What is tried in containers. Each trial returns what was seen, or raises `Failed` with what is not as it should."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from containers.engine import BASE, Engine
from snapruntime.mechanisms.host.privileges import NEEDED

#: Tests for a container with the least privilege: the life of snapshots and copies, hooks, memory, the sandbox.
_LEAST_SUITE = (
    *("tests/runtime/test_life.py", "tests/runtime/test_hooks.py", "tests/runtime/test_reuse.py"),
    *("tests/mapped/test_semantics.py", "tests/mapped/test_guard.py"),
)
_BUILD_S, _SUITE_S, _BENCH_S = 300.0, 3600.0, 900.0


class Failed(Exception):
    """A trial did not hold."""


@dataclass(frozen=True, slots=True)
class Lab:
    """What trials work with.

    Attributes:
        engine: the container engine.
        root: the checkout.
        image: the image under test.
        suite: the same with what the test suite needs.
    """

    engine: Engine
    root: Path
    image: str
    suite: str

    @property
    def least(self) -> tuple[str, ...]:
        """The README's flags in place of `--privileged`."""
        words = self.readme("least")
        return tuple(words[words.index("--rm") + 1 : words.index("-v")])

    def readme(self, name: str, folder: Path | None = None) -> list[str]:
        """The words of the README's `docker run` command below the mark `container: NAME`, called in `folder`."""
        text = (self.root / "README.md").read_text()
        mark = rf"<!-- container: {name} -->\n```sh\n(?:docker build [^\n]*\n)?(docker run .*?)\n```"
        match = re.search(mark, text, re.DOTALL)
        if match is None:
            raise Failed(f"README.md has no command below <!-- container: {name} -->")
        return shlex.split(match[1].replace("\\\n", "").replace("$PWD", str(folder or self.root)))

    def start(self, name: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run that command, with the engine and the image under test in place of the README's names."""
        words = self.readme(name, folder)[2:]
        flags = {"--privileged": self.engine.privileged}
        words = [self.image if word == "snapruntime" else word for word in words]
        return self.engine("run", *self.engine.network, *(part for word in words for part in flags.get(word, (word,))))

    def run(
        self, flags: Sequence[str], *command: str, image: str = "", seconds: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the image, in a new container."""
        examples = f"{self.root}/examples/hello:/work:ro"
        return self.engine(
            "run", "--rm", *self.engine.network, "-v", examples, *flags, image or self.image, *command, seconds=seconds
        )

    def doctor(self, flags: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The answers of `doctor`, by the name of the probe."""
        done = self.run(flags, "doctor", "--json")
        try:
            return {probe["name"]: probe for probe in json.loads(done.stdout)["probes"]}
        except ValueError:
            raise Failed(f"doctor gave no JSON: {_said(done)}") from None

    def inside(self) -> str:
        """CRIU and Python of the image."""
        answers = self.doctor(self.engine.privileged)
        return f"{answers['criu']['detail']}; Python {answers['python']['detail']}; {answers['limits']['detail']}"


@dataclass(frozen=True, slots=True)
class Trial:
    name: str
    make: Callable[[Lab], str]


def _said(done: subprocess.CompletedProcess[str]) -> str:
    return f"exit code {done.returncode}: " + " | ".join((done.stderr + done.stdout).strip().splitlines()[-8:])


def _expect(condition: object, what: str) -> None:
    if not condition:
        raise Failed(what)


def _readme_command(name: str) -> Callable[[Lab], str]:
    def make(lab: Lab) -> str:
        done = lab.start(name)
        _expect(done.returncode == 0 and "Hello, " in done.stdout, _said(done))
        restored = re.search(r"RESTORE_REPORT Restore Duration: ([\d.]+ ms)", done.stderr)
        return f"{done.stdout.strip()} restored in {restored[1] if restored else '?'}"

    return make


def _doctor_agrees(flags: Callable[[Lab], Sequence[str]]) -> Callable[[Lab], str]:
    def make(lab: Lab) -> str:
        answers = lab.doctor(flags(lab))
        missing = [probe for probe in answers.values() if probe["status"] == "missing"]
        _expect(not missing, f"missing: {missing}")
        less = [f"{name}: {probe['detail']}" for name, probe in answers.items() if probe["status"] == "degraded"]
        return f"nothing missing; degraded: {'; '.join(less) or 'nothing'}"

    return make


def _another_container(flags: Callable[[Lab], Sequence[str]]) -> Callable[[Lab], str]:
    """A snapshot made in one container is used in another of the same image."""

    def make(lab: Lab) -> str:
        with _volume(lab) as volume:
            mounted = [*flags(lab), "-v", f"{volume}:/var/lib/snapruntime"]
            first = lab.run(mounted, "run", "/work/handler.py")
            _expect(first.returncode == 0 and "Making a snapshot" in first.stderr, _said(first))
            second = lab.run(mounted, "run", "/work/handler.py", "-n", "4", "--concurrency", "4", "--json")
            _expect(second.returncode == 0 and "Using snapshot" in second.stderr, _said(second))
            answers = [json.loads(line) for line in second.stdout.splitlines()]
            _expect([answer["cold"] for answer in answers] == [False] * 4, second.stdout)
        return f"4 copies at once, {min(answer['restore_ms'] for answer in answers):.1f} ms and more to restore"

    return make


@contextlib.contextmanager
def _volume(lab: Lab) -> Iterator[str]:
    name = lab.engine("volume", "create").stdout.strip()
    try:
        yield name
    finally:
        lab.engine("volume", "rm", name)


def _stops(lab: Lab) -> str:
    """`stop` sends SIGTERM to snapruntime, which is PID 1 there; it ends at once, and not by SIGKILL."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        code = "import threading\ndef handler(event, context):\n    print('waiting', flush=True)\n"
        (Path(folder) / "handler.py").write_text(code + "    threading.Event().wait()\n")
        started = lab.engine(
            "run", "--detach", *lab.engine.privileged, "-v", f"{folder}:/work:ro", lab.image,
            "run", "/work/handler.py", "--timeout", "300",
        )  # fmt: skip
        name = started.stdout.strip()
        try:
            _expect(started.returncode == 0, _said(started))
            with subprocess.Popen(
                [lab.engine.name, "logs", "--follow", name],
                env=lab.engine.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ) as logs:
                assert logs.stdout is not None
                for line in logs.stdout:
                    if line.startswith("waiting"):
                        break
                begun = time.monotonic()
                lab.engine("stop", "--time", "20", name)
                took = time.monotonic() - begun
                logs.kill()
            code = lab.engine("inspect", "--format", "{{.State.ExitCode}}", name).stdout.strip()
        finally:
            lab.engine("rm", "--force", name)
    _expect(took < 10 and code == "143", f"ended after {took:.1f} s with exit code {code}")
    return f"ended {took:.1f} s after `{lab.engine.name} stop`, with exit code {code}"


def _suite(flags: Callable[[Lab], Sequence[str]], *arguments: str) -> Callable[[Lab], str]:
    def make(lab: Lab) -> str:
        script = "/src/.ci/containers/suite.sh"
        with _volume(lab) as volume:
            # On overlayfs, as the container's root is, no file can be found by its handle, which inotify needs.
            mounts = ["-v", f"{lab.root}:/src:ro", "-v", f"{volume}:/tmp", *flags(lab)]
            done = lab.run(mounts, "sh", script, *arguments, image=lab.suite, seconds=_SUITE_S)
        (lab.root / "build/container-test/pytest.log").write_text(done.stdout + done.stderr)
        lines = done.stdout.strip().splitlines()
        failed = [line.partition(" - ")[0] for line in lines if line.startswith(("FAILED", "ERROR"))]
        _expect(done.returncode == 0, " | ".join([*lines[-1:], *failed, "see build/container-test/pytest.log"]))
        return lines[-1]

    return make


def _bench(lab: Lab) -> str:
    flags = [*lab.engine.privileged, "--workdir", "/tmp"]
    done = lab.run(flags, "snapruntime", "bench", "--quick", image=lab.suite, seconds=_BENCH_S)
    _expect(done.returncode == 0, _said(done))
    rows = [" ".join(line.split()) for line in done.stderr.splitlines() if re.search(r"\b(met|missed)\s*$", line)]
    _expect(rows, f"no target was judged: {_said(done)}")
    return "\n      ".join(rows)


def _sockets(lab: Lab) -> str:
    """A function that listens on a port: saved by the CRIU that the build chose for this kernel."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        listens = 'import socket\nlistener = socket.create_server(("127.0.0.1", 0))\n'
        (folder / "handler.py").write_text(listens + "def handler(event, context):\n    return listener.fileno()\n")
        done = lab.run([*lab.engine.privileged, "-v", f"{folder}:/mine:ro"], "run", "/mine/handler.py", "--quiet")
    _expect(done.returncode == 0 and done.stdout.strip().isdigit(), _said(done))
    return "saved and restored"


def _libraries(lab: Lab) -> str:
    """A function with a library of its own: beside it, as the README says, and in an image made from this one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "requirements.txt").write_text("six\n")
        (folder / "handler.py").write_text("import six\ndef handler(event, context):\n    return six.__file__\n")
        (folder / "Dockerfile").write_text(f"FROM {lab.image}\nRUN pip install --no-cache-dir six\n")
        own = f"{lab.image}-six"
        lab.engine.build(own, folder)
        try:
            flags = [*lab.engine.privileged, "-v", f"{folder}:/mine"]
            inside = lab.run(flags, "run", "/mine/handler.py", "--quiet", image=own)
        finally:
            lab.engine("rmi", own)
        _expect(inside.stdout.startswith('"/opt/snapruntime/'), _said(inside))
        done = lab.start("libraries", folder)
        _expect(done.returncode == 0, _said(done))
        beside = lab.run(flags, "run", "/mine/handler.py", "--quiet")
        _expect(beside.stdout.startswith('"/mine/six'), _said(beside))
    return "beside the handler, and in an image of its own"


def _workflow(commands: Callable[[Path], Sequence[str]]) -> Callable[[Lab], str]:
    """The commands of a workflow file for users, as their runner starts them, over the project that lies beside it."""

    def make(lab: Lab) -> str:
        examples = lab.root / "examples" / "continuous_integration"
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            folder.chmod(0o755)
            shutil.copytree(examples / "project", folder / "project")
            variable = (
                f"export SNAPRUNTIME=/ci/{_wheel(lab.root, folder).name}"  # As the files tell the user to set it.
            )
            flags = [*lab.engine.privileged, "-v", f"{folder}:/ci", "-w", "/ci/project"]
            script = "\n".join(["set -eu", variable, *commands(examples)])
            done = lab.run(flags, "sh", "-c", script, image=BASE, seconds=_BENCH_S)
        _expect(done.returncode == 0, _said(done))
        return done.stdout.strip().splitlines()[-1].strip("= ")

    return make


def _wheel(root: Path, folder: Path) -> Path:
    """The package as a registry would hand it out. Built from a copy: setuptools takes what an earlier build left."""
    source = folder / "source"
    shutil.copytree(root / "snapruntime", source / "snapruntime", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(root / name, source)
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(source)]
    subprocess.run(wheel, check=True, timeout=_BUILD_S)
    (built,) = folder.glob("*.whl")
    return built


def _github(examples: Path) -> list[str]:
    steps = YAML(typ="safe").load(examples / "container-github.yml")["jobs"]["test"]["steps"]
    return [step["run"] for step in steps if "run" in step]


def _gitlab(examples: Path) -> list[str]:
    job = YAML(typ="safe").load(examples / "container-gitlab.yml")["functions"]
    return [*job["before_script"], *job["script"]]


def _names_what_is_lacking(lab: Lab) -> str:
    """Each capability of the README's, taken away, is named by doctor with its flag, and `run` is refused with that."""
    for name in NEEDED:
        flags = [flag for flag in lab.least if flag != f"--cap-add={name}"]
        _expect(len(flags) == len(lab.least) - 1, f"README.md does not have --cap-add={name}")
        fix = lab.doctor(flags)["capabilities"]["fix"] or ""
        _expect(f"--cap-add={name}" in fix, f"without {name}, doctor says {fix!r}")
        done = lab.run(flags, "run", "/work/handler.py")
        _expect(done.returncode == 3 and f"--cap-add={name}" in done.stderr, f"without {name}: {_said(done)}")
    return f"{len(NEEDED)} capabilities: exit code 3 and the flag by name"


def _names_seccomp(lab: Lab) -> str:
    """The same for the engine's seccomp profile."""
    flags = [flag for flag in lab.least if "seccomp" not in flag]
    _expect(len(flags) < len(lab.least), "README.md does not have seccomp=unconfined")
    done = lab.run(flags, "run", "/work/handler.py")
    _expect(done.returncode == 3 and "--security-opt seccomp=unconfined" in done.stderr, _said(done))
    fix = lab.doctor(flags)["seccomp"]["fix"] or ""
    _expect("seccomp=unconfined" in fix, f"doctor says {fix!r}")
    return fix


def _user_namespace(lab: Lab) -> str:
    """A container whose root is none outside, as of a rootless engine: privileged, still refused, with the reason."""
    if lab.engine.name == "docker":
        return "not tried: docker has user namespaces for all containers of a daemon, or for none"
    flags = [*lab.engine.privileged, "--uidmap=0:100000:65536"]
    done = lab.run(flags, "run", "/work/handler.py")
    _expect(done.returncode == 3 and "no root outside" in done.stderr, _said(done))
    return done.stderr.strip().splitlines()[-1]


def _limits(lab: Lab) -> str:
    """With the README's flags for control groups, functions are limited under the least privilege too."""
    text = (lab.root / "README.md").read_text()
    match = re.search(r"`(--cgroupns=\S+ -v \S+)`", text)
    _expect(match, "README.md does not say how functions are limited without --privileged")
    assert match is not None
    probe = lab.doctor([*lab.least, *match[1].split()])["limits"]
    _expect(probe["status"] == "ok", f"doctor says {probe['detail']}")
    return str(probe["detail"])


def _plain(lab: Lab) -> str:
    """An ordinary container: refused at once, with the flags by name."""
    done = lab.run((), "run", "/work/handler.py")
    _expect(done.returncode == 3 and "--cap-add=SYS_ADMIN" in done.stderr, _said(done))
    return done.stderr.strip().splitlines()[-1]


TRIALS: tuple[Trial, ...] = (
    Trial("privileged: README's command", _readme_command("privileged")),
    Trial("privileged: doctor", _doctor_agrees(lambda lab: lab.engine.privileged)),
    Trial("privileged: a snapshot of one container in another", _another_container(lambda lab: lab.engine.privileged)),
    Trial("privileged: stop", _stops),
    Trial("least: README's command", _readme_command("least")),
    Trial("least: doctor", _doctor_agrees(lambda lab: lab.least)),
    Trial("least: a snapshot of one container in another", _another_container(lambda lab: lab.least)),
    Trial("least: what is lacking is named", _names_what_is_lacking),
    Trial("least: seccomp is named", _names_seccomp),
    Trial("least: limits with the host's control groups", _limits),
    Trial("privileged in a user namespace: refused, and why", _user_namespace),
    Trial("none: refused with the flags by name", _plain),
    Trial("privileged: a function that listens on a port", _sockets),
    Trial("privileged: a function with a library", _libraries),
    Trial("privileged: the workflow for GitHub Actions", _workflow(_github)),
    Trial("privileged: the workflow for GitLab", _workflow(_gitlab)),
    Trial("least: a part of the suite", _suite(lambda lab: lab.least, *_LEAST_SUITE)),
    Trial("privileged: the whole suite", _suite(lambda lab: lab.engine.privileged)),
    Trial("privileged: bench --quick", _bench),
)
