"""Where a CRIU can come from, and whether it will do: its version, its pycriu, and what `criu check` says."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from snapruntime.mechanisms.folders import unusable
from snapruntime.mechanisms.host import capabilities
from snapruntime.mechanisms.host.isolated import child_argv, run_isolated
from snapruntime.mechanisms.provision import prefix as criu_prefix
from snapruntime.mechanisms.provision.debian import OTHERWISE
from snapruntime.values.errors import HostError, UsageError
from snapruntime.values.host import (
    CRIU_KEEPS_NO_NEW_PRIVS,
    CRIU_MINIMUM,
    CRIU_MINIMUM_PAC,
    CRIU_PREFERRED,
    CheckResult,
    Criu,
    dotted,
)

#: `criu check` takes 0.1 s; CRIU without a capability it counts on can wait for ever.
CHECK_DEADLINE_S = 40.0
START_DEADLINE_S = 30.0
#: Nothing can hang in an import; but emulated, beside other work, this one has taken more than half a minute.
IMPORT_DEADLINE_S = 180.0

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def has_pointer_authentication(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this is an arm64 CPU with pointer authentication, which CRIU 4.1 cannot restore on."""
    if platform.machine() != "aarch64":
        return False
    return any(line.startswith("Features") and "paca" in line.split() for line in cpuinfo.read_text().splitlines())


def shortcoming(version: tuple[int, int, int], release: str | None = None) -> str | None:
    """What this CRIU cannot do on this kernel though it passes its check; None where there is nothing.

    Linux 6.16 answers questions for SO_PASSCRED and SO_PASSSEC of unix sockets only; CRIU before 4.2 asks all sockets
    (criu/sockets.c, dump_socket_opts) and gives up.
    """
    kernel = tuple(int(number) for number in re.findall(r"\d+", release or platform.release())[:2])
    lacks = []
    if version < CRIU_PREFERRED and kernel >= (6, 16):
        lacks.append(f"cannot save network sockets on Linux 6.16 and newer ({dotted(CRIU_PREFERRED)} can)")
    if version < CRIU_KEEPS_NO_NEW_PRIVS:
        lacks.append("brings copies back without no_new_privs, for which only their mounts (nosuid) stand in")
    return ", and ".join(lacks) or None


def minimum_version() -> tuple[int, int, int]:
    """The oldest CRIU that is accepted on this CPU."""
    return CRIU_MINIMUM_PAC if has_pointer_authentication() else CRIU_MINIMUM


def run_criu_check(criu: Criu, timeout: float = CHECK_DEADLINE_S) -> CheckResult:
    """Run `criu check` in throwaway namespaces; `timeout` in seconds. Never raises for what CRIU finds lacking."""
    try:
        code, stdout, stderr = run_isolated(child_argv("isolated", *criu.argv, "check"), timeout)
    except (TimeoutError, OSError) as error:
        return CheckResult(False, str(error))
    lines = [line.strip() for line in f"{stderr}\n{stdout}".splitlines() if line.strip()]
    errors = [re.sub(r"^(\(\d+\.\d+\) )?Error +(\([^)]*\): )?", "", line) for line in lines if "Error" in line]
    return CheckResult(code == 0, "; ".join(errors or lines)[:2000] or f"ended with status {code}")


def version_of(argv: tuple[str, ...]) -> tuple[tuple[int, int, int] | None, str]:
    """What `criu --version` says: the version; or None, and what it said instead."""
    try:
        code, stdout, stderr = run_isolated([*argv, "--version"], START_DEADLINE_S)
    except (TimeoutError, OSError) as error:
        return None, str(error)
    version = criu_prefix.parse_version(stdout) if code == 0 and "Version:" in stdout else None
    return version, (stderr or stdout).strip()[:500] or f"status {code}"


def start_trouble(criu: Criu) -> HostError | None:
    """Where not even its version is to be had, `criu` is damaged, and the kernel is not to blame."""
    version, said = version_of(criu.argv)
    return does_not_start(criu, said) if version is None else None


def does_not_start(criu: Criu, said: str) -> HostError:
    return HostError(f"{criu.describe()} does not start any more: {said}", hint="Run `snapruntime setup` again.")


def check_failed(criu: Criu, result: CheckResult) -> HostError:
    return HostError(
        f"{criu.describe()} cannot work on this host: `criu check` says: {result.output}",
        hint="`snapruntime doctor` tells what the host lacks.",
    )


def pac_trouble(version: tuple[int, int, int]) -> str:
    return (
        f"CRIU {dotted(version)} cannot be used on this CPU: it has pointer authentication (`paca`), with which "
        f"restores by CRIU older than {dotted(CRIU_MINIMUM_PAC)} hang."
    )


def is_privileged() -> bool:
    return os.geteuid() == 0 and "SYS_ADMIN" in capabilities.effective()


def prefix_criu(prefix: Path) -> Criu:
    binary, argv, pycriu = criu_prefix.layout(prefix)
    version, said = version_of(argv)
    if version is None:
        raise HostError(
            f"The CRIU in {prefix} does not start: {said}", hint="Remove that folder and run `snapruntime setup`."
        )
    return Criu(binary, argv, version, pycriu, "prefix")


def system_criu(home: Path) -> Criu | None:
    """The system's own CRIU, where it will do: new enough or passing its check, and with its pycriu."""
    found = _on_the_system()
    if found is None or _hangs_here(found[2]):
        return None
    binary, argv, version = found
    criu = Criu(binary, argv, version, _pycriu_of(home, binary), "system")
    if pycriu_trouble(criu.pycriu) is not None:
        return None
    if run_criu_check(criu).passed or (version >= CRIU_MINIMUM and not is_privileged()):
        return criu
    return None


def system_trouble() -> str | None:
    """Why the system's own CRIU must not be used, whatever its check says; None where there is no such reason."""
    found = _on_the_system()
    return pac_trouble(found[2]) if found is not None and _hangs_here(found[2]) else None


def _on_the_system() -> tuple[Path, tuple[str, ...], tuple[int, int, int]] | None:
    """The CRIU on the path: its file, how to start it, its version; None where there is none that starts."""
    found = shutil.which("criu", path=f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}")
    if found is None or not _is_elf(Path(found)):
        return None
    binary = Path(found).resolve()
    argv = criu_prefix.start_of(binary)
    version, _ = version_of(argv)
    return None if version is None else (binary, argv, version)


def _hangs_here(version: tuple[int, int, int]) -> bool:
    return version < CRIU_MINIMUM_PAC and has_pointer_authentication()


def named_criu(home: Path, path: Path) -> Criu:
    """The CRIU that the user named. Raises UsageError."""
    binary = path.expanduser().absolute()
    reason = ""
    if not binary.is_file():
        reason = "there is no such file"
    elif not os.access(binary, os.X_OK):
        reason = "it is not executable"
    elif not _is_elf(binary):
        reason = "it is not the ELF binary itself (a wrapper script loses the privileges that CRIU is started with)"
    if reason:
        raise UsageError(f"{path} cannot be used as CRIU: {reason}.", hint="Name the file that was built or installed.")
    argv = criu_prefix.start_of(binary)
    version, said = version_of(argv)
    if version is None:
        raise UsageError(f"{path} cannot be used as CRIU: to `--version` it answers: {said}", hint=OTHERWISE)
    if _hangs_here(version):
        raise HostError(pac_trouble(version), hint="Name a newer one.")
    return Criu(binary, argv, version, _pycriu_of(home, binary), "path")


def _is_elf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"\x7fELF"
    except OSError:
        return False


def _pycriu_of(home: Path, binary: Path) -> Path | None:
    """A folder with the pycriu that belongs to `binary`, and nothing else in it; None where there is no pycriu.

    Raises HostError: the data folder cannot be written.
    """
    top = binary.parent.parent
    candidates = [
        top / "python",  # a prefix
        top / "lib",  # a source tree, where the binary is criu/criu
        *sorted(top.glob("lib*/python3*/dist-packages")),
        *sorted(top.glob("lib*/python3*/site-packages")),
        *sorted(Path("/usr").glob("lib*/python3*/dist-packages")),
        *sorted(Path("/usr").glob("lib*/python3*/site-packages")),
    ]
    if (spec := importlib.util.find_spec("pycriu")) is not None and spec.origin is not None:
        candidates.append(Path(spec.origin).parent.parent)
    package = next((c / "pycriu" for c in candidates if (c / "pycriu" / "__init__.py").is_file()), None)
    if package is None:
        return None
    if {entry.name for entry in package.parent.iterdir()} <= {"pycriu", "__pycache__"}:
        return package.parent
    folder = home / "criu" / f"pycriu-{hashlib.sha256(os.fsencode(package)).hexdigest()[:12]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            (folder / "pycriu").symlink_to(package)
    except OSError as error:
        raise unusable(home, error) from error
    return folder


#: Importing is not enough: which of protobuf's functions it calls shows when an image is written and read.
_TRY_PYCRIU = """
import sys
sys.path.insert(0, sys.argv[1])
import pycriu.images, pycriu.rpc_pb2
image = {"magic": "PSTREE", "entries": [{"pid": 1, "ppid": 0, "pgid": 1, "sid": 1, "threads": [1, 2]}]}
assert pycriu.images.loads(pycriu.images.dumps(image)) == image, "an image that it wrote reads differently"
"""


def pycriu_trouble(pycriu: Path | None) -> str | None:
    """Why `pycriu` does not work with the protobuf of this interpreter; None where it does."""
    if pycriu is None:
        return "it was not found"
    try:
        code, _, stderr = run_isolated([sys.executable, "-I", "-c", _TRY_PYCRIU, str(pycriu)], IMPORT_DEADLINE_S)
    except (TimeoutError, OSError) as error:
        return str(error)
    return None if code == 0 else (stderr.strip().splitlines() or ["unknown"])[-1]
