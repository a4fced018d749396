"""A private CRIU: installed from Debian's signed packages into a folder of its own, which appears whole or not at all.

A prefix holds bin/criu, lib/ (CRIU's shared libraries and the dynamic loader they belong to) and python/pycriu. It
needs nothing of the host but its kernel, so Debian's newest CRIU runs on an older Debian, and beside any other libc.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from snapruntime.mechanisms.host.isolated import run_isolated
from snapruntime.mechanisms.provision import debian
from snapruntime.mechanisms.provision.debian import AptError, Package, PrivateApt
from snapruntime.values.errors import HostError
from snapruntime.values.host import CRIU_PREFERRED, SetupProgress, dotted

Report = Callable[[SetupProgress], None]

#: Where to look, by names that outlive a release. `testing` first: what is in it fits together, which `unstable` does
#: not promise, and both are ahead of `stable`.
SUITES = ("testing", "unstable", "stable")
_PACKAGES = ("criu", "python3-pycriu")
#: Bytes free for apt's index and cache of it (100 MB), the packages (9 MB), what is unpacked of them (17 MB).
_SPACE_NEEDED = 200_000_000

_LOADERS = {"x86_64": "ld-linux-x86-64.so.2", "aarch64": "ld-linux-aarch64.so.1"}
_LIBRARY = re.compile(r"(usr/)?lib/[a-z0-9_]+-linux-gnu/((?:lib|ld-linux)[^/]*\.so(?:\.[0-9]+)*)")
_PYCRIU = re.compile(r"usr/lib/python3/dist-packages/(pycriu/.*\.py)")


def parse_version(text: str) -> tuple[int, int, int] | None:
    """The first `N.N[.N]` in `text`, which `criu --version` and Debian's version strings begin with."""
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return None if match is None else (int(match[1]), int(match[2]), int(match[3] or 0))


def layout(prefix: Path, machine: str | None = None) -> tuple[Path, tuple[str, ...], Path]:
    """Of a prefix: CRIU's ELF file, the command that starts it, the folder that has pycriu in it."""
    loader = _LOADERS.get(machine or platform.machine(), "ld-linux.so")
    binary, library = prefix / "bin" / "criu", prefix / "lib"
    # --inhibit-cache: a library that the prefix lacks is an error, not the host's library of that name.
    argv = (str(library / loader), "--inhibit-cache", "--library-path", str(library), str(binary))
    return binary, argv, prefix / "python"


def start_of(binary: Path) -> tuple[str, ...]:
    """How to start `binary`: as it is, or, where it lies in a prefix (of another host, say), as a prefix's."""
    prefix = binary.parent.parent
    found, argv, pycriu = layout(prefix)
    is_prefix = found == binary and Path(argv[0]).is_file() and (pycriu / "pycriu").is_dir()
    return argv if is_prefix else (str(binary),)


@dataclass(frozen=True, slots=True)
class _Step:
    """Tells of one step. `what`: shown while apt works, whose own words name files by number."""

    progress: Report
    name: str
    what: str = ""

    def __call__(self, detail: str, fraction: float | None = None) -> None:
        self.progress(SetupProgress(self.name, detail, fraction))

    def apt(self, _: str, fraction: float) -> None:
        self(self.what, fraction)


@dataclass(frozen=True, slots=True)
class Offer:
    """One suite that has a CRIU: its apt, still open, and the version as numbers and as Debian writes it."""

    apt: PrivateApt
    suite: str
    version: tuple[int, int, int]
    name: str


def install(
    folder: Path,
    work: Path,
    *,
    minimum: tuple[int, int, int],
    progress: Report,
    mirror: str | None = None,
    suites: Sequence[str] = SUITES,
    machine: str | None = None,
    keep_fds: Sequence[int] = (),
) -> Path:
    """Install the best CRIU of the mirror into a new folder below `folder`, and return that.

    Args:
        work: a new folder on the same file system, for everything until it is complete; the caller removes it.
        minimum: the oldest version to accept.
        mirror: in place of the ones in apt's configuration.
        machine: as in uname; of another one the prefix cannot be tried out.
        keep_fds: see PrivateApt.

    Raises HostError.
    """
    if any(character in str(folder) for character in ":;$"):
        raise HostError(
            f"CRIU cannot be installed in {folder}: the dynamic loader takes no path with `:`, `;` or `$` in it.",
            hint="Name another data folder with SNAPRUNTIME_HOME.",
        )
    debian.check_tools()
    keyring = debian.archive_keyring(debian.KEYRINGS)
    architecture = debian.architecture(machine or platform.machine())
    mirrors = [mirror.rstrip("/")] if mirror else debian.configured_mirrors()
    free = shutil.disk_usage(folder).free
    if free < _SPACE_NEEDED:
        raise HostError(
            f"Too little space to install CRIU: {free // 1_000_000} MB free in {folder}, "
            f"{_SPACE_NEEDED // 1_000_000} MB needed.",
            hint="Make room, or name another data folder with SNAPRUNTIME_HOME.",
        )

    def open_apt(uri: str, suite: str) -> PrivateApt:
        return PrivateApt(
            work / f"apt-{mirrors.index(uri)}-{suite}",
            mirror=uri,
            suite=suite,
            keyring=keyring,
            architecture=architecture,
            keep_fds=keep_fds,
        )

    offer = _best_offer(open_apt, mirrors, suites, minimum, progress)
    try:
        # Before Debian 13, pycriu was part of the package criu.
        wanted = [name for name in _PACKAGES if offer.apt.candidate(name) is not None]
        packages = offer.apt.resolve(wanted)
    except AptError as error:
        raise HostError(f"Debian {offer.suite} has no complete CRIU {offer.name}: {error}", hint=_HINT) from error
    prefix = folder / _prefix_name(offer.name, packages)
    if prefix.is_dir():
        if machine is not None or starts(prefix):
            return prefix
        prefix.rename(work / "damaged")  # Somebody deleted from it; the work folder goes as a whole.

    size = sum(package.size for package in packages)
    told = f"{len(packages)} packages, {size / 1e6:.1f} MB"
    fetching = _Step(progress, f"Fetching CRIU {offer.name} from Debian {offer.suite}", told)
    fetching(told, 0.0)
    try:
        archives = offer.apt.download(wanted, fetching.apt)
    except AptError as error:
        raise HostError(f"CRIU's packages could not be fetched: {error}", hint=_HINT) from error

    unpacking = _Step(progress, "Unpacking")
    new = work / "prefix"
    for number, archive in enumerate(archives):
        unpacking(archive.name.partition("_")[0], number / len(archives))
        _unpack(archive, new)
    if machine is None:
        _try_out(new)
    _fsync_tree(new)
    new.rename(prefix)
    fsync_folder(folder)
    unpacking(f"{len(archives)} packages into {prefix}", 1.0)
    return prefix


_HINT = f"Look at the network and apt's proxy settings, or name another mirror with --mirror URL. {debian.OTHERWISE}"


def _best_offer(
    open_apt: Callable[[str, str], PrivateApt],
    mirrors: Sequence[str],
    suites: Sequence[str],
    minimum: tuple[int, int, int],
    progress: Report,
) -> Offer:
    """The first suite with a CRIU that is preferred, else the best that is accepted."""
    best: Offer | None = None
    failures: list[str] = []
    for mirror in mirrors:
        for suite in suites:
            report = _Step(progress, f"Looking for CRIU in Debian {suite}", mirror)
            report(mirror)
            apt = open_apt(mirror, suite)
            try:
                apt.update(report.apt)
                name = apt.candidate("criu")
            except AptError as error:
                failures.append(f"{suite}: {error}")
                report(f"cannot be used: {error}")
                if error.unreachable:
                    break
                continue
            version = parse_version(name or "")
            if name is None or version is None or version < minimum:
                failures.append(f"{suite}: has {f'CRIU {name}' if name else 'no CRIU'}, {dotted(minimum)} is needed")
                report(f"{name}, which is too old" if name else "none", 1.0)
                continue
            report(name, 1.0)
            offer = Offer(apt, suite, version, name)
            if version >= CRIU_PREFERRED:
                return offer
            if best is None or version > best.version:
                best = offer
    if best is None:
        raise HostError(f"No CRIU to install from {', '.join(mirrors)}. " + "; ".join(failures), hint=_HINT)
    return best


def _prefix_name(version: str, packages: Sequence[Package]) -> str:
    digest = hashlib.sha256("\n".join(sorted(f"{p.file_name} {p.digest}" for p in packages)).encode())
    return f"{re.sub(r'[^0-9A-Za-z.+-]', '-', version)}-{digest.hexdigest()[:12]}"


def _unpack(archive: Path, prefix: Path) -> None:
    """Take what CRIU needs to run out of one .deb: no documentation, no configuration, no maintainer scripts."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as process:
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                for member in tar:
                    target = _place(member)
                    if target is None:
                        continue
                    path = prefix / target
                    path.parent.mkdir(parents=True, exist_ok=True)
                    if member.issym():
                        path.symlink_to(PurePosixPath(member.linkname).name)
                    elif (source := tar.extractfile(member)) is not None:
                        with source, path.open("wb") as output:
                            shutil.copyfileobj(source, output)
                        path.chmod(member.mode & 0o755)
        except (tarfile.TarError, OSError) as error:
            process.kill()
            raise HostError(f"{archive.name} could not be unpacked: {error}", hint=_HINT) from error
    if process.returncode != 0:
        raise HostError(f"dpkg-deb cannot read {archive.name} (status {process.returncode}).", hint=_HINT)


def _place(member: tarfile.TarInfo) -> str | None:
    """Where in the prefix a file of a package belongs; None: nowhere."""
    if not (member.isfile() or member.issym()):
        return None
    name = member.name.removeprefix("./")
    if name in ("usr/sbin/criu", "usr/bin/criu", "sbin/criu"):
        return "bin/criu"
    if library := _LIBRARY.fullmatch(name):
        # The loader's symlink in lib64 and links to other folders would point at themselves in this flat one.
        return None if member.issym() and PurePosixPath(member.linkname).name == library[2] else f"lib/{library[2]}"
    if module := _PYCRIU.fullmatch(name):
        return f"python/{module[1]}"
    return None


def starts(prefix: Path) -> bool:
    """Whether the CRIU in `prefix` starts, with its own libraries only."""
    try:
        _try_out(prefix)
    except HostError:
        return False
    return True


def _try_out(prefix: Path) -> None:
    """Raise HostError unless CRIU in `prefix` starts and finds every library there."""
    binary, argv, pycriu = layout(prefix)
    reason = ""
    try:
        code, stdout, stderr = run_isolated([*argv[:-1], "--list", str(binary)], debian.QUICK_DEADLINE_S)
        strangers = [
            path
            for path in re.findall(r"=> (.+?)(?: \(0x[0-9a-f]+\))?$", stdout, re.MULTILINE)
            if not path.startswith(f"{prefix}/")
        ]
        if code != 0 or strangers:
            reason = stderr.strip() or f"libraries from elsewhere or nowhere: {', '.join(strangers)}"
        elif not (pycriu / "pycriu" / "__init__.py").is_file():
            reason = "pycriu is not there"
        else:
            code, stdout, stderr = run_isolated([*argv, "--version"], debian.QUICK_DEADLINE_S)
            reason = "" if code == 0 else (stderr or stdout).strip()
    except (OSError, TimeoutError) as error:
        reason = str(error)
    if reason:
        raise HostError(f"The installed CRIU does not start: {reason}", hint=_HINT)


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` last."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # Some network and FUSE file systems refuse this, and nothing better can be done there.
            os.fsync(fd)
    finally:
        os.close(fd)


def _fsync_tree(root: Path) -> None:
    for folder, _, files in os.walk(root):
        for name in files:
            path = Path(folder, name)
            if not path.is_symlink():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        fsync_folder(Path(folder))
