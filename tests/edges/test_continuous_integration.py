"""The workflow files that users are given, and ours: well formed, saying the same, and the project they test passes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "continuous_integration"
GITHUB = [
    *sorted((ROOT / ".github" / "workflows").iterdir()),
    EXAMPLES / "check.yml",
    EXAMPLES / "container-github.yml",
]


def read(path: Path) -> Any:
    return YAML(typ="safe").load(path)


@pytest.mark.parametrize(
    ("schema", "path"),
    [*(("github-workflows", path) for path in GITHUB), ("gitlab-ci", EXAMPLES / "container-gitlab.yml")],
    ids=lambda value: getattr(value, "name", value),
)
def test_well_formed(schema: str, path: Path) -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", str(path)]
    done = subprocess.run(check, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_both_do_the_same() -> None:
    github = read(EXAMPLES / "container-github.yml")["jobs"]["test"]
    gitlab = read(EXAMPLES / "container-gitlab.yml")["functions"]
    steps = [line for step in github["steps"] if "run" in step for line in step["run"].splitlines()]
    assert steps == [*gitlab["before_script"], *gitlab["script"]]
    assert github["container"]["image"] == gitlab["image"]
    assert github["container"]["options"] == "--privileged"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yml")), ids=lambda path: path.name)
def test_nothing_is_installed_from_where_it_is_not(path: Path) -> None:
    """No registry has snapruntime: pip is told where it is."""
    for line in path.read_text().splitlines():
        if "pip install" in line:
            assert 'pip install "$SNAPRUNTIME" pytest' in line


def test_the_project_that_they_test(criu_home: Path, code_root: Path) -> None:
    folder = code_root / "project"
    shutil.copytree(EXAMPLES / "project", folder, ignore=shutil.ignore_patterns("__pycache__"))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(folder),
        "--snapruntime-required",
    ]
    environment = {key: value for key, value in os.environ.items() if key not in ("CI", "PYTEST_ADDOPTS")}
    environment |= {"SNAPRUNTIME_HOME": str(criu_home)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout
