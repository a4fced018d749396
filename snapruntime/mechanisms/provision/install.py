"""Which CRIU this host uses: finding one, judging it, having one installed, and remembering the choice.

On disk, below the data folder:
  criu/current.json        the choice, and for which kernel `criu check` has passed; replaced as a whole
  criu/<version>-<digest>/ a private prefix (see `prefix`)
  criu/pycriu-<digest>/    a folder that shows another installation's pycriu and none of its other packages
  criu/.new-*              work of a running setup; the next one clears what a killed one left
  criu/lock                taken by a running setup, and by its children until they end with it
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from snapruntime.mechanisms.provision import prefix as criu_prefix
from snapruntime.mechanisms.provision.candidates import (
    check_failed,
    does_not_start,
    has_pointer_authentication,
    is_privileged,
    minimum_version,
    named_criu,
    pac_trouble,
    prefix_criu,
    pycriu_trouble,
    run_criu_check,
    shortcoming,
    system_criu,
    system_trouble,
    version_of,
)
from snapruntime.mechanisms.store import data_home
from snapruntime.values.errors import HostError
from snapruntime.values.host import (
    CRIU_MINIMUM,
    CRIU_MINIMUM_PAC,
    CRIU_PREFERRED,
    CheckResult,
    Criu,
    CriuSource,
    SetupProgress,
    dotted,
)

__all__ = ["chosen_criu", "find_criu", "run_criu_check", "setup_criu"]

_FORMAT = 1
Report = Callable[[SetupProgress], None]


def find_criu(home: Path) -> Criu:
    """The CRIU that was chosen for this host; in microseconds where all is as it was when it passed its check.

    Where nothing was set up, the system's own CRIU is taken if it will do. Raises HostError.
    """
    criu, record = _choice(home)
    return criu if record is None or _is_fresh(record, criu) else _judge(home, criu)


def chosen_criu(home: Path) -> Criu:
    """As `find_criu`, whether or not the chosen one works here: for `doctor`, which says why it does not."""
    return _choice(home)[0]


def _choice(home: Path) -> tuple[Criu, dict[str, Any] | None]:
    """The choice, and its record; None where there was no record and a new one was tried to be made."""
    record = _read_record(home)
    if record is None:
        criu = system_criu(home)
        if criu is None:
            trouble = system_trouble() or "No usable CRIU has been set up on this host."
            raise HostError(trouble, hint=f"Run `{setup_command(home)}`.")
        with suppress(OSError):
            _record(home, criu, run_criu_check(criu))
        return criu, None
    criu = _from_record(home, record)
    if criu is None:
        raise HostError(
            f"The CRIU that was set up is gone or damaged: {record.get('prefix') or record.get('binary')}.",
            hint=f"Run `{setup_command(home)}` again.",
        )
    return criu, record


def setup_command(home: Path) -> str:
    """The command that sets a data folder up; it names the folder where another would be meant without that."""
    return "snapruntime setup" if home == data_home() else f"snapruntime --home {shlex.quote(str(home))} setup"


def setup_criu(home: Path, *, mirror: str | None = None, criu: Path | None = None, progress: Report) -> Criu:
    """Choose a CRIU for this host, install one where none will do, and remember the choice.

    Args:
        mirror: address of a Debian mirror, in place of the one in apt's configuration.
        criu: use this one, whatever else there is.
        progress: is told of each step.

    Raises UsageError (a `criu` that is none), HostError (nothing that works here).
    """
    folder = home / "criu"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _exclusively(folder, progress) as lock:
            return _setup(home, folder, lock, mirror, criu, progress)
    except OSError as error:
        raise HostError(
            f"Setup could not write to the data folder {home}: {error}",
            hint="Run it as root, make room, or name another folder with SNAPRUNTIME_HOME.",
        ) from error


def _setup(home: Path, folder: Path, lock: int, mirror: str | None, criu: Path | None, progress: Report) -> Criu:
    _clear_leftovers(folder)
    if criu is not None:
        return _settle(home, named_criu(home, criu), progress)
    step = "Looking at what is here"
    progress(SetupProgress(step))
    standing = _standing_choice(home)
    if standing is not None and (standing.source == "path" or shortcoming(standing.version) is None):
        progress(SetupProgress(step, f"already set up: {standing.describe()}", 1.0))
        return standing
    found = standing or system_criu(home)
    if found is None:
        progress(SetupProgress(step, f"no CRIU of {dotted(minimum_version())} or newer that works here"))
        return _install(home, folder, lock, mirror, minimum_version(), progress)
    lack = shortcoming(found.version)
    if lack is None:
        return _settle(home, found, progress)
    progress(SetupProgress(step, f"{found.describe()} {lack}"))
    try:
        return _install(home, folder, lock, mirror, CRIU_PREFERRED, progress)
    except HostError as error:
        progress(SetupProgress(step, f"a newer one cannot be had: {error}"))
        return _settle(home, found, progress)


def _install(
    home: Path, folder: Path, lock: int, mirror: str | None, minimum: tuple[int, int, int], progress: Report
) -> Criu:
    """Install a private prefix, and remember it as the choice."""
    work = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
    work.chmod(0o755)  # apt fetches as a user of its own
    try:
        prefix = criu_prefix.install(folder, work, minimum=minimum, progress=progress, mirror=mirror, keep_fds=(lock,))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return _settle(home, prefix_criu(prefix), progress)


def _standing_choice(home: Path) -> Criu | None:
    """The CRIU of an earlier setup, where that still does."""
    record = _read_record(home)
    criu = _from_record(home, record) if record is not None else None
    if record is None or criu is None or version_of(criu.argv)[0] is None or pycriu_trouble(criu.pycriu) is not None:
        return None
    if _is_fresh(record, criu) and criu.version >= minimum_version():
        return criu
    with suppress(HostError):
        return _judge(home, criu)
    return criu if criu.version >= minimum_version() and not is_privileged() else None


# --- judging one -----------------------------------------------------------------------------------------------------


def _settle(home: Path, criu: Criu, progress: Report) -> Criu:
    """Check `criu`, remember it as the choice, and say so. Raises HostError where it cannot work here."""
    step = "Checking"
    progress(SetupProgress(step, criu.describe()))
    trouble = pycriu_trouble(criu.pycriu)
    if trouble is not None:
        raise HostError(
            f"{criu.describe()} has no usable Python module pycriu: {trouble}.",
            hint="Install it beside that CRIU (Debian, Ubuntu: python3-pycriu; Fedora: python3-criu), or, where that "
            "was built from source, into snapruntime's environment (pip install ./lib).",
        )
    result = run_criu_check(criu)
    refused = not result.passed and (is_privileged() or criu.version < CRIU_MINIMUM)
    if not refused or criu.source == "prefix":  # One that was named and does not work replaces no choice that does.
        _record(home, criu, result)
    if refused:
        raise check_failed(criu, result)
    if result.passed:
        progress(SetupProgress(step, f"{criu.describe()}: works on this kernel", 1.0))
    else:
        # In an image's build, say, where the privileges will come with the container that is started from it.
        told = f"{criu.describe()}: `criu check` is left to the first run, as this process lacks the privilege for it"
        progress(SetupProgress(step, told, 1.0))
    return criu


def _judge(home: Path, criu: Criu) -> Criu:
    """Look again at the recorded choice: another kernel runs, or the file was replaced, or it did not pass before."""
    version, said = version_of(criu.argv)
    if version is None:
        raise does_not_start(criu, said)
    criu = Criu(criu.binary, criu.argv, version, criu.pycriu, criu.source)
    if version < CRIU_MINIMUM_PAC and has_pointer_authentication():
        raise HostError(pac_trouble(version), hint="Run `snapruntime setup`, which installs a newer one.")
    result = run_criu_check(criu)
    with suppress(OSError):  # A data folder that is read-only costs a check on each start, no more.
        _record(home, criu, result)
    if not result.passed:
        raise check_failed(criu, result)
    return criu


# --- the record ------------------------------------------------------------------------------------------------------


def _kernel() -> str:
    """What the outcome of `criu check` depends on."""
    name = os.uname()
    return f"{name.release} {name.version} {name.machine}{' paca' if has_pointer_authentication() else ''}"


def _file_mark(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _record(home: Path, criu: Criu, result: CheckResult) -> None:
    """Remember `criu` as the choice. A prefix is named relative to the data folder, which may be moved."""
    folder = home / "criu"
    record = {
        "format": _FORMAT,
        "source": criu.source,
        "prefix": criu.binary.parent.parent.name if criu.source == "prefix" else None,
        "binary": str(criu.binary),
        "version": list(criu.version),
        "pycriu": str(criu.pycriu) if criu.pycriu else None,
        "mark": _file_mark(criu.binary),
        "checked": {"kernel": _kernel(), "passed": result.passed},
    }
    folder.mkdir(parents=True, exist_ok=True)
    fd, temporary = tempfile.mkstemp(prefix=".new-", dir=folder)
    try:
        with os.fdopen(fd, "w") as file:
            os.fchmod(fd, 0o644)  # `doctor` may ask without privileges.
            json.dump(record, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / "current.json")
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    criu_prefix.fsync_folder(folder)


def _read_record(home: Path) -> dict[str, Any] | None:
    """The record; None where there is none, or it is of another format or damaged. Raises HostError."""
    try:
        record = json.loads((home / "criu" / "current.json").read_bytes())
    except PermissionError as error:
        raise HostError(f"The data folder {home} cannot be read: {error}", hint="Run it as root.") from error
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("format") == _FORMAT else None


def _from_record(home: Path, record: dict[str, Any]) -> Criu | None:
    """The recorded CRIU; None where its files are not there any more."""
    try:
        version: tuple[int, int, int] = tuple(record["version"])
        source: CriuSource = record["source"]
        if source == "prefix":
            binary, argv, pycriu = criu_prefix.layout(home.absolute() / "criu" / record["prefix"])
        else:
            binary, pycriu = Path(record["binary"]), Path(record["pycriu"])
            argv = criu_prefix.start_of(binary)
    except (KeyError, TypeError):
        return None
    wanted = (Path(argv[0]), binary, pycriu / "pycriu" / "__init__.py")
    return Criu(binary, argv, version, pycriu, source) if all(path.is_file() for path in wanted) else None


def _is_fresh(record: dict[str, Any], criu: Criu) -> bool:
    checked = record.get("checked") or {}
    return (
        bool(checked.get("passed")) and checked.get("kernel") == _kernel() and record["mark"] == _file_mark(criu.binary)
    )


# --- one at a time ---------------------------------------------------------------------------------------------------


@contextmanager
def _exclusively(folder: Path, progress: Report) -> Iterator[int]:
    """Hold the lock that keeps two setups apart; yields its descriptor."""
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(SetupProgress("Waiting for another setup of the same data folder"))
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


def _clear_leftovers(folder: Path) -> None:
    """Remove what a setup that was killed has left; only called under the lock, so it is nobody's."""
    for path in folder.glob(".new-*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
