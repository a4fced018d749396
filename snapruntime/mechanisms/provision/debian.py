"""Packages from the Debian mirror that this machine is configured for, unpacked without touching the system.

apt does the work, with a configuration of its own (sources, lists, cache, and a package database that knows nothing):
it fetches, resolves dependencies and verifies Debian's signatures. The machine's network settings for apt (proxies,
certificates, credentials) still apply; what it would do to this system (hooks, pins, other sources) does not.
"""

from __future__ import annotations

import functools
import os
import re
import select
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from snapruntime.mechanisms import linux
from snapruntime.values.errors import HostError

#: Seconds for one run of apt-get; a slow line may need minutes for 20 MB. apt gives up earlier where nothing moves.
FETCH_DEADLINE_S = 900.0
QUICK_DEADLINE_S = 60.0

KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)
OTHERWISE = (
    "Install your distribution's criu, 4.1 or newer, together with its Python module pycriu (Debian, Ubuntu: criu "
    "python3-pycriu; Fedora: criu python3-criu), or name one with `snapruntime setup --criu PATH`."
)

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_RELEASES = (
    "oldoldstable",
    "oldstable",
    "stable",
    "testing",
    "unstable",
    "sid",
    "experimental",
    "buster",
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
)
_UNREACHABLE = re.compile(
    r"could not connect|unable to connect|failed to connect|connection (refused|failed|timed out|reset)"
    r"|temporary failure|could not resolve|no route|unreachable|something wicked",
    re.IGNORECASE,
)

#: Called with (what apt is fetching, fraction of the whole) while it works.
Report = Callable[[str, float], None]


class AptError(Exception):
    """apt-get failed; the text is its own error lines. `unreachable`: the mirror's other suites will not do either."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__(" | ".join(lines) or "apt-get failed without a word")
        self.unreachable = any(_UNREACHABLE.search(line) for line in lines)


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """One source of binary packages in apt's configuration, cut to what matters here."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""


@dataclass(frozen=True, slots=True)
class Package:
    """One package file that apt resolved to: `size` in bytes."""

    file_name: str
    size: int
    digest: str


# --- the machine's own sources ---------------------------------------------------------------------------------------


def parse_list(text: str) -> list[SourceEntry]:
    """Read the one-line format (sources.list(5)): `deb [options] URI SUITE COMPONENT…`."""
    entries = []
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[(?P<options>[^]]*)\]\s*)?(?P<rest>[^#]*)", line)
        words = match["rest"].split() if match else []
        if match is None or len(words) < 2:
            continue
        options = dict(word.split("=", 1) for word in (match["options"] or "").split() if "=" in word)
        entries.append(SourceEntry(words[0], words[1], tuple(words[2:]), options.get("signed-by", "")))
    return entries


def parse_sources(text: str) -> list[SourceEntry]:
    """Read the deb822 format (sources.list(5)): stanzas of `Field: value`, continued by indented lines."""
    entries = []
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1] in (" ", "\t"):
                fields[name] = f"{fields.get(name, '')}\n{line.strip()}"
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        entries += [
            SourceEntry(uri, suite, tuple(fields.get("components", "").split()), fields.get("signed-by", "").strip())
            for uri in fields.get("uris", "").split()
            for suite in fields.get("suites", "").split()
        ]
    return entries


def debian_mirrors(entries: Iterable[SourceEntry]) -> list[str]:
    """The addresses among `entries` that carry Debian itself, the likeliest first.

    Others name their suites after Debian's releases too; theirs have other keys, no `main`, or no path `…/debian`.
    """
    found: dict[str, bool] = {}
    for entry in entries:
        keys = entry.signed_by
        foreign = bool(keys) and ("debian-archive" not in keys and "BEGIN PGP" not in keys)
        scheme, _, rest = entry.uri.partition("://")
        if foreign or entry.suite not in _RELEASES or "main" not in entry.components or scheme == "cdrom" or not rest:
            continue
        uri = entry.uri.rstrip("/")
        found[uri] = found.get(uri, False) or uri.endswith("/debian")
    return sorted(found, key=lambda uri: not found[uri])


def configured_mirrors() -> list[str]:
    """The Debian mirrors in apt's own configuration of this machine. Raises HostError where there is none."""
    places = _run_quick(
        ["apt-config", "shell", "LIST", "Dir::Etc::sourcelist/f", "PARTS", "Dir::Etc::sourceparts/d"],
        what="read apt's configuration",
    )
    values = dict(word.split("=", 1) for word in shlex.split(places))
    main = Path(values.get("LIST", "/etc/apt/sources.list"))
    parts = Path(values.get("PARTS", "/etc/apt/sources.list.d"))
    entries: list[SourceEntry] = []
    for path in [main, *(sorted(parts.iterdir()) if parts.is_dir() else [])]:
        if path.is_file():
            text = path.read_text(errors="replace")
            entries += parse_sources(text) if path.suffix == ".sources" else parse_list(text)
    mirrors = debian_mirrors(entries)
    if not mirrors:
        raise HostError(
            f"apt is not configured for a Debian mirror: {main} and {parts} name no Debian release with `main`.",
            hint=f"Name a mirror with `snapruntime setup --mirror URL`. {OTHERWISE}",
        )
    return mirrors


def check_tools() -> None:
    """Raise HostError where this is no machine with apt."""
    missing = [name for name in ("apt-get", "apt-cache", "apt-config", "dpkg-deb") if shutil.which(name) is None]
    if missing:
        raise HostError(
            f"CRIU cannot be installed for you here: {', '.join(missing)} not found, so this is no Debian system.",
            hint=OTHERWISE,
        )


def archive_keyring(keyrings: Sequence[Path] = KEYRINGS) -> Path:
    """The keys that Debian signs its archive with. Raises HostError where the machine has none."""
    for path in keyrings:
        if path.is_file():
            return path
    raise HostError(
        f"Debian's packages cannot be verified here: there is no {keyrings[0]}.",
        hint=f"Install the package debian-archive-keyring (Ubuntu has it too). {OTHERWISE}",
    )


def architecture(machine: str) -> str:
    """Debian's name for `machine` (as in uname). Raises HostError for one that snapruntime does not support."""
    if machine not in _ARCHITECTURES:
        raise HostError(f"The CPU architecture {machine} is not supported.", hint="Use an x86_64 or arm64 host.")
    return _ARCHITECTURES[machine]


def _run_quick(argv: Sequence[str], *, what: str) -> str:
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=QUICK_DEADLINE_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise HostError(f"Could not {what}: {error}", hint=OTHERWISE) from error
    return done.stdout


# --- an apt of our own -----------------------------------------------------------------------------------------------

# "We have a Python interpreter and protobuf": without it apt would fetch Debian's, 14 MB that nothing here would use.
_STATUS = """\
Package: python3
Status: install ok installed
Architecture: all
Multi-Arch: allowed
Version: 99
Provides: python3-protobuf (= 99)
Maintainer: nobody
Description: the interpreter that runs snapruntime stands in for it
"""

# Hooks and pins are the machine's business with its own packages; unsigned ones are nobody's here, whatever it allows.
_CONFIGURATION = """\
#clear APT::Update;
#clear DPkg;
#clear APT::NeverAutoRemove;
#clear APT::Architectures;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Default-Release "";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Get::AllowUnauthenticated "false";
APT::Get::List-Cleanup "false";
APT::Update::Error-Mode "any";
{sandbox}
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::GzipIndexes "false";
Acquire::Languages "none";
Acquire::Retries "1";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
Dir::Etc::sourcelist "{root}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "{root}";
Dir::State::lists "{root}/lists";
Dir::State::status "{root}/status";
Dir::State::extended_states "{root}/extended_states";
Dir::Cache "{root}/cache";
Dir::Cache::archives "{root}/cache/archives";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "";
Dir::Log "{root}";
"""


class PrivateApt:
    """apt with lists, cache and package database below `root`, for one suite of one mirror.

    `keep_fds` are inherited by every child: a lock among them stays taken until the last of them has gone, even when
    this process is killed.
    """

    def __init__(
        self, root: Path, *, mirror: str, suite: str, keyring: Path, architecture: str, keep_fds: Sequence[int] = ()
    ) -> None:
        self.root = root
        self.keep_fds = tuple(keep_fds)
        for name in ("lists/partial", "cache/archives/partial"):
            (root / name).mkdir(parents=True)
        (root / "status").write_text(_STATUS)
        if mirror.startswith("file:"):  # Of such a one apt uses the packages where they lie, and downloads nothing.
            mirror = f"copy:{mirror.removeprefix('file:')}"
        (root / "sources.list").write_text(
            f"deb [arch={architecture} signed-by={keyring} target=Packages] {mirror} {suite} main\n"
        )
        # apt fetches as the user _apt, where that one can get at its directories; below /root it cannot.
        open_to_all = all(parent.stat().st_mode & 0o001 for parent in root.resolve().parents)
        sandbox = "" if open_to_all else 'APT::Sandbox::User "root";'
        (root / "apt.conf").write_text(
            _CONFIGURATION.format(architecture=architecture, root=root.resolve(), sandbox=sandbox)
        )

    def update(self, report: Report) -> None:
        """Fetch and verify the suite's index. Raises AptError."""
        self._run("apt-get", "update", report=report)

    def candidate(self, package: str) -> str | None:
        """The version of `package` that the suite has, as Debian writes it; None where it has none."""
        match = re.search(r"Candidate: (\S+)", self._run("apt-cache", "policy", package))
        return None if match is None or match[1] == "(none)" else match[1]

    def resolve(self, packages: Sequence[str]) -> list[Package]:
        """The files to fetch for `packages` and all they depend on. Raises AptError."""
        text = self._run("apt-get", "install", "--yes", "--print-uris", *packages)
        found = re.findall(r"^'[^']+' (\S+) (\d+) (\S*)$", text, re.MULTILINE)
        return [Package(name, int(size), digest) for name, size, digest in found]

    def download(self, packages: Sequence[str], report: Report) -> list[Path]:
        """Fetch and verify `packages` and all they depend on; returns the .deb files. Raises AptError."""
        self._run("apt-get", "install", "--yes", "--download-only", *packages, report=report)
        return sorted((self.root / "cache" / "archives").glob("*.deb"))

    def _run(self, tool: str, *arguments: str, report: Report | None = None) -> str:
        """Run apt with a deadline; its own progress goes to `report`. Returns what it printed, raises AptError."""
        log = self.root / "apt.log"
        read_end, write_end = os.pipe()
        argv = [tool, "-q", "-c", str(self.root / "apt.conf"), "-o", f"APT::Status-Fd={write_end}", *arguments]
        environment = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        with log.open("w+") as output, open(read_end, "rb", buffering=0) as status:
            try:
                process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    pass_fds=(write_end, *self.keep_fds),
                    start_new_session=True,
                    # Or it would keep the lock of the setup that was killed. What apt has started ends with apt.
                    preexec_fn=functools.partial(linux.die_with_parent, os.getpid()),
                )
            finally:
                os.close(write_end)
            try:
                _follow(status.fileno(), time.monotonic() + FETCH_DEADLINE_S, report)
                process.wait(QUICK_DEADLINE_S)
            except subprocess.TimeoutExpired:
                raise AptError([f"{tool} {arguments[0]} was not done after {FETCH_DEADLINE_S:.0f} s"]) from None
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, 9)
                    process.wait()
            output.seek(0)
            text = output.read()
        if process.returncode != 0:
            raise AptError(_error_lines(text) or [f"{tool} {arguments[0]} ended with status {process.returncode}"])
        return text


def _follow(fd: int, deadline: float, report: Report | None) -> None:
    """Read apt's status lines (`dlstatus:N:PERCENT:what`) until it closes the pipe."""
    rest = b""
    while True:
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise subprocess.TimeoutExpired("apt-get", FETCH_DEADLINE_S)
        chunk = os.read(fd, 65536)
        if not chunk:
            return
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            fields = line.decode(errors="replace").split(":", 3)
            if report is not None and fields[0] == "dlstatus" and len(fields) == 4:
                report(fields[3], float(fields[2]) / 100)


def _error_lines(text: str) -> list[str]:
    """apt's errors; its warnings where it has no error to name, or where they say why (a key that is not known)."""
    lines = [line.strip() for line in text.splitlines()]
    errors = [line[3:] for line in lines if line.startswith("E: ")]
    causes = [line[3:] for line in lines if line.startswith("W: ")]
    known = [line for line in causes if "NO_PUBKEY" in line or _UNREACHABLE.search(line)]
    return list(dict.fromkeys([*known, *errors] or causes))[:4]
