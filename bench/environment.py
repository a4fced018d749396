"""The interpreter of all ways: as a user has it, to whom this project is an installed package.

Installed for editing (`pip install --editable`), it leaves a .pth file that every start of that interpreter executes,
and which imports a finder of modules with half the standard library: `python -c pass` takes nearly twice as long.
Neither the bound nor a cold start shall pay for that.
"""

from __future__ import annotations

import contextlib
import os
import site
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import distributions
from pathlib import Path

#: Read before any other .pth, since those may import what it makes importable.
_FIRST = "0.pth"


@contextlib.contextmanager
def own_interpreter() -> Iterator[str]:
    """The executable to be measured, as long as it is needed."""
    # Not in the data folder, which functions do not see; nor in /tmp, where it would be one more mount in each copy.
    with tempfile.TemporaryDirectory(prefix="snapruntime-bench-", dir="/var/tmp") as folder:
        os.chmod(folder, 0o755)  # Functions are nobody's.
        yield interpreter(Path(folder, "python"))


def interpreter(folder: Path, sites: Sequence[str] | None = None) -> str:
    """The executable to be measured: ours where nothing of this project is executed at its start, else one made for it.

    That one is an environment without packages of its own, to which ours are importable, and whose .pth files are ours
    but for this project's.

    Args:
        folder: where it may be made; need not exist.
        sites: where packages are; by default where this interpreter has them.
    """
    sites = site.getsitepackages() if sites is None else sites
    own = _own(sites)
    if not own:
        return sys.executable
    venv.EnvBuilder(symlinks=True).create(folder)
    executable = str(folder / "bin" / "python")
    asked = [executable, "-I", "-c", "import site; print(site.getsitepackages()[0])"]
    target = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    (target / _FIRST).write_text("".join(f"{path}\n" for path in sites if os.path.isdir(path)), "utf-8")
    for path in sites:
        for file in sorted(Path(path).glob("*.pth")):
            if file not in own:
                (target / file.name).write_text("\n".join(_lines(file)) + "\n", "utf-8")
    return executable


def _own(sites: Iterable[str]) -> set[Path]:
    """This project's own .pth files."""
    found = (file for one in distributions(name="snapruntime", path=list(sites)) for file in one.files or ())
    return {Path(os.path.normpath(str(file.locate()))) for file in found if file.suffix == ".pth"}


def _lines(file: Path) -> Iterable[str]:
    """A .pth file's lines, with paths that mean the same from another folder."""
    for line in file.read_text("utf-8").splitlines():
        path = line.strip() and not line.startswith(("#", "import ", "import\t"))
        yield os.path.join(file.parent, line.strip()) if path else line
