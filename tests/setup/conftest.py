"""One real installation for all tests here, from the mirror that this machine's apt is configured for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from snapruntime.mechanisms.provision import candidates
from snapruntime.mechanisms.provision.install import setup_criu
from snapruntime.values.host import Criu, SetupProgress

Run = Callable[..., subprocess.CompletedProcess[str]]

_ROOT = Path(__file__).resolve().parents[2]
#: Where distributions put it. These tests are of hosts without one, or with one that they put on PATH.
_SYSTEMS_OWN = "/usr/sbin/criu"
#: The group that the real command line has, with the two commands of these tests.
COMMAND = f"""
import sys
sys.path.insert(0, {str(_ROOT)!r})
from pathlib import Path
import click
from snapruntime.edges.doctor import doctor
from snapruntime.edges.setup import setup
from snapruntime.values.errors import SnapruntimeError
from snapruntime.mechanisms.provision import candidates
is_elf = candidates._is_elf
candidates._is_elf = lambda path: str(path) != {_SYSTEMS_OWN!r} and is_elf(path)
#BEFORE
group = click.Group("snapruntime", commands=[doctor, setup])
try:
    group(sys.argv[2:], obj=Path(sys.argv[1]), standalone_mode=True)
except SnapruntimeError as error:
    sys.exit(f"{{type(error).__name__}}: {{error}} [{{error.hint}}]")
"""


def argv(home: Path, *arguments: str, before: str = "") -> list[str]:
    """The command line that runs `snapruntime ARGUMENTS` on `home`; `before` is Python to run first."""
    return [sys.executable, "-c", COMMAND.replace("#BEFORE", before), str(home), *arguments]


@pytest.fixture(scope="session", autouse=True)
def no_system_criu() -> Iterator[None]:
    is_elf = candidates._is_elf
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "_is_elf", lambda path: str(path) != _SYSTEMS_OWN and is_elf(path))
        yield


@pytest.fixture
def run() -> Run:
    """Run `snapruntime ARGUMENTS` as a process of its own."""

    def call(
        home: Path, *arguments: str, before: str = "", wrap: tuple[str, ...] = (), env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*wrap, *argv(home, *arguments, before=before)],
            capture_output=True,
            text=True,
            timeout=100,
            env=os.environ | (env or {}),
        )

    return call


@pytest.fixture
def steps() -> list[SetupProgress]:
    """What a setup in this process has reported: pass its `append` as `progress`."""
    return []


@pytest.fixture(scope="session")
def installed_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that `setup` has installed a CRIU into. Not to be changed."""
    # pytest's own folders are closed to others, and apt fetches as a user of its own where it can.
    home = tmp_path_factory.mktemp("installed") / "home"
    setup_criu(home, progress=lambda _: None)
    return home


@pytest.fixture(scope="session")
def installed(installed_home: Path) -> Criu:
    """The CRIU in `installed_home`."""
    return setup_criu(installed_home, progress=lambda _: None)


def names_in(folder: Path) -> set[str]:
    """What lies in `folder`, hidden names too; nothing where there is no such folder."""
    return set(os.listdir(folder)) if folder.is_dir() else set()
