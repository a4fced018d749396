"""Which machines there are, and what is done on each: data only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

#: Where the second disk is mounted on a machine, and the interpreter of the environment on the first.
PROJECT = "/project"
VENV = "/opt/venv"

#: What any machine needs beside its kernel and its init: mmdebstrap resolves dependencies, but no maintainer script
#: runs, so that nothing of another architecture has to be executed.
PACKAGES = (
    *("base-files", "base-passwd", "bash", "dash", "coreutils", "util-linux", "mount", "grep", "sed", "mawk", "tar"),
    *("findutils", "libc-bin", "procps", "kmod", "iproute2", "apt", "debian-archive-keyring", "ca-certificates"),
    *("python3", "python3-venv", "criu"),
)


@dataclass(frozen=True, slots=True)
class Image:
    """What is on a machine's first disk.

    Attributes:
        suite: Debian's name of the release.
        architecture: Debian's.
        python: the release's Python, for which wheels are fetched.
        kernels: Debian's kernel packages, each to be booted from the same disk.
        packages: further ones.
    """

    suite: str
    architecture: Literal["amd64", "arm64"]
    python: str
    kernels: tuple[str, ...]
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One command that is run on a machine, and what must come of it.

    Attributes:
        argv: the command; its folder is the project's.
        seconds: how long it may take, emulated.
        status: its exit status.
        says: a regular expression for what must be among what it prints.
        passes: how many tests must pass; as under CI, none may fail or be skipped.
    """

    name: str
    argv: tuple[str, ...]
    seconds: float
    status: int = 0
    says: str = ""
    passes: int = 0

    def document(self) -> dict[str, Any]:
        """What the machine is told."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine to boot.

    Attributes:
        kernel: which of the image's.
        cpu: QEMU's name of the processor.
        init: "systemd", or "plain": the steps and no other process.
        mirror: whether Debian's CRIU is on the second disk, for `setup` to install.
    """

    name: str
    about: str
    image: Image
    kernel: str
    cpu: str
    init: Literal["systemd", "plain"]
    steps: tuple[Step, ...]
    mirror: bool = False

    @property
    def arm(self) -> bool:
        """Whether its processor is one of Arm's."""
        return self.image.architecture == "arm64"

    @property
    def emulator(self) -> str:
        """QEMU's program for its processor."""
        return "qemu-system-aarch64" if self.arm else "qemu-system-x86_64"


_BOOKWORM = Image("bookworm", "amd64", "3.11", ("linux-image-amd64",), ("systemd-sysv",))
_TRIXIE = Image("trixie", "amd64", "3.13", ("linux-image-amd64",), ("python3-pycriu", "systemd-sysv"))
_TRIXIE_ARM = Image(
    "trixie", "arm64", "3.13", ("linux-image-cloud-arm64", "linux-image-arm64-16k"), ("python3-pycriu",)
)

# --- steps -----------------------------------------------------------------------------------------------------------

#: The report's cells are read from what this prints.
FACTS = Step(
    "facts",
    (
        *("sh", "-c"),
        """
        echo "kernel: $(uname -r) $(uname -m)"
        echo "pages: $(($(getconf PAGESIZE) / 1024)) KiB"
        echo "release: Debian $(cat /etc/debian_version), $(python3 --version)"
        echo "criu: $(criu --version | sed -n 's/Version: //p')"
        echo "init: $(cat /proc/1/comm)"
        echo "cgroups: $(findmnt -n -o FSTYPE,TARGET -t cgroup,cgroup2 | tr -s ' ' | paste -s -d ,)"
        echo "own group: $(cat /proc/self/cgroup)"
        echo "pointer authentication: $(grep -q -w paca /proc/cpuinfo && echo yes || echo no)"
        """,
    ),
    60,
    says="cgroups: cgroup2 /sys/fs/cgroup\n",
)
_SETUP = Step("setup", ("snapruntime", "setup"), 300, says="Ready: CRIU .* \\(system")
_SETUP_NEWER = Step("setup", ("snapruntime", "setup"), 900, says="Ready: CRIU (4\\.[2-9]|[5-9]).* \\(prefix")
_DOCTOR = Step("doctor", ("snapruntime", "doctor"), 300, says="This host can run snapshots")
_DOCTOR_REFUSES = Step(
    "doctor before setup", ("snapruntime", "doctor"), 300, status=3, says="CRIU 4\\.1\\.1 cannot be used on this CPU"
)
_RUN = Step(
    "run",
    ("snapruntime", "run", "tests/machines/handler.py", "-n", "3", "--concurrency", "2", "--quiet"),
    300,
    says=r'(\{"hooks": \["before", "after"\], "madvise": "EINVAL", "memory": "A"\}\s*){3}',
)
_PYTEST = ("python", "-m", "pytest", "-v", "-p", "no:cacheprovider", "--timeout=600", "--tb=short", "--durations=5")

#: What a kernel decides about: namespaces, control groups, seccomp, memory. As under CI, none may be skipped.
_SANDBOX = tuple(f"tests/sandbox/test_{name}.py" for name in ("calls", "files", "groups"))
_MEMORY = tuple(f"tests/mapped/test_{name}.py" for name in ("semantics", "wiped"))
#: Each controller, and the end of a group. Not what needs hundreds of megabytes to be written, emulated.
_GROUPS = (
    *(
        f"tests/sandbox/test_limits.py::test_{name}"
        for name in ("out_of_memory", "out_of_memory_at_init", "memory_is_measured", "processes", "resource_limits")
    ),
    "tests/sandbox/test_limits.py::test_groups_of_one_that_was_killed_are_cleared_and_of_the_living_kept",
    *(
        f"tests/sandbox/test_hostile.py::test_{name}"
        for name in ("a_fork_bomb_ends_with_its_copy", "memory_of_the_kernel_counts", "who_stops_is_ended_in_time")
    ),
    "tests/sandbox/test_hostile.py::test_more_memory_is_more_of_the_processors",
)
_KERNEL_TESTS = Step(
    "tests",
    (
        *(*_PYTEST, *_SANDBOX, *_GROUPS, "tests/sandbox/test_namespaces.py", *_MEMORY, "tests/mapped/test_filters.py"),
        *("tests/mapped/test_lean.py", "tests/runtime/test_hooks.py", "tests/runtime/test_old_criu.py"),
    ),
    3000,
    passes=120,
)
_ARM_TESTS = Step(
    "tests",
    (*_PYTEST, *_SANDBOX, *_MEMORY, "tests/sandbox/test_limits.py::test_out_of_memory"),
    3000,
    passes=60,
)

# --- machines --------------------------------------------------------------------------------------------------------

_USUAL = (FACTS, _SETUP, _DOCTOR, _RUN)

KERNELS = (
    Machine(
        "bookworm-amd64", "Debian 12", _BOOKWORM, "linux-image-amd64", "Nehalem", "systemd", (*_USUAL, _KERNEL_TESTS)
    ),
    Machine("trixie-amd64", "Debian 13", _TRIXIE, "linux-image-amd64", "Nehalem", "systemd", (*_USUAL, _KERNEL_TESTS)),
)
ARM64 = (
    Machine(
        "trixie-arm64",
        "Debian 13, without pointer authentication",
        _TRIXIE_ARM,
        "linux-image-cloud-arm64",
        "cortex-a72",
        "plain",
        (*_USUAL, _ARM_TESTS),
    ),
    Machine(
        "trixie-arm64-pac",
        "Debian 13, with pointer authentication",
        _TRIXIE_ARM,
        "linux-image-cloud-arm64",
        "max,pauth-impdef=on",  # Else most of the time goes into computing signatures as the architecture proposes.
        "plain",
        (FACTS, _DOCTOR_REFUSES, _SETUP_NEWER, _DOCTOR, _RUN, _ARM_TESTS),
        mirror=True,
    ),
    # A processor that has pages of 16 KiB, and no pointer authentication yet.
    Machine(
        "trixie-arm64-16k",
        "Debian 13, pages of 16 KiB",
        _TRIXIE_ARM,
        "linux-image-arm64-16k",
        "neoverse-n1",
        "plain",
        (*_USUAL, _ARM_TESTS),
    ),
)
