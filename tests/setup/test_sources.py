"""Reading apt's sources: both formats, and telling Debian's own mirrors from everything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from snapruntime.mechanisms.provision.debian import (
    SourceEntry,
    architecture,
    archive_keyring,
    configured_mirrors,
    debian_mirrors,
    parse_list,
    parse_sources,
)
from snapruntime.values.errors import HostError

DEBIAN_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"


def test_one_line_format() -> None:
    text = f"""
# deb http://commented.example.invalid/debian bookworm main
deb [arch=amd64 signed-by={DEBIAN_KEYS}] http://one.example.invalid/debian bookworm main contrib # why
deb-src http://source.example.invalid/debian bookworm main
deb http://two.example.invalid/debian/ trixie main
deb http://flat.example.invalid/repo ./
deb
"""
    assert parse_list(text) == [
        SourceEntry("http://one.example.invalid/debian", "bookworm", ("main", "contrib"), DEBIAN_KEYS),
        SourceEntry("http://two.example.invalid/debian/", "trixie", ("main",)),
        SourceEntry("http://flat.example.invalid/repo", "./", ()),
    ]


def test_deb822_format() -> None:
    text = f"""\
# the first
Types: deb deb-src
URIs: http://one.example.invalid/debian
  http://two.example.invalid/debian
Suites: bookworm bookworm-updates
# a comment inside
Components: main contrib
Signed-By: {DEBIAN_KEYS}

Types: deb
URIs: http://off.example.invalid/debian
Suites: bookworm
Components: main
Enabled: no

types: deb
uris: http://three.example.invalid/debian
suites: sid
components: main
signed-by:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBGPL0BUBEAD
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb-src
URIs: http://source.example.invalid/debian
Suites: bookworm
Components: main
"""
    found = parse_sources(text)
    assert [(entry.uri, entry.suite) for entry in found] == [
        ("http://one.example.invalid/debian", "bookworm"),
        ("http://one.example.invalid/debian", "bookworm-updates"),
        ("http://two.example.invalid/debian", "bookworm"),
        ("http://two.example.invalid/debian", "bookworm-updates"),
        ("http://three.example.invalid/debian", "sid"),
    ]
    assert found[0] == SourceEntry("http://one.example.invalid/debian", "bookworm", ("main", "contrib"), DEBIAN_KEYS)
    assert "BEGIN PGP" in found[-1].signed_by


def test_only_debians_own_mirrors_are_taken() -> None:
    entries = [
        SourceEntry("http://tools.example.invalid/apt", "bookworm", ("main",)),
        SourceEntry("http://vendor.example.invalid/debian", "bookworm", ("main",), "/etc/apt/keyrings/vendor.gpg"),
        SourceEntry("http://security.example.invalid/debian-security", "bookworm-security", ("main",), DEBIAN_KEYS),
        SourceEntry("http://engine.example.invalid/linux/debian", "bookworm", ("stable",)),
        SourceEntry("http://other.example.invalid/ubuntu", "noble", ("main",)),
        SourceEntry("cdrom:[Debian 12]/", "bookworm", ("main",)),
        SourceEntry("http://mirror.example.invalid/debian/", "bookworm", ("main", "contrib"), DEBIAN_KEYS),
        SourceEntry("http://mirror.example.invalid/debian", "bookworm-backports", ("main",), DEBIAN_KEYS),
    ]
    # The one whose path is Debian's own custom comes first; the other might be Debian, and is the last resort.
    assert debian_mirrors(entries) == ["http://mirror.example.invalid/debian", "http://tools.example.invalid/apt"]


def test_sources_are_where_apt_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "a.sources").write_text(
        "Types: deb\nURIs: http://a.example.invalid/debian\nSuites: trixie\nComponents: main\n"
    )
    (tmp_path / "main.list").write_text("deb http://b.example.invalid/debian trixie main\n")
    _use_sources(tmp_path, monkeypatch, tmp_path / "main.list", parts)
    assert configured_mirrors() == ["http://b.example.invalid/debian", "http://a.example.invalid/debian"]


def test_no_debian_mirror_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "main.list").write_text("deb http://b.example.invalid/ubuntu noble main\n")
    _use_sources(tmp_path, monkeypatch, tmp_path / "main.list", tmp_path / "none")
    with pytest.raises(HostError, match="not configured for a Debian mirror") as caught:
        configured_mirrors()
    assert "--mirror" in caught.value.hint
    assert "--criu" in caught.value.hint


def test_no_keyring_is_said(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot be verified") as caught:
        archive_keyring((tmp_path / "debian-archive-keyring.gpg",))
    assert "debian-archive-keyring" in caught.value.hint
    assert "--criu PATH" in caught.value.hint


def test_architectures() -> None:
    assert architecture("x86_64") == "amd64"
    assert architecture("aarch64") == "arm64"
    with pytest.raises(HostError, match="riscv64"):
        architecture("riscv64")


def _use_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, main: Path, parts: Path) -> None:
    # The machine's own configuration is read after APT_CONFIG, but names none of these.
    configuration = tmp_path / "apt.conf"
    configuration.write_text(f'Dir::Etc::sourcelist "{main}";\nDir::Etc::sourceparts "{parts}";\n')
    monkeypatch.setenv("APT_CONFIG", str(configuration))
