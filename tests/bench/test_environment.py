"""The interpreter that is measured: with the user's packages and .pth files, without this project's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from support import write_files

from snapruntime.bench.environment import interpreter


def asked(python: str, question: str) -> object:
    done = subprocess.run([python, "-c", f"import json, sys; print(json.dumps({question}))"], capture_output=True)
    assert done.stderr == b""
    return json.loads(done.stdout)


def test_all_but_our_own_pth_is_as_it_was(tmp_path: Path) -> None:
    packages = tmp_path / "site-packages"
    info = "snapruntime-1.0.dist-info"
    write_files(
        packages,
        {
            "__editable__.snapruntime-1.0.pth": "import sys; sys.found = 'ours'\n",
            f"{info}/METADATA": "Metadata-Version: 2.1\nName: snapruntime\nVersion: 1.0\n",
            f"{info}/RECORD": f"__editable__.snapruntime-1.0.pth,,\n{info}/RECORD,,\n",
            "a-users.pth": "import users\n# A comment.\n\nelsewhere\n",
            "users.py": "import sys\nsys.users = True\n",
            "elsewhere/far.py": "",
        },
    )
    python = interpreter(tmp_path / "python", [str(packages)])
    assert python == str(tmp_path / "python/bin/python")
    assert asked(python, "[hasattr(sys, 'found'), hasattr(sys, 'users'), sys.prefix]") == [
        False, True, str(tmp_path / "python"),
    ]  # fmt: skip
    assert asked(python, "__import__('far').__file__") == str(packages / "elsewhere/far.py")
    assert asked(python, "list(sys.version_info)") == list(sys.version_info)


def test_where_nothing_of_ours_is_executed_it_is_this_interpreter(tmp_path: Path) -> None:
    write_files(tmp_path / "site-packages", {"users.pth": "import sys\n"})
    assert interpreter(tmp_path / "python", [str(tmp_path / "site-packages")]) == sys.executable
    assert not (tmp_path / "python").exists()
