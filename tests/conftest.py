"""What all tests share: one CRIU for the session, a runtime on it, and the rule that a skip is a failure under CI."""

from __future__ import annotations

import compileall
import os
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import Write, write_function

import snapruntime
from snapruntime import Runtime
from snapruntime.mechanisms.provision.install import find_criu, setup_criu
from snapruntime.mechanisms.store import data_home
from snapruntime.values.errors import HostError
from snapruntime.workflows.freshness import HOOKS

PACKAGE = Path(snapruntime.__file__).parent

IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")


#: What a snapshot of a function with network sockets ends with where `doctor` has said that it will.
_NO_SOCKETS = "this CRIU cannot save them on Linux 6.16 and newer"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "may_skip(why): this test may be skipped under CI too, for the reason given")
    # Started by `&` or nohup, pytest and all that it starts would ignore these: tests of them would wait for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # As pip does where it installs: workers see a read-only source tree, and would each compile it at their start anew;
    # under PYTHONDONTWRITEBYTECODE, which many a container sets, so would each command and each spawner.
    for folder in (PACKAGE, HOOKS):
        compileall.compile_dir(folder, quiet=2)
    if hasattr(config, "workerinput"):  # One of several processes, which has a /tmp of its own: see tests/boxed.
        Path(config.option.basetemp).parent.mkdir(mode=0o700, parents=True, exist_ok=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Under CI a missing capability is a failure: a green run must mean that everything was tried."""
    report = yield
    if report.failed and _NO_SOCKETS in str(report.longrepr):
        report.outcome, report.wasxfail = "skipped", "this CRIU cannot save network sockets on this kernel"
    if IN_CI and report.skipped and not hasattr(report, "wasxfail") and not item.get_closest_marker("may_skip"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def criu_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with CRIU set up, shared by all tests of the session: do not change what is in `criu/`.

    The CRIU of the user's own data folder is copied where it is good, since that needs no network.
    """
    home = tmp_path_factory.mktemp("session") / "home"
    home.mkdir(mode=0o755)
    try:
        find_criu(data_home())
        shutil.copytree(data_home() / "criu", home / "criu", symlinks=True)
        find_criu(home)
    except (HostError, OSError):
        shutil.rmtree(home / "criu", ignore_errors=True)
        setup_criu(home, progress=lambda _: None)
    return home


def copy_criu(criu_home: Path, home: Path) -> Path:
    """Give the new data folder `home` the session's CRIU."""
    home.mkdir(mode=0o755, exist_ok=True)
    shutil.copytree(criu_home / "criu", home / "criu", symlinks=True)
    return home


@pytest.fixture(scope="session")
def runtime(criu_home: Path) -> Iterator[Runtime]:
    """One runtime for the session."""
    if os.geteuid() != 0:
        pytest.skip("snapshots need root")
    with Runtime(criu_home) as runtime:
        yield runtime


@pytest.fixture(scope="session")
def code_root() -> Iterator[Path]:
    """A folder for functions' code that the unprivileged user may enter, as pytest's own may not."""
    with tempfile.TemporaryDirectory(prefix="snapruntime-tests-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def write(code_root: Path) -> Write:
    """`write(SOURCE, **options)`: a function in a folder of its own; see `support.write_function`."""

    def call(source: str, /, **options: Any) -> Any:
        return write_function(Path(tempfile.mkdtemp(dir=code_root)), source, **options)

    return call
