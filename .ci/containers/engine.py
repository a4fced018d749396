"""Whichever container engine is there, docker or podman, made to work on this machine, and the base image for it."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from snapruntime.mechanisms.host import capabilities
from snapruntime.mechanisms.provision.debian import configured_mirrors

#: What the Dockerfile starts from, by its full name: that of an image that is here already is not looked for elsewhere.
BASE = "docker.io/library/debian:trixie-slim"
_SUITE = "trixie"
_PULL_S, _BUILD_S = 120.0, 1800.0

#: `--privileged` in single flags, for docker where root lacks CAP_SYS_RESOURCE: runc then refuses to grant it.
_ALL_BUT_RESOURCE = (
    *("--cap-add=ALL", "--cap-drop=SYS_RESOURCE", "--device-cgroup-rule=a *:* rwm"),
    *(
        "--security-opt=seccomp=unconfined",
        "--security-opt=apparmor=unconfined",
        "--security-opt=systempaths=unconfined",
    ),
)


class Unusable(Exception):
    """This machine cannot run the container tests; the text says what to install or start."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A container engine.

    Attributes:
        name: "docker" or "podman".
        version: its own and its runtime's, for the log.
        environment: of its command.
        privileged: the flags of a privileged container.
        network: the flags that let builds and containers reach the network.
    """

    name: str
    version: str
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    privileged: tuple[str, ...] = ("--privileged",)
    network: tuple[str, ...] = ()

    def __call__(
        self, *arguments: str, seconds: float = 120.0, shown: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run the engine's command; `shown`: its output goes to the terminal in place of the result."""
        return subprocess.run(
            [self.name, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr if shown else subprocess.PIPE,
            stderr=sys.stderr if shown else subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=seconds,
        )

    def build(self, tag: str, context: Path, *arguments: str) -> None:
        """Build the Dockerfile in `context`; `arguments`: NAME=VALUE, for its ARGs."""
        flags = [flag for argument in arguments for flag in ("--build-arg", argument)]
        if (
            self("build", *self.network, *flags, "--tag", tag, str(context), seconds=_BUILD_S, shown=True).returncode
            != 0
        ):
            raise SystemExit(f"The image {tag} could not be built.")

    def identity(self, image: str) -> str:
        """The ID of an image; "" where there is none of that name."""
        return self("image", "inspect", "--format", "{{.Id}}", image).stdout.strip()

    def size_mb(self, image: str) -> float:
        """The size of an image with all its layers, MB of 10**6 bytes."""
        (described,) = json.loads(self("image", "inspect", image).stdout)
        return float(described["Size"]) / 1e6


def find_engine(wanted: str | None, work: Path) -> Engine:
    """The engine that is `wanted`, or that works here; podman is installed where there is none and apt can.

    Args:
        wanted: "docker" or "podman"; None for any.
        work: a folder for configuration.

    Raises:
        Unusable: there is none.
    """
    if wanted in (None, "docker") and shutil.which("docker"):
        said = subprocess.run(
            ["docker", "version", "--format", "{{.Server.Version}}"], capture_output=True, text=True, timeout=60
        )
        if said.returncode == 0:
            return _docker(said.stdout.strip())
        if wanted:
            raise Unusable(f"docker's daemon does not answer: {said.stderr.strip()}")
    if wanted == "docker":
        raise Unusable("There is no docker command here.")
    if not shutil.which("podman"):
        _install("podman", "runc")
    return _podman(work)


def _docker(version: str) -> Engine:
    # The newer builder asks the registry for the base image even where that is here.
    environment = dict(os.environ) | {"DOCKER_BUILDKIT": "0"}
    privileged = ("--privileged",) if "SYS_RESOURCE" in capabilities.effective() else _ALL_BUT_RESOURCE
    # Started with --bridge=none, as where it may not set up packet filters, it has the host's network only.
    bridge = subprocess.run(["docker", "network", "inspect", "bridge"], capture_output=True, timeout=60)
    return Engine("docker", version, environment, privileged, () if bridge.returncode == 0 else ("--network=host",))


def _podman(work: Path) -> Engine:
    environment = dict(os.environ)
    if not Path("/run/systemd/system").exists() and "CONTAINERS_CONF" not in environment:
        # podman's defaults count on systemd and on limits that only CAP_SYS_RESOURCE may raise.
        hard = {
            name: resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))[1] for name in ("nofile", "nproc")
        }
        # podman itself goes on with less than its own hard limit of processes.
        hard["nproc"] = min(hard["nproc"], 32768) if hard["nproc"] > 0 else 32768
        ulimits = f'"nofile={min(1024, hard["nofile"])}:{hard["nofile"]}", "nproc={hard["nproc"]}:{hard["nproc"]}"'
        runtime = 'runtime = "runc"\n' if shutil.which("runc") else ""
        settings = work / "containers.conf"
        settings.write_text(
            f'[containers]\ndefault_ulimits = [{ulimits}]\nnetns = "host"\n'
            f'[engine]\n{runtime}cgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        )
        environment["CONTAINERS_CONF"] = str(settings)
    engine = Engine("podman", "", environment)
    said = engine("info", "--format", "{{.Version.Version}}, {{.Host.OCIRuntime.Name}}")
    if said.returncode != 0:
        raise Unusable(f"podman does not work here: {said.stderr.strip()}")
    return Engine("podman", said.stdout.strip(), environment)


def provide_base(engine: Engine, work: Path) -> str:
    """See to it that `BASE` is there: pulled, or made of the packages of this machine's Debian mirror.

    Returns how, for the log. Raises Unusable.
    """
    if engine.identity(BASE):
        return "here already"
    try:
        if engine("pull", BASE, seconds=_PULL_S).returncode == 0:
            return "pulled"
    except subprocess.TimeoutExpired:
        pass
    archive = work / f"{_SUITE}.tar"
    if not archive.exists():
        print(f"No registry can be reached: making {BASE} of Debian's packages ...", file=sys.stderr)
        if not shutil.which("mmdebstrap"):
            _install("mmdebstrap")
        partial = archive.with_suffix(".new.tar")
        subprocess.run(_bootstrap(partial), check=True, timeout=_BUILD_S, stdin=subprocess.DEVNULL)
        partial.rename(archive)
    done = engine("import", "--change", 'CMD ["bash"]', str(archive), BASE)
    if done.returncode != 0:
        raise Unusable(f"{engine.name} cannot import {archive}: {done.stderr.strip()}")
    return "made locally of the packages of the Debian mirror"


def _bootstrap(archive: Path) -> list[str]:
    """The command that makes what the slim image is, with the certificates that this machine's administrator added."""
    argv = ["mmdebstrap", "--variant=minbase", '--aptopt=Acquire::Languages "none"']
    asked = ["apt-config", "dump", "--format", "%v", "Acquire::Check-Valid-Until"]
    if subprocess.run(asked, capture_output=True, text=True, timeout=60).stdout.lower() in ("false", "no", "0"):
        argv.append('--aptopt=Acquire::Check-Valid-Until "false"')  # The mirror is one of an earlier day.
    argv += [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "info", "locale", "man")]
    certificates = Path("/usr/local/share/ca-certificates")
    if certificates.is_dir() and any(certificates.iterdir()):
        argv += [
            f'--customize-hook=mkdir -p "$1{certificates}"',
            f"--customize-hook=copy-in {certificates} {certificates.parent}",
        ]
    return [*argv, _SUITE, str(archive), configured_mirrors()[0]]


def _install(*packages: str) -> None:
    """Install Debian packages, or say which."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Unusable(f"Install {' and '.join(packages)} first.")
    print(f"Installing {' and '.join(packages)} ...", file=sys.stderr)
    environment = dict(os.environ) | {"DEBIAN_FRONTEND": "noninteractive"}
    quietly = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "env": environment}
    subprocess.run(["apt-get", "-qq", "update"], **quietly)  # type: ignore[call-overload]
    # Without what podman recommends: a CRIU of the system's own would change what is tested here.
    subprocess.run(
        ["apt-get", "-qq", "install", "--yes", "--no-install-recommends", *packages],
        check=True,
        **quietly,  # type: ignore[call-overload]
    )
