"""The second disk of a machine: the project as it is in the work tree, the steps, and what `setup` is to install."""

from __future__ import annotations

import json
import lzma
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from machines.catalogue import Machine
from machines.image import ROOT, Say, cache_folder, run
from snapruntime.mechanisms.provision import debian

#: How long a copy of Debian's packages serves.
_MIRROR_DAYS = 3


@contextmanager
def provide(machine: Machine, say: Say) -> Iterator[Path]:
    """The second disk of `machine`, for as long as it is needed."""
    with tempfile.TemporaryDirectory(prefix="machines-") as name:
        folder, disk = Path(name) / "tree", Path(name) / "disk"
        folder.mkdir()
        names = run("git", "ls-files", "--cached", "--others", "--exclude-standard", folder=ROOT).splitlines()
        for path in filter(lambda path: os.path.lexists(ROOT / path), names):
            (folder / "src" / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, folder / "src" / path, follow_symlinks=False)
        (folder / "steps.json").write_text(json.dumps([step.document() for step in machine.steps]))
        # The copy of Debian's index may be older than that allows.
        (folder / "apt.conf").write_text('Acquire::Check-Valid-Until "false";\n')
        if machine.mirror:
            shutil.copytree(mirror(machine.image.architecture, say), folder / "debian")
        # pytest, mypy and hypothesis write beside the sources.
        size = int(run("du", "--summarize", "--block-size=1", folder).split()[0])
        run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", folder, disk, f"{(size + 200_000_000) // 1024}k")
        yield disk


def mirror(architecture: str, say: Say) -> Path:
    """A mirror of Debian's `testing` with CRIU and what it depends on and nothing else, signed by Debian as ever."""
    folder = cache_folder() / f"mirror-{architecture}"
    if folder.is_dir() and time.time() - folder.stat().st_mtime < _MIRROR_DAYS * 24 * 3600:
        return folder
    say(f"Debian testing {architecture}: CRIU's packages")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as name:
        work = Path(name)
        origin = debian.configured_mirrors()[0]
        apt = debian.PrivateApt(
            work / "apt",
            mirror=origin,
            suite="testing",
            keyring=debian.archive_keyring(),
            architecture=architecture,
        )
        apt.update(lambda _what, _fraction: None)
        archives = apt.download(["criu", "python3-pycriu"], lambda _what, _fraction: None)
        release = work / "new" / "dists" / "testing"
        index = release / "main" / f"binary-{architecture}" / "Packages.xz"
        index.parent.mkdir(parents=True)
        shutil.copy(next((work / "apt" / "lists").glob("*_InRelease")), release / "InRelease")
        # As it is signed; apt has unpacked the one that it fetched.
        address = f"{origin}/{index.relative_to(work / 'new')}"
        run("/usr/lib/apt/apt-helper", "-c", apt.root / "apt.conf", "download-file", address, index)
        listed = lzma.decompress(index.read_bytes()).decode()
        places = dict(re.findall(r"^Filename: ((?:\S+/)(\S+))$", listed, re.MULTILINE))
        by_name = {file: place for place, file in places.items()}
        for archive in archives:
            # apt writes a version's epoch into the name, the pool does not.
            place = work / "new" / by_name[re.sub(r"_\d+%3a", "_", archive.name)]
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(archive, place)
        shutil.rmtree(folder, ignore_errors=True)
        (work / "new").rename(folder)
    return folder
